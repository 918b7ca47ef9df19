"""The index in Redis: what it suggests, what it forgets, and that a job stands in one place."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.queueing import (
    ANN,
    BEN,
    EPOCH,
    announced,
    cancel,
    claimed,
    complete,
    crash,
    flushed,
    keys,
    sql,
    submit,
    take,
)
from ytdl import queue
from ytdl.db import DB, Row
from ytdl.kv import KV
from ytdl.queue import Queue


async def test_leases_in_the_index_run_out(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, lease_seconds=1.0)
    id = await announced(jobs, db)
    assert await jobs.index.claim(1) == [id]
    assert await jobs.index.reconcile() == 0
    assert await jobs.index.claim(1) == []
    await asyncio.sleep(1.1)
    assert await jobs.index.claim(1) == []
    assert await jobs.index.reconcile() == 1
    assert await jobs.index.claim(1) == [id]


async def due_in(jobs: Queue, db: DB, row: Row, interval: str) -> None:
    ((at,),) = await sql(db, "UPDATE jobs SET run_at = now() + %s::interval RETURNING run_at", interval)
    await jobs.announce(row | {"run_at": at})


async def test_a_job_of_the_future_is_suggested_when_it_is_due(jobs: Queue, db: DB) -> None:
    row = await submit(jobs, db)
    await due_in(jobs, db, row, "1 hour")
    assert await jobs.index.claim(1) == []
    await due_in(jobs, db, row, "0.3 seconds")
    suggested: list[int] = []
    async with asyncio.timeout(10):
        while not suggested:
            suggested = await jobs.index.claim(1)
    assert suggested == [row["id"]]
    assert len(await take(jobs, db, *suggested)) == 1, "the index must never be earlier than PostgreSQL"


async def test_a_job_that_has_become_due_has_its_place_before_anybody_claims(jobs: Queue, db: DB) -> None:
    """A new job's moment is rounded up and may lie a fraction of a millisecond ahead when it is announced."""
    row = await submit(jobs, db)
    await due_in(jobs, db, row, "1 hour")
    assert await jobs.index.rank(row["id"]) is None
    await due_in(jobs, db, row, "0.3 seconds")
    async with asyncio.timeout(10):
        while await jobs.index.rank(row["id"]) != 0:  # noqa: ASYNC110 - it is asked of Redis
            await asyncio.sleep(0.02)


@given(st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
@settings(max_examples=300, deadline=None)
def test_a_job_is_never_due_in_the_index_before_it_is_in_postgres(at: datetime) -> None:
    assert at <= EPOCH + timedelta(milliseconds=queue.due_ms(at)) <= at + timedelta(milliseconds=2)


async def test_a_beat_brings_leases_back_into_a_lost_index(jobs: Queue, db: DB, kv: KV) -> None:
    claim = await claimed(jobs, db)
    await jobs.index.claim(0)
    await flushed(kv)
    await jobs.beat([claim])
    assert await kv.client.zrange(kv.key("queue", "leases"), 0, -1) == [str(claim.job)]
    assert await kv.client.hgetall(kv.key("queue", "run")) == {str(ANN): "1"}
    await jobs.beat([claim])
    assert await kv.client.hgetall(kv.key("queue", "run")) == {str(ANN): "1"}


async def test_a_lost_lease_is_not_renewed_in_the_index(jobs: Queue, db: DB, kv: KV) -> None:
    id = await announced(jobs, db)
    (suggested,) = await jobs.index.claim(1)
    (claim,) = await take(jobs, db, suggested)
    before = await kv.client.zscore(kv.key("queue", "leases"), str(id))
    await crash(jobs, db, id)
    await jobs.beat([claim])
    assert await kv.client.zscore(kv.key("queue", "leases"), str(id)) == before


async def test_a_job_is_dropped_wherever_it_stands(jobs: Queue, db: DB, kv: KV) -> None:
    leased = await announced(jobs, db, priority=9)
    assert await jobs.index.claim(1) == [leased]
    ready, delayed = await announced(jobs, db), await submit(jobs, db)
    ((at,),) = await sql(
        db, "UPDATE jobs SET run_at = now() + interval '1 hour' WHERE id = %s RETURNING run_at", delayed["id"]
    )
    await jobs.announce(delayed | {"run_at": at})
    await jobs.forget([leased, ready, delayed["id"], 10**9])
    assert await keys(kv) == {"epoch"}


async def test_a_job_stands_in_one_place_only(jobs: Queue, db: DB, kv: KV) -> None:
    row = await submit(jobs, db)
    later = row | {"run_at": row["run_at"].replace(year=row["run_at"].year + 1)}
    for now in (row, later, row, later, row):
        await jobs.announce(now)
        assert await jobs.index.rank(row["id"]) == (0 if now is row else None)
        assert await kv.client.zcard(kv.key("queue", "delayed")) == (0 if now is row else 1)
    assert await jobs.index.claim(5) == [row["id"]]
    await jobs.forget([row["id"]])
    assert await keys(kv) == {"epoch"}


async def test_nothing_is_left_behind_when_all_is_done(jobs: Queue, db: DB, kv: KV) -> None:
    for user in [uuid4() for _ in range(10)]:
        for _ in range(3):
            await announced(jobs, db, user)
    while suggested := await jobs.index.claim(7):
        for claim in await take(jobs, db, *suggested):
            await complete(jobs, db, claim)
        await jobs.forget(suggested)
    assert await keys(kv) == {"epoch"}


async def test_claiming_passes_over_a_user_who_has_nothing(jobs: Queue, db: DB, kv: KV) -> None:
    id = await announced(jobs, db, BEN)
    await kv.client.zadd(kv.key("queue", "users"), {str(ANN): -1})
    await kv.client.zadd(kv.key("queue", "delayed"), {"77": 1})
    assert await jobs.index.claim(5) == [id]


async def test_what_a_worker_could_not_ask_about_is_suggested_to_the_next(jobs: Queue, db: DB, kv: KV) -> None:
    first, second = await announced(jobs, db, ANN), await announced(jobs, db, ANN)
    assert await jobs.index.claim(5) == [first, second]
    await jobs.give_back([first, second, 10**9])
    assert await kv.client.zcard(kv.key("queue", "leases")) == 0
    assert await jobs.index.claim(5) == [first, second]
    await jobs.give_back([first])
    await jobs.give_back([first])
    await jobs.forget([first, second])
    assert await keys(kv) == {"epoch"}


async def test_what_was_refused_comes_again_when_it_waits_and_never_when_it_ended(jobs: Queue, db: DB) -> None:
    waits, ended = await announced(jobs, db), await announced(jobs, db)
    assert await jobs.index.claim(5) == [waits, ended]
    await cancel(jobs, db, ended)
    await jobs.refused([waits, ended])
    assert await jobs.index.claim(5) == []
    suggested: list[int] = []
    async with asyncio.timeout(10):
        while not suggested:
            suggested = await jobs.index.claim(5)
            await asyncio.sleep(0.02)
    assert suggested == [waits]
