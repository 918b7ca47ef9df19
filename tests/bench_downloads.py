"""What downloads cost: processor time and memory of one and of many at once, and the way to the first byte.

The reference is yt-dlp as a command, fetching the same videos from the same stand-in, in turn with the service.
"""

import asyncio
import itertools
import os
import resource
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench_figures import Row, cpu_seconds, middle, peak_of, pss_bytes, tree
from tests.instance import Instance, StandIn, last_words, serving, signed_in, standing_in
from ytdl.fetcher import find_ffmpeg

COMMAND = "the yt-dlp command"
MANY, FULL = 20, 50
PATIENCE_SECONDS = 60.0
# Looking costs processor time too, so it is done as seldom as the figures allow.
POLL_SECONDS = 0.3
# Two megabytes of picture and a quarter of one of sound; slow enough that all of them run together.
ALONE_RATE, TOGETHER_RATE, FULL_RATE = 1_000_000, 200_000, 100_000
ROUNDS, FIRST_BYTE_ROUNDS = 2, 15
MB = 1_000_000


@dataclass(frozen=True)
class Cost:
    """`child_seconds` is the part of the processor time that the children and their ffmpeg used."""

    cpu_seconds: float
    peak_bytes: float
    child_seconds: float = 0.0


class Scene:
    """The service and its stand-in, and what both ways of downloading need."""

    def __init__(self, folder: Path, youtube: StandIn, service: Instance, client: aiohttp.ClientSession) -> None:
        self.youtube = youtube
        self.service = service
        self._folder = folder
        self._client = client
        self._videos = (f"big002_{n:04}" for n in itertools.count())
        self._small = (f"many_{n:06}" for n in itertools.count())

    async def throttle(self, rate: int) -> None:
        async with self._client.delete(f"{self.youtube.control_url}/control"):
            pass
        if rate:
            async with self._client.post(f"{self.youtube.control_url}/control", json={"media_throttle": rate}):
                pass

    def videos(self, count: int) -> list[str]:
        return list(itertools.islice(self._videos, count))

    def small_video(self) -> str:
        return next(self._small)

    async def ask(self, video: str) -> str:
        """Asks the service for it; the download's id."""
        wanted = {"url": f"https://www.youtube.com/watch?v={video}"}
        async with self._client.post("/api/v1/downloads", json=wanted) as answer:
            id: str = (await answer.json())["id"]
        return id

    async def child_seconds(self, ids: Iterable[str]) -> float:
        """What the downloads' attempts used in processes of their own, as the service wrote it down."""
        total = 0.0
        for id in ids:
            async with self._client.get(f"/api/v1/downloads/{id}/logs") as answer:
                total += sum(attempt["cpu_seconds"] for attempt in await answer.json())
        return total

    async def finish(self, ids: Iterable[str]) -> None:
        """Waits until all are completed; raises `RuntimeError` for one that has an error or takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for id in ids:
            while (found := await self._look(id))["status"] != "completed":
                if found["error"] or time.monotonic() > deadline:
                    words = last_words(self.service.log)
                    raise RuntimeError(f"A download is {found['status']}: {found['error']}\n{words}")
                await asyncio.sleep(POLL_SECONDS)

    async def _look(self, id: str) -> dict[str, Any]:
        async with self._client.get(f"/api/v1/downloads/{id}") as answer:
            found: dict[str, Any] = await answer.json()
        return found

    async def command(self, video: str) -> asyncio.subprocess.Process:
        """yt-dlp's own command on the same video, with the same choice of streams."""
        settings = self.youtube.settings
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "yt_dlp", "--ignore-config", "--no-cache-dir", "--quiet", "--no-warnings",
            *("--proxy", settings["OUTBOUND_PROXY"], "--compat-options", "no-certifi"),
            *("--extractor-args", settings["YTDLP_EXTRACTOR_ARGS"], "--ffmpeg-location", find_ffmpeg() or ""),
            *("--format", "bv[ext=mp4]+ba[ext=m4a]", "--output", str(self._folder / f"{video}.%(ext)s")),
            f"https://www.youtube.com/watch?v={video}",
            env=os.environ | {"SSL_CERT_FILE": settings["OUTBOUND_CA_FILE"]}, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def first_media_request(self, video: str, since: float) -> float:
        """Seconds from `since`, on the clock of this machine, until media of the video was asked for."""
        async with self._client.get(f"{self.youtube.control_url}/requests") as answer:
            seen = await answer.json()
        asked: list[float] = [s["at"] for s in seen if s["path"] == "/videoplayback" and s["video"] == video]
        return min(asked) - since


