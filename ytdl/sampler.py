"""Refreshes gauges now and then and not in a scrape: a dead database must not take `/metrics` along.

A round has all collectors at work side by side. One that fails, or hangs, keeps none of the others from theirs; its
gauges stay as they were, and `ytdl_worker_loop_last_success_timestamp_seconds` of its name says since when.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from ytdl import loops, metrics
from ytdl.collectors import (
    ContentsCollector,
    InstanceCollector,
    MachineCollector,
    PostgresCollector,
    RedisCollector,
)
from ytdl.config import Config
from ytdl.cookies import Cookies
from ytdl.db import DB
from ytdl.disk import Disk
from ytdl.fetcher import Fetcher
from ytdl.health import Health
from ytdl.kv import KV

log = logging.getLogger("ytdl.sampler")
LAG_SECONDS = 0.5
# Longer than any answer of PostgreSQL's is waited for.
ROUND_SECONDS = 15.0
Collect = Callable[[], Awaitable[object]]


def collectors(
    config: Config, db: DB, kv: KV, disk: Disk, cookies: Cookies, fetcher: Fetcher, health: Health
) -> dict[str, Collect]:
    """By the name under which each is counted among the loops."""
    return {
        "host": MachineCollector(config, disk).collect,
        "instance": InstanceCollector(config, db, kv, fetcher).collect,
        "needs": health.readiness,
        "postgres": PostgresCollector(db).collect,
        "redis": RedisCollector(kv).collect,
        "contents": ContentsCollector(config, db, cookies).collect,
    }


class Sampler:
    def __init__(self, collectors: dict[str, Collect], *, seconds: float) -> None:
        self._collectors = collectors
        self._seconds = seconds
        self._collecting: dict[str, asyncio.Task[bool]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(loops.repeat("sample", self._seconds, self.sample)),
            asyncio.create_task(self._measure_lag()),
        ]

    async def stop(self) -> None:
        await loops.stop(self._tasks)
        await loops.stop(list(self._collecting.values()))

    async def sample(self) -> None:
        """One round. A collector that still hangs from an earlier one is left to that, which counts as a failure, and
        is not waited for."""
        loop = asyncio.get_running_loop()
        begun, fresh = loop.time(), []
        for name, collect in self._collectors.items():
            if name in self._collecting:
                metrics.worker_loop_errors.labels(name).inc()
                log.warning("sampler.hangs", extra={"collector": name})
            else:
                fresh.append(self._begin(name, collect))
        if fresh:
            await asyncio.wait(fresh, timeout=ROUND_SECONDS)
        metrics.worker_collection_seconds.set(loop.time() - begun)

    def _begin(self, name: str, collect: Collect) -> asyncio.Task[bool]:
        task = self._collecting[name] = asyncio.create_task(loops.once(name, collect), name=f"collect {name}")
        task.add_done_callback(partial(self._forget, name))
        return task

    def _forget(self, name: str, _: asyncio.Task[bool]) -> None:
        del self._collecting[name]

    async def _measure_lag(self) -> None:
        """How late a sleeper wakes is how long something held the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))
