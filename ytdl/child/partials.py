"""A job's own folder: its lock, the names in it, and what is taken over from earlier attempts.

Each attempt holds an exclusive lock on its folder for life, inherited by ffmpeg, so a lock that can be had
proves that the writer is dead. A note beside each partial says what it is part of; where that differs from
what the site offers now, or says too little to be sure, the partial is not used.
"""

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ytdl.child.formats import CONTENT_TYPES, Stream
from ytdl.child.values import whole

LOCK = "lock"
NOTE = ".note"
PART = ".part"
# Sites name extensions as they like; a folder of ours holds no `desktop`, `url`, `py` or `sh`.
_OF_MEDIA = {*CONTENT_TYPES, "3gp", "aac", "flv", "mka", "mov", "ogg", "ts", "weba"}


class Folder:
    """The folder of this attempt. `lock_fd` may be handed to a helper process that writes into it."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(self.path, create=True)
        if lock is None:
            raise RuntimeError("another process works in this attempt's folder")
        self.lock_fd = lock

    def adopt(self, earlier: list[str], video_id: str, stream: Stream) -> int:
        """Take over what earlier attempts fetched of this stream; the bytes that are here already."""
        name, identity = name_of(stream), identify(video_id, stream)
        if identity is None:
            return 0
        if not self._has(name):
            for folder in map(Path, earlier):
                if folder != self.path and self._take_from(folder, name, identity):
                    break
        if not self._has(name):
            self._write_note(name, identity)
        return self.size(name)

    def marks_of(self, name: str) -> dict[str, str]:
        """By what the server tells this version of a stream from others, as it came with the bytes that are here."""
        marks = (_read_note(self.path / (name + NOTE)) or {}).get("marks")
        return marks if isinstance(marks, dict) else {}

    def keep_marks(self, name: str, marks: dict[str, str]) -> None:
        """Note them, so that a later attempt goes on from the same version only."""
        note = _read_note(self.path / (name + NOTE))
        if note is not None and note.get("marks", {}) != marks:
            self._write_note(name, note | {"marks": marks})

    def _write_note(self, name: str, note: dict[str, Any]) -> None:
        fresh = self.path / (name + NOTE + ".new")
        fresh.write_text(json.dumps(note))
        fresh.replace(self.path / (name + NOTE))

    def _has(self, name: str) -> bool:
        return (self.path / name).exists() or (self.path / (name + PART)).exists()

    def size(self, name: str) -> int:
        """Bytes present of a stream, finished or partial."""
        for candidate in (self.path / name, self.path / (name + PART)):
            if candidate.exists():
                return candidate.stat().st_size
        return 0

    def _take_from(self, folder: Path, name: str, identity: dict[str, Any]) -> bool:
        lock = take_lock(folder, create=False)
        if lock is None:
            return False
        try:
            note = _read_note(folder / (name + NOTE)) or {}
            if {key: note.get(key) for key in identity} != identity:
                return False
            # What is finished is not asked for again, so the site itself must have said that it is the same.
            names = [name, name + PART] if identity["size"] or any(identity["version"]) else [name + PART]
            if not any(self._move(folder / each) for each in names if (folder / each).is_file()):
                return False
            return self._move(folder / (name + NOTE))
        finally:
            os.close(lock)

    def _move(self, source: Path) -> bool:
        source.rename(self.path / source.name)
        return True

    def drop(self, name: str) -> None:
        """Remove what is here of a stream."""
        for candidate in (name, name + PART):
            (self.path / candidate).unlink(missing_ok=True)

    def forget(self) -> None:
        """Make nothing here usable for a later attempt: what was fetched proved to be faulty."""
        for note in self.path.glob("*" + NOTE):
            note.unlink()


def take_lock(folder: Path, *, create: bool) -> int | None:
    """A descriptor that holds the folder's lock; None when its writer may live or it has no lock file."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        lock = os.open(folder / LOCK, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def name_of(stream: Stream) -> str:
    """The file name of a stream, the same in every attempt: its id, tamed, and its extension, if that is of media."""
    ext = str(stream.get("ext"))
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', str(stream['format_id']))[:60]}.{ext if ext in _OF_MEDIA else 'bin'}"


def is_one_file(stream: Stream) -> bool:
    """Whether a stream lies behind one address, and not in pieces behind many."""
    return stream.get("protocol", "https") in ("https", "http") and not stream.get("fragments")


def identify(video_id: str, stream: Stream) -> dict[str, Any] | None:
    """What makes two fetches of a stream the same bytes, as far as the site says; None for one in pieces."""
    query = parse_qs(urlsplit(stream.get("url", "")).query)
    if not is_one_file(stream):
        return None
    return {
        "video": video_id,
        "format": stream["format_id"],
        "ext": stream.get("ext"),
        "size": whole(stream.get("filesize")),
        "version": [query.get(key, [""])[0] for key in ("clen", "lmt", "etag")],
    }


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return note if isinstance(note, dict) else None
