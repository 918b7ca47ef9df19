"""Whom Postgres runs as. It refuses to run as root.

Root starts it as the owner of the database folder, at first `nobody`. Where that user could not reach the
files, it gets the one capability that passes closed folders, and none otherwise. Whatever a tame root (of a
container, say) can't do is told before anything is made.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from ytdl import errors

NUMBERS = {
    "chown": 0,
    "dac_override": 1,
    "dac_read_search": 2,
    "fowner": 3,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
}
"""Capabilities as linux/capability.h numbers them."""
TO_ACT_FOR_ANOTHER = ("chown", "fowner", "kill", "setgid", "setuid")


@dataclass(frozen=True)
class Account:
    """Whom root runs Postgres as; `options` are for setpriv."""

    uid: int
    gid: int
    options: list[str]


def choose(folder: Path, programs: Path) -> Account | None:
    """None where Postgres simply runs as the present user."""
    owner = folder.stat() if folder.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise errors.Unavailable(f"The database in {folder} belongs to user {owner.st_uid}: start as that user.")
        return None
    held = _held()
    if lacking := [name for name in TO_ACT_FOR_ANOTHER if name not in held]:
        raise errors.Unavailable(
            f"Postgres does not run as root, and this root can't start it as another user, lacking {lacking[0]}: "
            "start ytdl as an ordinary user, or set DATABASE_URL."
        )
    nobody = pwd.getpwnam("nobody")
    uid, gid = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (nobody.pw_uid, nobody.pw_gid)
    options = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    return Account(uid, gid, options + _passing_options(uid, folder.parent, programs / "postgres", held))


def _closed_to(uid: int, path: Path) -> Path | None:
    """The first part of the path that this user, being in no group, can't pass."""
    for part in (path, *path.parents):
        status = part.stat()
        needed = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if not status.st_mode & needed:
            return part
    return None


def _passing_options(uid: int, data_dir: Path, program: Path, held: set[str]) -> list[str]:
    """Hand on one capability that passes closed folders: the one that only reads, or else Docker's usual."""
    powers = {"dac_read_search", "dac_override"} & held
    if closed := _closed_to(uid, program):
        # Before they start, initdb and postgres ask access(2) whether they can read themselves; for all but root
        # it looks past capabilities, unless this bit is set.
        bits = ["--securebits=+no_setuid_fixup"]
        powers -= {"dac_read_search"} if closed == program else set()
        powers = powers if "setpcap" in held else set()
        way_out = "install ytdl in an open folder"
    elif closed := _closed_to(uid, data_dir):
        bits, way_out = [], "choose another DATA_DIR"
    else:
        return []
    if not powers:
        raise errors.Unavailable(
            f"Postgres does not run as root, and the user nobody can't pass {closed}: open it with 'chmod o+x', "
            f"{way_out}, or set DATABASE_URL."
        )
    power = max(powers)  # dac_read_search, where it is held and enough
    return [*bits, f"--inh-caps=-all,+{power}", f"--ambient-caps=-all,+{power}"]


def _held() -> set[str]:
    """The capabilities of this process, out of those that matter here."""
    status = Path("/proc/self/status").read_text("ascii")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return {name for name, number in NUMBERS.items() if effective >> number & 1}
