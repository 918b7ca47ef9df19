"""Nothing is called done before it was opened, measured and hashed.

A download tool's exit code says little: holes, cut tails and wrong containers pass it. Here the finished
file is demuxed with PyAV and compared with what was asked for and what the site said.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError

from ytdl.child.errors import Refused
from ytdl.child.formats import CONTENT_TYPES, Choice
from ytdl.child.frames import Done
from ytdl.child.remux import open_local

TAIL_SECONDS = 10.0
_CONTAINERS = {
    "mp4": "mp4",
    "m4a": "mp4",
    "webm": "webm",
    "mkv": "matroska",
    "mp3": "mp3",
    "opus": "ogg",
    "flac": "flac",
    "wav": "wav",
}


def measure(path: Path, choice: Choice, duration: float | None) -> dict[str, Any]:
    """The facts of the file, as fields of `Done`.

    Refused("verification_failed") names the first thing amiss.
    """
    _check(path.is_file() and path.stat().st_size > 0, "it is empty")
    try:
        with open_local(path) as container:
            return _measure_open(container, choice, duration)
    except (FFmpegError, OSError, ValueError) as error:
        raise Refused("verification_failed", "The finished file cannot be read.") from error


def _measure_open(container: InputContainer, choice: Choice, duration: float | None) -> dict[str, Any]:
    _check(
        _CONTAINERS[choice.ext] in container.format.name.split(","),
        f"it is {container.format.name}, not {choice.ext}",
    )
    picture = None if choice.audio_only else next(iter(container.streams.video), None)
    sound = next(iter(container.streams.audio), None)
    _check(choice.audio_only or picture is not None, "it has no picture")
    _check(sound is not None or not choice.has_audio or _may_be_silent(choice), "it has no sound")
    facts: dict[str, Any] = {"audio_codec": sound.codec_context.codec.canonical_name if sound else None}
    if picture:
        side = min(picture.codec_context.width, picture.codec_context.height)
        _check(choice.cap is None or side <= choice.cap, f"its smaller side is {side}, over {choice.cap}")
        facts |= {
            "width": picture.codec_context.width,
            "height": picture.codec_context.height,
            "fps": round(float(picture.average_rate), 3) if picture.average_rate else None,
            "video_codec": picture.codec_context.codec.canonical_name,
        }
    facts["duration_seconds"] = _check_length(container, duration)
    return facts


def _may_be_silent(choice: Choice) -> bool:
    """A site that does not say whether its only stream has sound is not held to it."""
    return len(choice.streams) == 1 and not choice.streams[0].get("acodec")


def _check_length(container: InputContainer, expected: float | None) -> float | None:
    """Length from the last packets that can really be read, not from what the header promises."""
    promised = container.duration / av.time_base if container.duration else None
    if promised and promised > 2 * TAIL_SECONDS:
        container.seek(int((promised - TAIL_SECONDS) * av.time_base), any_frame=False)
    reached = _last_moment(container)
    _check(reached is not None, "no packet can be read")
    wanted = expected or promised
    if wanted and reached is not None:
        allowed = max(2.0, 0.05 * wanted)
        _check(abs(reached - wanted) <= allowed, f"it lasts {reached:.1f} s instead of {wanted:.1f} s")
    return round(reached, 3) if reached is not None else promised


def _last_moment(container: InputContainer) -> float | None:
    start = container.start_time or 0
    last: float | None = None
    for packet in container.demux():
        if packet.pts is None or packet.time_base is None or not packet.size:
            continue
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start / av.time_base
        last = end if last is None else max(last, end)
    return last


def seal(path: Path) -> str:
    """Put the file safely on disk and return its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest


def describe(path: Path, choice: Choice, facts: dict[str, Any], sha256: str, fetched: int, resumed: int) -> Done:
    """The last frame of a job that succeeded."""
    return Done(
        path=str(path),
        size_bytes=path.stat().st_size,
        sha256=sha256,
        content_type=CONTENT_TYPES[choice.ext],
        ext=choice.ext,
        format_note="+".join(str(stream["format_id"]) for stream in choice.streams),
        fetched_bytes=fetched,
        resumed_bytes=resumed,
        **facts,
    )


def _check(holds: bool, amiss: str) -> None:
    if not holds:
        raise Refused("verification_failed", f"The finished file was checked and {amiss}.")
