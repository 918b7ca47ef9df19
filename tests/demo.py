"""`make demo`: a download from start to end, on this machine only, shown as it happens.

The stand-in takes YouTube's place, all else is real: the service with its own Postgres and Redis, yt-dlp and
ffmpeg. What arrives is opened and hashed here, not believed. Everything is stopped and removed at the end,
whatever the end is.
"""

import argparse
import asyncio
import contextlib
import hashlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import av

from tests.instance import Instance, NotReady, StandIn, events, serving, signed_in, standing_in

BAR_CELLS = 20
PATIENCE_SECONDS = 120.0
Json = dict[str, Any]


class Wrong(Exception):
    """Something did not go as it must; the message is for whoever watches."""


@dataclass(frozen=True)
class Got:
    """The file as it arrived and as PyAV sees it; a picture has `width`, sound alone has none."""

    size_bytes: int
    sha256: str
    seconds: float
    duration_seconds: float
    codecs: list[str]
    width: int | None = None
    height: int | None = None


class Screen:
    """One line that is drawn again and again on a terminal, a line a change elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._open = False
        self._shown = ""

    def say(self, text: str = "") -> None:
        self.close()
        print(text, flush=True)

    def draw(self, text: str) -> None:
        if text == self._shown:
            return
        self._shown = text
        if not self._live:
            print(text, flush=True)
            return
        width = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{text[: width - 1]}", end="", flush=True)
        self._open = True

    def close(self) -> None:
        """Leaves the drawn line as it is; what comes next goes below it."""
        if self._open:
            print(flush=True)
        self._open = False


def bar(percent: float) -> str:
    full = int(percent / 100 * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full)


def size(count: float | None) -> str:
    """A number of bytes for people, in units of a thousand."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def progress_line(progress: Json) -> str:
    parts = [f"     {progress['stage']:<12}{bar(progress['percent'])} {progress['percent']:5.1f} %"]
    if progress["downloaded_bytes"]:
        parts.append(f"{size(progress['downloaded_bytes'])} of {size(progress['total_bytes'])}")
    if progress["speed_bytes_per_second"]:
        parts.append(f"{size(progress['speed_bytes_per_second'])}/s")
    return "  ".join(parts)


async def show(options: argparse.Namespace, screen: Screen) -> None:
    screen.say("A download from start to end, without a network: the stand-in below takes YouTube's place.\n")
    async with _started(options, screen) as (youtube, service), signed_in(service) as client:
        screen.say("  3  Signed in            as admin, the first account of a new service")
        began = time.monotonic()
        download = await _ask(client, youtube.urls["ordinary"], options)
        screen.say(f"  4  Asked for            {download['url']}  ({options.quality}, {options.format})\n")
        done = await _watch(client, download["id"], screen)
        took = time.monotonic() - began
        got = await _fetch(client, done["file"])
        compare(done, got)
        screen.say(f"\n  5  Fetched the file     {done['file']['url']}\n")
        for line in _summary(done, got, took):
            screen.say(line)
    screen.say("\nStopped the service and the stand-in, and removed what they wrote.")


