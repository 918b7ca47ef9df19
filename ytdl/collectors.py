"""What the gauges say that are refreshed now and then, by where it comes from: one collector a source.

A collector reads its source and then sets its gauges. When that is done, and what a failure means, is the sampler's.
"""

import asyncio
import datetime
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from ytdl import __version__, metrics, sql
from ytdl.config import Config
from ytdl.cookies import Cookies
from ytdl.db import DB
from ytdl.disk import Disk
from ytdl.fetcher import Fetcher
from ytdl.kv import KV
from ytdl.queue import MAX_CRASHES
from ytdl.system import Instance, Machine

queue_queries = sql.load("queue")
download_queries = sql.load("downloads")
q = sql.load("figures")


class Follower:
    """Has a counter grow as somebody else's total does, from when it was first seen; a total that fell began anew."""

    def __init__(self, counter: Counter, seen: float | None = None) -> None:
        self._counter = counter
        self._seen = seen

    def see(self, total: float) -> None:
        if self._seen is not None:
            self._counter.inc(total - self._seen if total >= self._seen else total)
        self._seen = total


class Traffic:
    """What went over the network, each interface by itself: a sum falls when one of them goes, too. One that comes, or
    comes back, counts from when it is seen."""

    def __init__(self) -> None:
        self._cards: dict[str, tuple[Follower, Follower]] = {}

    def see(self, totals: Mapping[str, tuple[int, int]]) -> None:
        """Bytes received and sent, by interface."""
        self._cards = {name: self._cards.get(name) or self._card() for name in totals}
        for name, card in self._cards.items():
            for follower, total in zip(card, totals[name], strict=True):
                follower.see(total)

    def _card(self) -> tuple[Follower, Follower]:
        counter = metrics.system_network_bytes
        return Follower(counter.labels("received")), Follower(counter.labels("sent"))


class MachineCollector:
    """The machine and its disk."""

    def __init__(self, config: Config, disk: Disk) -> None:
        self._machine = Machine()
        self._disk = disk
        self._folder = config.data_dir
        self._traffic = Traffic()

    async def collect(self) -> None:
        await self._disk.may_lease()
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        metrics.disk_total_bytes.set(shutil.disk_usage(self._folder).total)
        memory = self._machine.memory()
        metrics.system_memory_total_bytes.set(memory.total_bytes)
        metrics.system_memory_available_bytes.set(memory.available_bytes)
        metrics.system_cpu_usage_ratio.set(self._machine.cpu_usage())
        metrics.system_load_average.set(self._machine.load())
        self._traffic.see(self._machine.network())
        metrics.instance_memory_limit_bytes.set(self._machine.memory_limit())


class InstanceCollector:
    """This process and its own: pools, fork server, jobs."""

    def __init__(self, config: Config, db: DB, kv: KV, fetcher: Fetcher) -> None:
        self._cookies_file = config.ytdlp_cookies_file
        self._db = db
        self._kv = kv
        self._fetcher = fetcher
        self._instance = Instance()
        self._cpu = {part: Follower(metrics.instance_cpu_seconds.labels(part), 0.0) for part in metrics.PARTS}

    async def collect(self) -> None:
        for state, connections in self._db.stats().items():
            metrics.db_pool.labels(state).set(connections)
        for state, connections in self._kv.stats().items():
            metrics.kv_pool.labels(state).set(connections)
        self._look_at_fetcher()
        if self._cookies_file:
            metrics.cookies_file_modified.set(_modified(Path(self._cookies_file)))
        for part, used in (await asyncio.to_thread(self._instance.look, self._fetcher.zygote_pid)).items():
            metrics.instance_processes.labels(part).set(used.processes)
            metrics.instance_memory_bytes.labels(part).set(used.memory_bytes)
            self._cpu[part].see(used.cpu_seconds)

    def _look_at_fetcher(self) -> None:
        tools = self._fetcher.tools
        tell_version(tools)
        metrics.fetcher_ready.set(self._fetcher.zygote_pid is not None)
        metrics.fetcher_javascript_ready.set(bool(tools.get("deno_supported") and tools.get("ejs")))
        metrics.fetcher_ytdlp_released.set(released(str(tools.get("yt_dlp", ""))))