async def measure(folder: Path) -> list[Row]:
    """Rows for costs and for the first byte; about a minute and a half."""
    async with AsyncExitStack() as stack:
        youtube = await stack.enter_async_context(standing_in(folder))
        slots = {"DOWNLOAD_CONCURRENCY": str(FULL), "DOWNLOAD_USER_CONCURRENCY": str(FULL)}
        service = await stack.enter_async_context(serving(folder, **slots, **youtube.settings))
        client = await stack.enter_async_context(signed_in(service))
        scene = Scene(folder, youtube, service, client)
        await scene.finish([await scene.ask(scene.small_video())])
        idle = pss_bytes(tree(service.pid))
        start = Row("ready after a first start", "s", service.started_seconds)
        rows = [start, Row("memory, idle (PSS)", "MB", idle / MB, digits=0)]
        rows += await _first_byte(scene)
        rows += await _costs(scene, 1, ALONE_RATE)
        rows += await _costs(scene, MANY, TOGETHER_RATE)
        return rows + await _full_house(scene)


async def _costs(scene: Scene, count: int, rate: int) -> list[Row]:
    await scene.throttle(rate)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(await _service_cost(scene, count))
        theirs.append(await _command_cost(scene, count))
    name = "1 download" if count == 1 else f"{count} downloads at once"
    cpu = [middle(cost.cpu_seconds for cost in costs) for costs in (ours, theirs)]
    peak = [middle(cost.peak_bytes for cost in costs) / MB for costs in (ours, theirs)]
    return [
        Row(f"processor time, {name}", "s", cpu[0], cpu[1], COMMAND),
        Row("  of that in the children", "s", middle(cost.child_seconds for cost in ours)),
        Row(f"memory at most, {name} (PSS)", "MB", peak[0], peak[1], COMMAND, digits=0),
    ]


async def _full_house(scene: Scene) -> list[Row]:
    """As many as are promised at once. The command is not asked to do the same, for want of memory."""
    await scene.throttle(FULL_RATE)
    costs = [await _service_cost(scene, FULL) for _ in range(ROUNDS)]
    each, peak = middle(cost.cpu_seconds for cost in costs) / FULL, max(cost.peak_bytes for cost in costs) / MB
    return [
        Row(f"memory at most, {FULL} downloads at once (PSS)", "MB", peak, 512, "the goal, at most", digits=0),
        Row("  processor time of each of them", "s", each, 0.06, "the goal, at most"),
        Row("  of that in the children", "s", middle(cost.child_seconds for cost in costs) / FULL),
    ]


async def _service_cost(scene: Scene, count: int) -> Cost:
    pid, videos = scene.service.pid, scene.videos(count)
    before = await asyncio.to_thread(cpu_seconds, pid)
    async with peak_of(pid) as peak:
        ids = [await scene.ask(video) for video in videos]
        await scene.finish(ids)
    # The fork server takes a child's figures over when it has buried it.
    await asyncio.sleep(0.3)
    used = await asyncio.to_thread(cpu_seconds, pid) - before
    return Cost(used, peak.bytes, await scene.child_seconds(ids))


async def _command_cost(scene: Scene, count: int) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    processes = [await scene.command(video) for video in scene.videos(count)]
    async with peak_of(*(process.pid for process in processes)) as peak:
        codes = [await process.wait() for process in processes]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(codes):
        raise RuntimeError(f"The yt-dlp command ended with {codes}.")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak.bytes)


async def _first_byte(scene: Scene) -> list[Row]:
    await scene.throttle(0)
    ours, theirs = [], []
    for n in range(FIRST_BYTE_ROUNDS):
        video, began = scene.small_video(), time.time()
        await scene.finish([await scene.ask(video)])
        ours.append(await scene.first_media_request(video, began))
        if n % 3:
            continue
        video, began = scene.small_video(), time.time()
        await (await scene.command(video)).wait()
        theirs.append(await scene.first_media_request(video, began))
    return [
        Row("POST to first media byte asked for, p50", "s", middle(ours), middle(theirs), COMMAND),
        Row("the same, slowest", "s", max(ours), max(theirs), COMMAND),
    ]
