"""The data folder: one service at a time, and where the sockets of its servers lie."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ytdl import errors

LONGEST_SOCKET = "pg/.s.PGSQL.5432"
SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its closing zero
# TMPDIR may be as long as the data folder; these are there on every Linux, and open to all.
SHORT_FOLDERS = (Path("/tmp"), Path("/var/tmp"))
POLL_SECONDS = 0.025


@dataclass(frozen=True)
class Claim:
    """A data folder that belongs to this process until `release()` or its death; stop the servers before."""

    folder: Path
    sockets: Path
    file: IO[str]

    def release(self) -> None:
        if self.sockets.parent != self.folder:
            shutil.rmtree(self.sockets, ignore_errors=True)
        self.file.close()


async def claim(data_dir: Path, patience_s: float = 3.0) -> Claim:
    """Make the folder if needed and lock it; waits `patience_s` for a predecessor that is ending.

    Raises `errors.Locked` when another service has it, `errors.Unavailable` when it can't be written, or when its path
    is too long for sockets and so is that of every folder for temporary files.
    """
    folder = data_dir.resolve()
    try:
        folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        file = (folder / "lock").open("a+", encoding="ascii")
    except OSError as error:
        raise errors.Unavailable(f"The data folder {folder} can't be written: {error.strerror}.") from error
    deadline = time.monotonic() + patience_s
    while not _lock(file):
        if time.monotonic() > deadline:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise errors.Locked(f"Another ytdl (process {owner}) uses the data folder {folder}.")
        await asyncio.sleep(POLL_SECONDS)
    try:
        return Claim(folder, _socket_folder(folder), file)
    except BaseException:
        file.close()
        raise


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return True


def _socket_folder(folder: Path) -> Path:
    """`run` in the data folder; or a link to a short temporary folder, as the path of a socket is limited."""
    run = folder / "run"
    if run.is_symlink():
        old = run.readlink()
        if old.name.startswith("ytdl-") and old.exists() and old.stat().st_uid == os.geteuid():
            shutil.rmtree(old, ignore_errors=True)
        run.unlink()
    if not _fits(run):
        target = _short_folder()
        shutil.rmtree(run, ignore_errors=True)
        run.symlink_to(target)
        run = target
    run.mkdir(exist_ok=True)
    run.chmod(0o711 if os.geteuid() == 0 else 0o700)  # Postgres' own user has to pass
    return run


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / LONGEST_SOCKET)) <= SOCKET_PATH_BYTES


def _short_folder() -> Path:
    """A new one of this user's own, in the first place for temporary files that is short enough and can be written."""
    for place in (Path(tempfile.gettempdir()), *SHORT_FOLDERS):
        if _fits(place / "ytdl-12345678"):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="ytdl-", dir=place))
    raise errors.Unavailable(
        "The paths of the data folder and of the folders for temporary files are too long for sockets: set DATA_DIR "
        "or TMPDIR to a shorter one."
    )