class PostgresCollector:
    """PostgreSQL's account of itself, in one query."""

    def __init__(self, db: DB) -> None:
        self._db = db
        self._totals = {
            "committed": Follower(metrics.db_server_transactions.labels("committed")),
            "rolled_back": Follower(metrics.db_server_transactions.labels("rolled_back")),
            "deadlocks": Follower(metrics.db_server_deadlocks),
            "from_cache": Follower(metrics.db_server_blocks.labels("cache")),
            "from_disk": Follower(metrics.db_server_blocks.labels("disk")),
            "archive_failures": Follower(metrics.db_server_archive_failures),
        }

    async def collect(self) -> None:
        row = await self._db.one(q.server)
        metrics.db_server_connections.set(row["connections"])
        metrics.db_server_max_connections.set(row["max_connections"])
        metrics.db_server_size_bytes.set(row["size_bytes"])
        metrics.db_server_longest_transaction.set(row["longest_transaction_seconds"])
        for name, follower in self._totals.items():
            follower.see(row[name])


class RedisCollector:
    """Redis' account of itself, in one INFO."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._evicted = Follower(metrics.kv_server_evicted_keys)
        self._commands = Follower(metrics.kv_server_commands)

    async def collect(self) -> None:
        info = await self._kv.info()
        metrics.kv_server_memory_bytes.set(info["used_memory"])
        metrics.kv_server_max_memory_bytes.set(info["maxmemory"])
        metrics.kv_server_clients.set(info["connected_clients"])
        metrics.kv_server_persistence_ok.set(persists(info))
        metrics.kv_server_keys.set(sum(base["keys"] for name, base in info.items() if re.fullmatch(r"db\d+", name)))
        self._evicted.see(info["evicted_keys"])
        self._commands.see(info["total_commands_processed"])


class ContentsCollector:
    """What is in the database: the queue, downloads and their files, accounts, sessions, cookies."""

    def __init__(self, config: Config, db: DB, cookies: Cookies) -> None:
        self._user_cap = config.download_user_concurrency
        self._db = db
        self._cookies = cookies

    async def collect(self) -> None:
        await self._count_queue()
        await self._count_downloads()
        await self._count_accounts()
        await self._cookies.measure()

    async def _count_queue(self) -> None:
        jobs = {row["state"]: row["jobs"] for row in await self._db.many(queue_queries.depth)}
        for state in metrics.JOB_STATES:
            metrics.queue_jobs.labels(state).set(jobs.get(state, 0))
        metrics.queue_oldest_ready_seconds.set(await self._db.value(queue_queries.oldest_ready_seconds))
        startable = await self._db.value(
            queue_queries.oldest_startable_seconds, user_cap=self._user_cap, max_crashes=MAX_CRASHES
        )
        metrics.queue_oldest_startable_seconds.set(startable)

    async def _count_downloads(self) -> None:
        rows = await self._db.many(download_queries.by_status)
        downloads = {row["status"]: row["downloads"] for row in rows}
        for status in metrics.STATUSES:
            metrics.downloads_state.labels(status).set(downloads.get(status, 0))
        metrics.storage_kept_files.set(sum(row["files"] for row in rows))
        metrics.storage_kept_bytes.set(sum(row["bytes"] for row in rows))

    async def _count_accounts(self) -> None:
        found = {(row["role"], row["is_active"]): row["accounts"] for row in await self._db.many(q.accounts)}
        for role in metrics.ROLES:
            metrics.users_accounts.labels(role, "yes").set(found.get((role, True), 0))
            metrics.users_accounts.labels(role, "no").set(found.get((role, False), 0))
        metrics.auth_sessions_open.set(await self._db.value(q.open_sessions))


def tell_version(tools: Mapping[str, Any]) -> None:
    """One series, whichever yt-dlp it was before. What a fork server said stands while another one starts, so that only
    another version looks like one; where none has said anything it is `none`."""
    told = {sample.labels["ytdlp"] for family in metrics.build_info.collect() for sample in family.samples}
    version = str(tools.get("yt_dlp") or next(iter(told), "none"))
    metrics.build_info.labels(__version__, version).set(1)
    # The former goes last, as a scrape in between must find one.
    for former in told - {version}:
        metrics.build_info.remove(__version__, former)


def released(version: str) -> float:
    """When a yt-dlp of that version was released, which its version says; 0 where it does not."""
    try:
        year, month, day = map(int, version.split(".")[:3])
        return datetime.datetime(year, month, day, tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return 0.0


def persists(info: dict[str, Any]) -> bool:
    """Whether Redis' last writes to the disk went well, of the ways that it is set to."""
    asked = ["rdb_last_bgsave_status"]
    if info["aof_enabled"]:
        asked += ["aof_last_write_status", "aof_last_bgrewrite_status"]
    return all(info.get(name, "ok") == "ok" for name in asked)


def _modified(file: Path) -> float:
    """0 for one that is not there any more."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
