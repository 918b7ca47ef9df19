"""Where files live: `work/` for attempts, `media/` for what is finished. A local folder now.

Names are made of ids and fences by the caller; a user's text never becomes part of one. A finished file appears under
its name whole or not at all, and is on the disk before anyone is told of it.
"""

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

_NAME = re.compile(r"[0-9]{1,18}\.[0-9]{1,18}\.[a-z0-9]{2,5}")


def file_name(job: int, fence: int, ext: str) -> str:
    """Raises `ValueError` for an extension that is not plain."""
    name = f"{job}.{fence}.{ext}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{ext!r} is no extension for a stored file")
    return name


# A job and its fence, which together name an attempt for ever; later ones compare higher.
Attempt = tuple[int, int]


class Space(NamedTuple):
    """Of the file system, in bytes; `free` is what is left for this user."""

    total: int
    free: int


class Storage:
    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir.resolve()
        self.work = self.root / "work"
        self.media = self.root / "media"

    def open(self) -> None:
        for folder in (self.work, self.media):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Where a stored file is; raises `ValueError` for a name that is not one of ours."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no stored file's name")
        return self.media / name

    def attempt_dir(self, download: UUID, job: int, fence: int) -> Path:
        return self.work / str(download) / f"{job}.{fence}"

    async def earlier_dirs(self, download: UUID, job: int, fence: int) -> list[Path]:
        """Folders of this download's earlier attempts, the newest first."""
        found = await asyncio.to_thread(self._attempts, download)
        return [folder for attempt, folder in found if attempt < (job, fence)]

    def _attempts(self, download: UUID) -> list[tuple[Attempt, Path]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for folder in (self.work / str(download)).iterdir():
                with contextlib.suppress(ValueError):
                    job, fence = (int(part) for part in folder.name.split("."))
                    found.append(((job, fence), folder))
        return sorted(found, reverse=True)

    async def publish(self, source: Path, name: str) -> None:
        """Moves a finished file into the store; it is durable under its name when this returns."""
        await asyncio.to_thread(self._publish, source, self.path(name))

    def _publish(self, source: Path, target: Path) -> None:
        _sync(source)
        source.chmod(0o600)
        source.rename(target)
        _sync(target.parent)

    async def remove(self, *names: str) -> None:
        await asyncio.to_thread(self._unlink, [self.path(name) for name in names])

    def _unlink(self, paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    async def clear_work(self, download: UUID, newest: Attempt) -> None:
        """Removes what attempts at a download left, up to and with this one; a later one may be under way already.

        What is named like no attempt goes as well: the folder is ours, and would never be empty.
        """
        await self.clear_all([(download, newest)])

    async def clear_all(self, left: Sequence[tuple[UUID, Attempt]]) -> None:
        """As `clear_work`, for each of these."""
        await asyncio.to_thread(self._clear_all, left)

    def _clear_all(self, left: Sequence[tuple[UUID, Attempt]]) -> None:
        for download, newest in left:
            self._clear(download, newest)

    def _clear(self, download: UUID, newest: Attempt) -> None:
        folder = self.work / str(download)
        later = {path for attempt, path in self._attempts(download) if attempt > newest}
        with contextlib.suppress(FileNotFoundError):
            for path in set(folder.iterdir()) - later:
                _remove(path)
        with contextlib.suppress(OSError):
            folder.rmdir()

    async def try_writing(self) -> bool:
        """Whether a file can be written, made durable, read back and removed; raises `OSError`."""
        return await asyncio.to_thread(self._try_writing)

    def _try_writing(self) -> bool:
        content = bytes(range(256)) * 16
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return Path(file.name).read_bytes() == content

    async def free_bytes(self) -> int:
        return (await asyncio.to_thread(self._space)).free

    def _space(self) -> Space:
        found = shutil.disk_usage(self.root)
        return Space(found.total, found.free)

    async def survey(self, attempts: Sequence[tuple[UUID, int, int]]) -> tuple[list[int], Space]:
        """What each attempt's folder takes on the disk, and then the disk itself: what is written between the two looks
        then counts twice, and never not at all."""
        folders = [self.attempt_dir(*attempt) for attempt in attempts]
        return await asyncio.to_thread(lambda: ([_size(folder) for folder in folders], self._space()))

    async def work_sizes(self, downloads: Sequence[UUID]) -> list[int]:
        """What all attempts at each of these downloads take on the disk."""
        folders = [self.work / str(download) for download in downloads]
        return await asyncio.to_thread(lambda: [_size(folder) for folder in folders])

    async def at_work(self) -> dict[UUID, Attempt]:
        """Downloads that have a work folder, with the newest attempt in it."""
        return await asyncio.to_thread(self._at_work)

    def _at_work(self) -> dict[UUID, Attempt]:
        found = {}
        for folder in self.work.iterdir():
            with contextlib.suppress(ValueError):
                id = UUID(folder.name)
                if str(id) == folder.name:
                    attempts = self._attempts(id)
                    found[id] = attempts[0][0] if attempts else (0, 0)
        return found

    async def media_names(self, older_than_seconds: float) -> list[str]:
        """Files that have been in the store that long; how old their content is does not matter."""
        return await asyncio.to_thread(self._media_names, time.time() - older_than_seconds)

    def _media_names(self, before: float) -> list[str]:
        found = []
        with os.scandir(self.media) as entries:
            for entry in entries:
                # A file may be removed while we look.
                with contextlib.suppress(FileNotFoundError):
                    if _NAME.fullmatch(entry.name) and entry.stat().st_ctime < before:
                        found.append(entry.name)
        return found


def _remove(path: Path) -> None:
    """What cannot be removed now is left to the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _size(folder: Path) -> int:
    """Bytes that what is in the folder takes; a file of two names counts once, one that is just going not at all."""
    blocks: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = Path(parent, name).lstat()
                blocks[found.st_ino] = found.st_blocks
    return 512 * sum(blocks.values())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
