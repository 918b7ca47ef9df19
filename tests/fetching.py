"""What the tests of the fetcher share: settings against the stand-in, orders, and a look at what runs."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.youtube import YouTube
from ytdl.fetcher import (
    Done,
    Fetcher,
    FetchFailed,
    Metadata,
    Order,
    Progress,
    Settings,
    Stopped,
    Usage,
    find_ffmpeg,
)

Run = asyncio.Task[tuple[Done, Usage]]
Frames = list[Metadata | Progress]


def settings_for(youtube: YouTube, folder: Path, **changes: Any) -> Settings:
    """Settings with which yt-dlp reaches the stand-in and nothing else."""
    base: dict[str, Any] = {
        "runtime_dir": folder / "runtime",
        "ffmpeg": find_ffmpeg(),
        "proxy": youtube.proxy_url,
        "ca_file": str(youtube.ca_file),
        "extractor_args": youtube.extractor_args,
        "socket_timeout_seconds": 5.0,
    }
    return Settings(**{**base, **changes})


def order_for(
    youtube: YouTube,
    folder: Path,
    name: str = "ordinary",
    quality: str = "best",
    wanted: str = "mp4",
    **more: Any,
) -> Order:
    """An order for one of the stand-in's videos, in the folder `attempt` unless told otherwise."""
    return Order(
        **{
            "job": "7.1",
            "url": youtube.url(name),
            "quality": quality,
            "format": wanted,
            "work_dir": str(folder / "attempt"),
            **more,
        }
    )


async def fetch(fetcher: Fetcher, order: Order) -> tuple[Done, Usage, Frames]:
    """Run an order to its end and keep its frames."""
    frames: Frames = []
    done, usage = await fetcher.run(order, frames.append)
    return done, usage, frames


async def fail(fetcher: Fetcher, order: Order) -> FetchFailed:
    """Run an order that must fail; the failure."""
    try:
        done, _ = await fetcher.run(order, lambda frame: None)
    except FetchFailed as failure:
        return failure
    raise AssertionError(f"it succeeded: {done}")


class Stages:
    """Waits for frames of a running job: `await stages.reach("downloading")`."""

    def __init__(self) -> None:
        self.frames: Frames = []
        self._news = asyncio.Event()

    def see(self, frame: Metadata | Progress) -> None:
        self.frames.append(frame)
        self._news.set()

    async def reach(self, holds: Callable[[Progress], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not any(isinstance(frame, Progress) and holds(frame) for frame in self.frames):
                self._news.clear()
                await self._news.wait()


def descendants(fetcher: Fetcher) -> list[psutil.Process]:
    """Every process that the fork server is responsible for, orphans included."""
    return psutil.Process(fetcher.zygote_pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    """Whether it can still do anything; whoever inherited a dead one may take its time to reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition of the outside world; TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it waits for is outside this process
            await asyncio.sleep(0.01)


def names(processes: list[psutil.Process]) -> list[str]:
    """Without those that ended since they were listed."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.name())
    return found


def is_encoding(fetcher: Fetcher) -> bool:
    """Whether the slow ffmpeg has come as far as its sleep."""
    return names(descendants(fetcher))[1:] == ["sleep"]


def count_sleeping(fetcher: Fetcher) -> int:
    """How many slow ffmpegs are at it."""
    return names(descendants(fetcher)).count("sleep")


async def start_slowly(fetcher: Fetcher, youtube: YouTube, order: Order, rate: int = 100_000) -> Run:
    """A running job in the middle of its transfer."""
    youtube.misbehave(media_throttle=rate)
    stages = Stages()
    task = asyncio.create_task(fetcher.run(order, stages.see))
    await stages.reach(lambda frame: frame.downloaded_bytes > 30_000)
    return task


async def stop(task: Run) -> Stopped:
    """Cancel a run; what its end says that it used."""
    task.cancel()
    with pytest.raises(Stopped) as caught:
        await task
    return caught.value


async def cancel(task: Run) -> float:
    """Cancel a run; the seconds until it had ended."""
    began = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return asyncio.get_running_loop().time() - began


def write_slow_ffmpeg(folder: Path) -> str:
    """ffmpeg that starts and then takes its time."""
    script = folder / "slow-ffmpeg"
    script.write_text("#!/bin/sh\n[ $1 = -version ] && exit 1\necho progress=continue\nexec /bin/sleep 60\n")
    script.chmod(0o755)
    return str(script)
