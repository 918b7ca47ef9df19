"""Gauges, refreshed from state now and then and not in a scrape: a dead database must not take `/metrics` along."""

import asyncio
from pathlib import Path

from prometheus_client import Gauge

from ytdl import loops, metrics, sql
from ytdl.config import Config
from ytdl.cookies import Cookies
from ytdl.db import DB
from ytdl.disk import Disk
from ytdl.fetcher import Fetcher
from ytdl.health import Health

queue_queries = sql.load("queue")
download_queries = sql.load("downloads")
LAG_SECONDS = 0.5


class Sampler:
    def __init__(self, config: Config, db: DB, disk: Disk, cookies: Cookies, fetcher: Fetcher, health: Health) -> None:
        self._interval = config.metrics_collection_interval
        self._user_cap = config.download_user_concurrency
        self._db = db
        self._disk = disk
        self._cookies = cookies
        self._cookies_file = config.ytdlp_cookies_file
        self._fetcher = fetcher
        self._health = health
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(loops.repeat("sample", self._interval, self.sample)),
            asyncio.create_task(self._measure_lag()),
        ]

    async def stop(self) -> None:
        await loops.stop(self._tasks)

    async def sample(self) -> None:
        """One round. What needs no database comes first."""
        for state, connections in self._db.stats().items():
            metrics.db_pool.labels(state).set(connections)
        await self._disk.may_lease()
        metrics.fetcher_ready.set(self._fetcher.zygote_pid is not None)
        if self._cookies_file:
            metrics.cookies_file_modified.set(_modified(Path(self._cookies_file)))
        await self._health.readiness()
        await self._count(metrics.queue_jobs, metrics.JOB_STATES, queue_queries.depth)
        await self._count(metrics.downloads_state, metrics.STATUSES, download_queries.by_status)
        await self._cookies.measure()
        metrics.queue_oldest_ready_seconds.set(await self._db.value(queue_queries.oldest_ready_seconds))
        startable = await self._db.value(queue_queries.oldest_startable_seconds, user_cap=self._user_cap)
        metrics.queue_oldest_startable_seconds.set(startable)

    async def _count(self, gauge: Gauge, known: tuple[str, ...], query: sql.Query) -> None:
        """Sets a gauge by the first two columns, what is counted and how many; nothing counted is none."""
        counts = dict(tuple(row.values()) for row in await self._db.many(query))
        for value in known:
            gauge.labels(value).set(counts.get(value, 0))

    async def _measure_lag(self) -> None:
        """How late a sleeper wakes is how long something held the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))


def _modified(file: Path) -> float:
    """0 for one that is not there any more."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
