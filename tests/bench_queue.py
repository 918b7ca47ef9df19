"""How many jobs that do nothing go through the queue, each with durable commits, on one process.

The reference is what PostgreSQL itself commits on as many connections: one row a transaction, fsync on. Then a large
backlog is put into an empty index, beside what it takes to read it from PostgreSQL.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.bench_figures import Row, middle
from tests.servers import Servers
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Claim, Queue
from ytdl.sql import Query

JOBS, USERS, SLOTS, ROUNDS = 600, 20, 50, 2
CONNECTIONS = 10
COMMITS = "one-row commits"
BACKLOG, OWNERS, CLAIMED, BATCH = 100_000, 1000, 5000, 50
# What holds Redis for less than this is not looked at, microseconds.
HELD = 500
FILL = Query(
    "bench.fill",
    "exec",
    "",
    b"INSERT INTO jobs (kind, subject, user_id, priority) SELECT 'download', gen_random_uuid(),"
    b" md5((n %% %(owners)s)::text)::uuid, n %% 10 FROM generate_series(1, %(jobs)s) n",
)
CREATE = Query("bench.create", "exec", "", b"CREATE TABLE bench (n integer)")
INSERT = Query("bench.insert", "exec", "", b"INSERT INTO bench VALUES (%(n)s)")


async def measure(_: Path) -> list[Row]:
    """Rows for submitting, for doing and for a backlog; about 25 seconds. The servers have a folder of their own."""
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(Servers())
        db = DB(servers.clone(), size=CONNECTIONS)
        await db.open()
        stack.push_async_callback(db.close)
        kv = KV(servers.redis_url, "bench")
        stack.push_async_callback(kv.close)
        queue = Queue(db, kv, user_cap=JOBS)
        await queue.index.reconcile()
        return await _in_turn(db, queue) + await _backlog(db, kv, queue)


async def _in_turn(db: DB, queue: Queue) -> list[Row]:
    submits, dones, commits = [], [], []
    users = [uuid4() for _ in range(USERS)]

    async def submit(n: int) -> None:
        async with db.transaction() as tx:
            user = users[n % USERS]
            job = await queue.submit(tx, "download", uuid4(), user, priority=5, dedup_key=None, max_tries=5)
        assert job
        await queue.announce(job)

    async def commit(n: int) -> None:
        await db.exec(INSERT, n=n)

    await db.exec(CREATE)
    for _ in range(ROUNDS):
        commits.append(await _rate(commit))
        submits.append(await _rate(submit))
        dones.append(await _drain(db, queue))
    reference = middle(commits)
    return [
        Row("jobs submitted", "1/s", middle(submits), reference, COMMITS, 0),
        Row("no-op jobs claimed and completed", "1/s", middle(dones), reference, COMMITS, 0),
    ]


async def _rate(work: Callable[[int], Awaitable[None]]) -> float:
    numbers = iter(range(JOBS))

    async def go_on() -> None:
        for n in numbers:
            await work(n)

    began = time.monotonic()
    await asyncio.gather(*(go_on() for _ in range(CONNECTIONS)))
    return JOBS / (time.monotonic() - began)


async def _drain(db: DB, queue: Queue) -> float:
    """Claims what fits into the free slots and completes each by itself, as a worker does."""
    began, done = time.monotonic(), 0
    running: set[asyncio.Task[None]] = set()

    async def complete(claim: Claim) -> None:
        async with db.transaction() as tx:
            state = await queue.complete(tx, claim)
        assert state == "completed"
        await queue.forget([claim.job])

    while done < JOBS:
        suggested = await queue.index.claim(SLOTS - len(running))
        async with db.transaction() as tx:
            claims = await queue.claim(tx, suggested) if suggested else []
        running |= {asyncio.create_task(complete(claim)) for claim in claims}
        ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        done += len(ended)
    return JOBS / (time.monotonic() - began)


async def _backlog(db: DB, kv: KV, queue: Queue) -> list[Row]:
    """Seconds and the longest that Redis was held, for nobody is answered meanwhile; then claims out of it."""
    await db.exec(FILL, jobs=BACKLOG, owners=OWNERS)
    await kv.client.config_set("slowlog-log-slower-than", HELD)
    await kv.client.config_set("slowlog-max-len", 10_000)
    rebuilt, read = [], []
    for _ in range(ROUNDS):
        read.append(await _seconds(queue.index._sweep(db, _nowhere)))
        rebuilt.append(await _seconds(queue.index.rebuild()))
    held = max((entry["duration"] for entry in await kv.client.slowlog_get(10_000)), default=HELD)
    began, claimed = time.monotonic(), 0
    while claimed < CLAIMED:
        claimed += len(await queue.index.claim(BATCH))
    return [
        Row(f"{BACKLOG:,} waiting jobs into an empty index", "s", middle(rebuilt), middle(read), "reading them"),
        Row("the longest that this holds Redis", "ms", held / 1000, digits=1),
        Row(f"jobs taken out of it by {BATCH}", "1/s", claimed / (time.monotonic() - began), digits=0),
    ]


async def _seconds(work: Awaitable[object]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


async def _nowhere(rows: list[Any]) -> int:
    return len(rows)