@asynccontextmanager
async def _started(options: argparse.Namespace, screen: Screen) -> AsyncIterator[tuple[StandIn, Instance]]:
    with tempfile.TemporaryDirectory(prefix="ytdl-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        screen.draw("  1  The stand-in         is starting; its films are made the first time")
        async with standing_in(folder, throttle=options.rate * 1000) as youtube:
            screen.draw("  1  The stand-in         answers as www.youtube.com, over TLS, to yt-dlp's own extractor")
            screen.close()
            screen.draw("  2  The service          is starting, with a Postgres and a Redis of its own")
            async with serving(folder, **youtube.settings) as service:
                ready = f"is ready after {service.started_seconds:.1f} s at {service.url}"
                screen.draw(f"  2  The service          {ready}, Postgres and Redis its own")
                screen.close()
                yield youtube, service


async def _ask(client: aiohttp.ClientSession, url: str, options: argparse.Namespace) -> Json:
    wanted = {"url": url, "quality": options.quality, "format": options.format}
    async with client.post("/api/v1/downloads", json=wanted) as answer:
        download: Json = await answer.json()
    return download


async def _watch(client: aiohttp.ClientSession, id: str, screen: Screen) -> Json:
    """Draws the progress until the download is done; raises `Wrong` unless it is completed."""
    percent = -1.0
    async with asyncio.timeout(PATIENCE_SECONDS), client.get(f"/api/v1/downloads/{id}/events") as stream:
        async for name, data in events(stream):
            progress = data.get("progress", data)
            if progress["percent"] < percent:
                raise Wrong(f"The progress fell from {percent} to {progress['percent']} percent.")
            percent = progress["percent"]
            screen.draw(progress_line(progress))
            if name == "done":
                screen.close()
                return _completed(data)
    raise Wrong("The stream of events ended before the download did.")


def _completed(download: Json) -> Json:
    if download["status"] != "completed":
        error = download["error"] or {}
        raise Wrong(f"The download is {download['status']}: {error.get('message')} ({error.get('code')})")
    return download


async def _fetch(client: aiohttp.ClientSession, file: Json) -> Got:
    with tempfile.NamedTemporaryFile(prefix="ytdl-demo-", suffix=Path(file["name"]).suffix) as kept:
        began, digest = time.monotonic(), hashlib.sha256()
        async with client.get(file["url"]) as answer:
            async for piece in answer.content.iter_chunked(256 * 1024):
                digest.update(piece)
                kept.write(piece)
        kept.flush()
        seconds = time.monotonic() - began
        return Got(kept.tell(), digest.hexdigest(), seconds, **await asyncio.to_thread(_open, kept.name))


def _open(path: str) -> Json:
    with av.open(path) as container:
        picture = next(iter(container.streams.video), None)
        found: Json = {
            "duration_seconds": (container.duration or 0) / av.time_base,
            "codecs": [stream.codec_context.codec.canonical_name for stream in container.streams],
        }
        if picture:
            found |= {"width": picture.codec_context.width, "height": picture.codec_context.height}
        return found


def compare(done: Json, got: Got) -> None:
    """Raises `Wrong` where the file is not what the service said."""
    file = done["file"]
    if got.size_bytes != file["size_bytes"]:
        raise Wrong(f"{got.size_bytes} bytes arrived instead of {file['size_bytes']}.")
    if got.sha256 != file["sha256"]:
        raise Wrong(f"The file's SHA-256 is {got.sha256}, the service said {file['sha256']}.")
    if (got.width, got.height) != (done["width"], done["height"]):
        raise Wrong(f"The picture is {got.width} x {got.height}, the service said {done['width']} x {done['height']}.")


def _summary(done: Json, got: Got, took: float) -> list[str]:
    picture = f"{got.width} x {got.height}" if got.width else "no picture"
    rows = {
        "Title": done["title"],
        "Saved as": done["file"]["name"],
        "Resolution": f"{picture}, {got.duration_seconds:.1f} s long",
        "Codecs": " and ".join(got.codecs),
        "Size": f"{size(got.size_bytes)} ({got.size_bytes} bytes)",
        "SHA-256": f"{got.sha256[:16]}…, the same as the service said",
        "Time": f"{took:.1f} s from request to finished file, {got.seconds * 1000:.0f} ms to fetch it",
    }
    return [f"     {name:<12}{value}" for name, value in rows.items()]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=(
        "Shows a download from start to end without a network. Exit code 0 if the file arrived as it should."
    ))  # fmt: skip
    parser.add_argument("--quality", default="1080p", help="best, worst or a cap like 720p (default: %(default)s)")
    parser.add_argument("--format", default="mp4", help="mp4, webm, mkv, any, mp3, m4a, ... (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=100, metavar="KB", help=(
        "kilobytes a second that the stand-in sends; 0 is as fast as it goes (default: %(default)s)"
    ))  # fmt: skip
    return parser.parse_args(arguments)


async def _until_told_to_stop(options: argparse.Namespace, screen: Screen) -> None:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await show(options, screen)


def main(arguments: Sequence[str] | None = None) -> int:
    options, screen = parse_arguments(arguments), Screen()
    try:
        asyncio.run(_until_told_to_stop(options, screen))
        return 0
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.say("\nInterrupted; everything was stopped and removed.")
        return 130
    except (Wrong, NotReady, aiohttp.ClientError, TimeoutError, av.FFmpegError) as error:
        screen.close()
        print(f"\nThe demo failed: {error or type(error).__name__}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
