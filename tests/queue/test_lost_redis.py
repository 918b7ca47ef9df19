"""An index that is empty, old, half made or not there costs time and no job."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.queueing import (
    ANN,
    BEN,
    announced,
    complete,
    count,
    flushed,
    keys,
    many,
    sql,
    submit,
    take,
)
from tests.redises import OwnRedis
from ytdl import metrics, queue
from ytdl.db import DB
from ytdl.kv import KV, Down
from ytdl.queue import Index, Queue


async def test_an_index_that_was_lost_is_made_anew_by_the_next_call(jobs: Queue, db: DB, kv: KV) -> None:
    ids = [await announced(jobs, db) for _ in range(5)]
    await flushed(kv)
    assert await jobs.index.claim(10) == ids


async def test_a_thousand_and_more_jobs_come_back(jobs: Queue, db: DB) -> None:
    await many(db, ANN, 2500, priority=5)
    ids = [id for (id,) in await sql(db, "SELECT id FROM jobs ORDER BY id")]
    assert await Index(db, jobs.index._kv, user_cap=3000, lease_seconds=9).claim(3000) == ids


async def test_one_rebuild_is_enough_however_many_ask_at_once(jobs: Queue, db: DB, kv: KV) -> None:
    await announced(jobs, db)
    other = Index(db, kv, user_cap=100, lease_seconds=30)
    await other.claim(0)
    await flushed(kv)
    before = count(metrics.queue_rebuilds)
    await asyncio.gather(*(index.claim(0) for index in (jobs.index, other) for _ in range(20)))
    assert count(metrics.queue_rebuilds) - before == 1


async def test_those_who_wait_for_a_rebuild_hold_no_connections(jobs: Queue, db: DB, kv: KV) -> None:
    await jobs.index.claim(0)
    await flushed(kv)
    async with await psycopg.AsyncConnection.connect(db.url) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", (queue.REBUILD_LOCK,))
        waiting = [asyncio.create_task(jobs.index.claim(0)) for _ in range(30)]
        await asyncio.sleep(0.2)
        # With no connection left it would give up by itself, sooner than the lock would be given up.
        await submit(jobs, db)
    await asyncio.gather(*waiting)


async def test_losing_redis_in_the_middle_of_a_rebuild_does_not_make_it_wait_for_itself(
    jobs: Queue, db: DB, kv: KV
) -> None:
    await announced(jobs, db)
    await flushed(kv)
    sweep = jobs.index._sweep

    async def and_again(*args: Any) -> int:
        await flushed(kv)
        return await sweep(*args)

    jobs.index._sweep = and_again  # type: ignore[method-assign,assignment]
    async with asyncio.timeout(30):
        with pytest.raises(Down):
            await jobs.index.claim(1)
    jobs.index._sweep = sweep  # type: ignore[method-assign]
    assert len(await jobs.index.claim(1)) == 1


async def test_a_second_process_takes_on_the_same_index(jobs: Queue, db: DB, kv: KV) -> None:
    id = await announced(jobs, db)
    before = count(metrics.queue_rebuilds)
    assert await Index(db, kv, user_cap=5, lease_seconds=30).claim(5) == [id]
    assert await jobs.index.claim(5) == []
    assert count(metrics.queue_rebuilds) == before


async def test_a_call_of_an_older_incarnation_changes_nothing(jobs: Queue, db: DB, kv: KV) -> None:
    await announced(jobs, db)
    before = await keys(kv)
    calls: dict[str, list[Any]] = {"claim": [5, 1000], "drop": [1], "ensure": [9, "x", 1, 0], "beat": [9, 1, "x", 1]}
    for op, args in calls.items():
        old: list[Any] = [op, "0", 5, *args]
        assert await kv.script("queue", [kv.key("queue")], old) == "EPOCH"
    assert await keys(kv) == before
    assert len(await jobs.index.claim(5)) == 1


async def test_an_index_that_went_back_to_an_older_copy_is_made_anew(jobs: Queue, db: DB, kv: KV) -> None:
    """As after a restart of Redis from an old file."""
    await announced(jobs, db)
    epoch = await kv.get(kv.key("queue", "epoch"))
    assert epoch
    await flushed(kv)
    await announced(jobs, db)
    await flushed(kv)
    await kv.client.set(kv.key("queue", "epoch"), epoch)
    assert len(await jobs.index.claim(5)) == 2


async def test_without_redis_everything_but_claiming_goes_on(db: DB) -> None:
    nobody = KV("redis://127.0.0.1:1", "nobody")
    jobs = Queue(db, nobody)
    id = await announced(jobs, db)
    (claim,) = await take(jobs, db, id)
    assert await jobs.beat([claim]) == (set(), set())
    assert await complete(jobs, db, claim) == "completed"
    await jobs.forget([id])
    await submit(jobs, db)
    for call in (jobs.index.claim(1), jobs.index.rank(id), jobs.index.reconcile()):
        with pytest.raises(Down):
            await call
    await nobody.close()


@pytest.fixture
async def alone(db: DB, own_redis: OwnRedis) -> AsyncIterator[Queue]:
    """A queue whose Redis may be killed."""
    kv = KV(own_redis.url, "p")
    yield Queue(db, kv)
    await kv.close()


async def test_a_redis_that_comes_back_empty_is_filled_within_two_seconds(
    alone: Queue, db: DB, own_redis: OwnRedis
) -> None:
    ids = [await announced(alone, db)]
    own_redis.kill()
    ids.append(await announced(alone, db))
    await own_redis.start()
    async with asyncio.timeout(10):
        assert await claimed_when_up(alone, seconds=2.0) == ids


async def test_a_redis_that_comes_back_with_an_older_file_suggests_and_is_corrected(
    alone: Queue, db: DB, own_redis: OwnRedis
) -> None:
    """The file knows an ended job as waiting and does not know a new one."""
    ended, waiting = await announced(alone, db, priority=9), await announced(alone, db)
    file = await own_redis.saved()
    (claim,) = await take(alone, db, *await alone.index.claim(1))
    await complete(alone, db, claim)
    await alone.forget([ended])
    new = await announced(alone, db)
    own_redis.kill()
    await own_redis.start(file)
    assert await claimed_when_up(alone) == [ended, waiting]
    assert [claim.job for claim in await take(alone, db, ended, waiting)] == [waiting]
    assert (await alone.index.reconcile(), await alone.index.claim(5)) == (1, [new])


async def test_a_redis_that_comes_back_with_a_file_of_an_earlier_index_is_filled_at_once(
    alone: Queue, db: DB, own_redis: OwnRedis
) -> None:
    ids = [await announced(alone, db)]
    file = await own_redis.saved()
    await own_redis.flush()
    ids.append(await announced(alone, db))
    own_redis.kill()
    await own_redis.start(file)
    assert await claimed_when_up(alone) == ids


async def test_a_start_that_is_alone_forgets_what_a_dead_process_was_just_taking(jobs: Queue, db: DB) -> None:
    id = await announced(jobs, db)
    assert await jobs.index.claim(1) == [id]
    assert await jobs.index.claim(1) == []
    await jobs.disown()
    assert await jobs.index.claim(1) == [id]


async def claimed_when_up(jobs: Queue, seconds: float = 3.0) -> list[int]:
    """As the claim loop does it: a Redis that was away is asked again. What the machine stands still is not counted."""
    for _ in range(round(seconds / 0.1)):
        with contextlib.suppress(Down):
            return await jobs.index.claim(5)
        await asyncio.sleep(0.1)
    raise AssertionError("Redis does not come back.")


async def test_making_the_index_anew_leaves_nothing_of_the_old_one(db: DB, kv: KV) -> None:
    """Of users with jobs ready, of one who has as many running as he may, and of delayed ones."""
    jobs = Queue(db, kv, user_cap=1)
    for user in (ANN, ANN, BEN, BEN):
        await announced(jobs, db, user)
    row = await submit(jobs, db)
    await jobs.announce(row | {"run_at": row["run_at"] + timedelta(days=365)})
    assert len(await jobs.index.claim(1)) == 1
    assert await keys(kv) > {f"u:{ANN}", f"u:{BEN}", "users", "run", "delayed"}
    await sql(db, "DELETE FROM jobs")
    await jobs.index.rebuild()
    assert await keys(kv) == {"epoch"}
