"""What being watched costs: a refresh of the gauges, and a scrape beside a bare aiohttp route that answers as much.

A refresh is measured as what a service that does nothing uses more when it refreshes often; the look at many downloads,
which is most of it then, is measured by itself.
"""

import asyncio
import itertools
import json
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import mkdtemp

import aiohttp
import psutil

from tests.bench_figures import Row, middle, tree
from tests.bench_requests import BARE, bare
from tests.instance import Instance, StandIn, serving, signed_in, standing_in
from ytdl.system import Instance as Processes

MANY, SCRAPES, LOOKS = 50, 30, 5
OFTEN, SELDOM, IDLE_SECONDS = "0.1", "120", 4.0
# A scrape of Prometheus' takes as long as it takes; this is what the service promises.
GOAL_MS, GOAL_SERIES = 50, 2500
# So slow that all are still at it when they are looked at.
RATE = 20_000
# As Prometheus asks.
ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0"}
PATIENCE_SECONDS = 60.0


async def measure(folder: Path) -> list[Row]:
    """Rows for a refresh and for a scrape; about half a minute."""
    async with standing_in(folder, throttle=RATE) as youtube:
        return await _refresh(folder, youtube) + await _watched(folder, youtube)


async def _refresh(folder: Path, youtube: StandIn) -> list[Row]:
    async with AsyncExitStack() as stack:
        used, rounds = {}, 0.0
        for interval in (OFTEN, SELDOM):
            home = Path(mkdtemp(dir=folder))
            settings = youtube.settings | {"METRICS_COLLECTION_INTERVAL": interval}
            service = await stack.enter_async_context(serving(home, **settings))
            await asyncio.sleep(1)
            begun, before = psutil.Process(service.pid).cpu_times(), await _rounds(service)
            await asyncio.sleep(IDLE_SECONDS)
            ended = psutil.Process(service.pid).cpu_times()
            rounds = max(rounds, await _rounds(service) - before)
            used[interval] = ended.user + ended.system - begun.user - begun.system
        each = (used[OFTEN] - used[SELDOM]) / rounds * 1000
        return [Row("processor time of a refresh of the gauges, idle", "ms", each, digits=1)]


async def _rounds(service: Instance) -> float:
    return _value(await _scrape(service.url), 'ytdl_db_queries_total{query="figures.server"}')


async def _watched(folder: Path, youtube: StandIn) -> list[Row]:
    """With as many downloads as are promised at once."""
    async with AsyncExitStack() as stack:
        home = Path(mkdtemp(dir=folder))
        slots = {"DOWNLOAD_CONCURRENCY": str(MANY), "DOWNLOAD_USER_CONCURRENCY": str(MANY)}
        service = await stack.enter_async_context(serving(home, **slots, **youtube.settings))
        await _keep_busy(service, await stack.enter_async_context(signed_in(service)))
        text = await _scrape(service.url)
        (home / "text.json").write_text(json.dumps(text))
        reference = await stack.enter_async_context(bare(home / "text.json"))
        return _look(service) + await _scrapes(service.url, reference, text)


async def _keep_busy(service: Instance, client: aiohttp.ClientSession) -> None:
    for number in range(MANY):
        wanted = {"url": f"https://www.youtube.com/watch?v=big002_{number:04}"}
        async with client.post("/api/v1/downloads", json=wanted):
            pass
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(tree(service.pid)) < MANY + 2:
        if time.monotonic() > deadline:
            raise RuntimeError(f"There are not {MANY} downloads at work.")
        await asyncio.sleep(0.3)
    # Those that still extract have a second process each.
    await asyncio.sleep(3)


def _look(service: Instance) -> list[Row]:
    """Done here as the service does it, on its fork server."""
    server = max(psutil.Process(service.pid).children(), key=lambda child: len(child.children()))
    processes, spent = Processes(), []
    for _ in range(LOOKS):
        begun = time.thread_time()
        found = processes.look(server.pid)
        spent.append((time.thread_time() - begun) * 1000)
    return [Row(f"  of the look at {found['jobs'].processes} downloads", "ms", middle(spent), digits=1)]


async def _scrapes(url: str, reference: str, text: str) -> list[Row]:
    took: dict[str, list[float]] = {url: [], reference: []}
    async with aiohttp.ClientSession(headers=ACCEPT) as client:
        for _, (target, times) in itertools.product(range(SCRAPES), took.items()):
            begun = time.perf_counter()
            async with client.get(f"{target}/metrics" if target == url else target) as answer:
                await answer.read()
            times.append((time.perf_counter() - begun) * 1000)
    series = sum(1 for line in text.splitlines() if not line.startswith("#"))
    return [
        Row("GET /metrics", "ms", middle(took[url]), middle(took[reference]), BARE, 1),
        Row("  slowest", "ms", max(took[url]), GOAL_MS, "the goal, at most", 1),
        Row("  series in it", "", series, GOAL_SERIES, "the goal, at most", 0),
    ]


async def _scrape(url: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as answer:
        return await answer.text()


def _value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
