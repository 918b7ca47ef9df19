"""Making the asked-for file from the fetched streams: a link, a copy into another container, or a run of ffmpeg.

ffmpeg encodes sound and nothing else. It sees local files only, gets a closed argument list, holds the folder's lock,
and reports how far it is. Its own words are kept for classification and never shown.
"""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ytdl.child import remux
from ytdl.child.errors import Refused, by_text, clean
from ytdl.child.formats import Choice
from ytdl.child.frames import Setup
from ytdl.child.partials import Folder, name_of
from ytdl.child.values import whole

_MUXERS = {
    "mp4": "mp4",
    "webm": "webm",
    "mkv": "matroska",
    "mp3": "mp3",
    "m4a": "ipod",
    "opus": "opus",
    "flac": "flac",
    "wav": "wav",
}
_ENCODERS = {
    "mp3": ["libmp3lame", "-q:a", "2"],
    "m4a": ["aac", "-b:a", "160k"],
    "opus": ["libopus", "-b:a", "128k"],
    "flac": ["flac"],
    "wav": ["pcm_s16le"],
}
_COPIES = {"m4a": ("mp4a", "aac"), "opus": ("opus",), "mp3": ("mp3",), "flac": ("flac",)}
# Bytes a second of two channels that each may come to at most.
_RATES = {"mp3": 40_000, "m4a": 24_000, "opus": 24_000, "flac": 192_000, "wav": 192_000}
# How much larger sound can become that was fetched at 128 kbit/s.
_GROWTH = 12
_LAST_WORDS = 20


def estimate(choice: Choice, tags: bool, expected: int, duration: float | None) -> int:
    """Bytes that `make` may add to the folder, where the streams take `expected`."""
    if choice.copy and not tags:
        return 0
    if not choice.audio_only or _is_copied(choice):
        return expected
    if not duration:
        return _GROWTH * expected
    pairs = max(whole(choice.streams[0].get("audio_channels")) or 2, 2) / 2
    return int(_RATES[choice.ext] * pairs * duration)


def make(
    choice: Choice,
    folder: Folder,
    setup: Setup,
    info: dict[str, Any],
    tags: bool,
    report: Callable[[float], None],
) -> Path:
    """Path of the file that was asked for. `report` gets the finished fraction, 0..1.

    The fetched streams stay beside it, so that an attempt that dies now does not fetch them again.
    """
    product = folder.path / f"out.{choice.ext}"
    product.unlink(missing_ok=True)
    sources = [folder.path / name_of(stream) for stream in choice.streams]
    if choice.copy and not tags:
        os.link(sources[0], product)
        return product
    fields = _tags(info) if tags else {}
    if choice.audio_only and not _is_copied(choice):
        _run([*_inputs(setup, sources[0]), *_outputs(choice, fields), f"file:{product.name}"], folder, info, report)
    else:
        remux.join(sources, _kinds(choice), product, _MUXERS[choice.ext], fields, report)
    return product


def _kinds(choice: Choice) -> list[list[str]]:
    if choice.audio_only:
        return [["audio"]]
    return [["video"], ["audio"]] if len(choice.streams) == 2 else [["video", "audio"]]


def _is_copied(choice: Choice) -> bool:
    codec = str(choice.streams[0].get("acodec") or "").lower()
    return codec.startswith(_COPIES.get(choice.ext, ()))


def _inputs(setup: Setup, source: Path) -> list[str]:
    if not setup.ffmpeg:
        raise Refused("ffmpeg_missing", "ffmpeg is needed to make this format.")
    quiet = ["-nostdin", "-hide_banner", "-loglevel", "error", "-progress", "pipe:1", "-y"]
    closed = ["-protocol_whitelist", "file,pipe", "-format_whitelist", remux.FORMATS]
    return [setup.ffmpeg, *quiet, *closed, "-i", f"file:{source.name}"]


def _outputs(choice: Choice, tags: dict[str, str]) -> list[str]:
    extra = ["-movflags", "+faststart"] if choice.ext == "m4a" else []
    codecs = ["-map", "0:a:0", "-vn", "-c:a", *_ENCODERS[choice.ext], "-threads", "1"]
    pairs = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    return [*codecs, *extra, "-map_metadata", "-1", *pairs, "-f", _MUXERS[choice.ext]]


def _tags(info: dict[str, Any]) -> dict[str, str]:
    fields = {
        "title": info.get("title"),
        "artist": info.get("uploader") or info.get("channel"),
        "date": info.get("upload_date"),
        "comment": info.get("webpage_url"),
    }
    return {key: str(value).replace("\0", "") for key, value in fields.items() if value}


def _run(arguments: list[str], folder: Folder, info: dict[str, Any], report: Callable[[float], None]) -> None:
    process = subprocess.Popen(
        arguments,
        cwd=folder.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[folder.lock_fd],
    )
    with process:
        words = _follow(process.stdout, info.get("duration"), report)
    if process.returncode != 0:
        raise _explain(process.returncode, words)


def _follow(output: IO[bytes] | None, duration: float | None, report: Callable[[float], None]) -> list[str]:
    words: deque[str] = deque(maxlen=_LAST_WORDS)
    for line in iter(lambda: output.readline(4096) if output else b"", b""):
        text = line.decode(errors="replace").strip()
        key, _, value = text.partition("=")
        if key == "out_time_us" and value.isdigit() and duration:
            report(int(value) / 1e6 / duration)
        elif not _is_report(key):
            words.append(text)
    return list(words)


def _is_report(key: str) -> bool:
    return (key.isidentifier() and key.islower()) or key.startswith("stream_")


def _explain(code: int, words: list[str]) -> Refused:
    if code == -signal.SIGXFSZ:
        return Refused("file_too_large", "The file grew over this server's limit.")
    said = " ".join(words)
    known = by_text(said)
    if known in ("disk_full", "file_too_large"):
        return Refused(known, "The file could not be written.")
    if "Cannot allocate memory" in said:
        return Refused("out_of_memory", "The memory limit of a download was reached.")
    return Refused("processing_failed", f"ffmpeg could not make the file: {clean(words[-1] if words else '')}")
