"""Whom Postgres runs as. It refuses to run as root.

Root starts it as the owner of the database folder, at first `nobody`. Where that user could not reach the
files, it gets the one capability that passes closed folders, and none otherwise.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from ytdl import errors


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
    nobody = pwd.getpwnam("nobody")
    uid, gid = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (nobody.pw_uid, nobody.pw_gid)
    options = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    closed = _closed_to(uid, programs / "postgres") or _closed_to(uid, folder.parent)
    return Account(uid, gid, options + (_passing_options(closed) if closed else []))


def _closed_to(uid: int, path: Path) -> Path | None:
    """The first part of the path that this user, being in no group, can't pass."""
    for part in (path, *path.parents):
        status = part.stat()
        needed = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if not status.st_mode & needed:
            return part
    return None


def _passing_options(closed: Path) -> list[str]:
    """Hand on one capability that passes closed folders: the one that only reads, or else Docker's usual."""
    status = Path("/proc/self/status").read_text("ascii")
    held = int(status.split("CapEff:")[1].split()[0], 16)
    for name, bit in (("dac_read_search", 2), ("dac_override", 1)):
        if held >> bit & 1:
            return [f"--inh-caps=-all,+{name}", f"--ambient-caps=-all,+{name}"]
    raise errors.Unavailable(
        f"Postgres does not run as root, and the user nobody can't pass {closed}: open it with 'chmod o+x', "
        "choose another DATA_DIR, or set DATABASE_URL."
    )
