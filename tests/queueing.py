"""Words for tests of the queue: submit, take, end and lose jobs, and look at what is written of them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from prometheus_client import Counter as Metric
from prometheus_client import Gauge

from ytdl.db import DB, Row
from ytdl.kv import KV
from ytdl.queue import Claim, Queue

ANN, BEN = uuid4(), uuid4()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def sql(db: DB, text: str, *args: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as connection:
        cursor = await connection.execute(text.encode(), args)
        return await cursor.fetchall() if cursor.description else []


async def submit(
    jobs: Queue, db: DB, user: UUID = ANN, *, priority: int = 5, key: bytes | None = None, tries: int = 5
) -> Row:
    """Commits a job that the index has not heard of."""
    async with db.transaction() as tx:
        row = await jobs.submit(tx, "download", uuid4(), user, priority=priority, dedup_key=key, max_tries=tries)
    assert row
    return row


async def many(db: DB, user: UUID, number: int, *, priority: int) -> None:
    await sql(
        db,
        "INSERT INTO jobs (kind, subject, user_id, priority)"
        " SELECT 'download', gen_random_uuid(), %s, %s FROM generate_series(1, %s)",
        user, priority, number,
    )  # fmt: skip


async def announced(
    jobs: Queue, db: DB, user: UUID = ANN, *, priority: int = 5, key: bytes | None = None, tries: int = 5
) -> int:
    row = await submit(jobs, db, user, priority=priority, key=key, tries=tries)
    await jobs.announce(row)
    return int(row["id"])


async def take(jobs: Queue, db: DB, *ids: int) -> list[Claim]:
    async with db.transaction() as tx:
        return await jobs.claim(tx, ids)


async def claimed(jobs: Queue, db: DB, **how: Any) -> Claim:
    """A new job that is running."""
    (claim,) = await take(jobs, db, (await submit(jobs, db, **how))["id"])
    return claim


async def fail(jobs: Queue, db: DB, claim: Claim, *, permanent: bool = False, floor: float = 0.0) -> Row | None:
    async with db.transaction() as tx:
        return await jobs.fail(tx, claim, permanent=permanent, floor=floor)


async def complete(jobs: Queue, db: DB, claim: Claim) -> str | None:
    async with db.transaction() as tx:
        return await jobs.complete(tx, claim)


async def hand_back(jobs: Queue, db: DB, claim: Claim) -> Row | None:
    async with db.transaction() as tx:
        return await jobs.hand_back(tx, claim)


async def cancel(jobs: Queue, db: DB, job: int) -> str | None:
    async with db.transaction() as tx:
        return await jobs.cancel(tx, job)


async def crash(jobs: Queue, db: DB, job: int) -> list[Row]:
    """The worker is gone long enough for its lease to be taken back."""
    await sql(db, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = %s AND state = 'running'", job)
    async with db.transaction() as tx:
        return await jobs.reap(tx)


async def due(db: DB, job: int) -> None:
    await sql(db, "UPDATE jobs SET run_at = now() WHERE id = %s", job)


async def job(db: DB, id: int) -> dict[str, Any]:
    names = ("state", "fence", "tries", "crashes")
    (row,) = await sql(db, f"SELECT {', '.join(names)} FROM jobs WHERE id = %s", id)
    return dict(zip(names, row, strict=True))


async def history(db: DB, id: int) -> list[tuple[str, int]]:
    return [(e, f) for e, f in await sql(db, "SELECT event, fence FROM job_events WHERE job_id = %s ORDER BY seq", id)]


def count(metric: Metric | Gauge, **labels: str) -> float:
    return float((metric.labels(**labels) if labels else metric)._value.get())


async def flushed(kv: KV) -> None:
    """What a FLUSHALL does to this test's keys; other tests share the server."""
    if keys := [key async for key in kv.client.scan_iter(f"{kv.prefix}:*")]:
        await kv.client.delete(*keys)


async def keys(kv: KV) -> set[str]:
    return {key.removeprefix(f"{kv.prefix}:queue:") async for key in kv.client.scan_iter(f"{kv.prefix}:queue:*")}
