"""What PostgreSQL decides: who gets a job, who may still change it, what is written of it."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.queueing import (
    ANN,
    cancel,
    claimed,
    complete,
    count,
    crash,
    due,
    fail,
    hand_back,
    history,
    job,
    sql,
    submit,
    take,
)
from ytdl import metrics
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Queue


async def test_a_job_that_was_never_announced_is_found_by_reconciliation(jobs: Queue, db: DB) -> None:
    await jobs.index.claim(1)
    row = await submit(jobs, db)
    assert await jobs.index.claim(1) == []
    assert await jobs.index.reconcile() == 1
    assert await jobs.index.reconcile() == 0
    assert await jobs.index.claim(1) == [row["id"]]


async def test_a_job_that_is_rolled_back_never_was(jobs: Queue, db: DB) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await jobs.submit(tx, "download", uuid4(), ANN, priority=5, dedup_key=b"k", max_tries=5)
            raise ZeroDivisionError
    assert await sql(db, "SELECT count(*) FROM jobs") == [(0,)]
    assert await sql(db, "SELECT count(*) FROM job_events") == [(0,)]


@pytest.mark.parametrize(
    "made_stale",
    [
        "state = 'completed', finished_at = now()",
        "state = 'cancelled', finished_at = now()",
        "run_at = now() + interval '1 hour'",
        "cancel_requested_at = now()",
        "state = 'running', lease_owner = gen_random_uuid(), lease_until = now() + interval '1 hour'",
    ],
)
async def test_a_stale_suggestion_is_refused(jobs: Queue, db: DB, made_stale: str) -> None:
    id = (await submit(jobs, db))["id"]
    await sql(db, f"UPDATE jobs SET {made_stale} WHERE id = %s", id)
    assert await take(jobs, db, id, id + 1000) == []
    assert await history(db, id) == [("submit", 0)]


async def test_of_many_claims_at_once_one_gets_each_job(jobs: Queue, db: DB, kv: KV) -> None:
    ids = [(await submit(jobs, db))["id"] for _ in range(10)]
    other = Queue(db, kv)
    got = await asyncio.gather(*(take(q, db, *ids[::step]) for q in (jobs, other) for step in (1, -1)))
    assert sorted(c.job for claims in got for c in claims) == ids
    assert {c.fence for claims in got for c in claims} == {1}


async def test_a_claim_tells_how_long_the_job_was_due(jobs: Queue, db: DB) -> None:
    def waited() -> float:
        return metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_sum") or 0.0

    row, before = await submit(jobs, db), waited()
    await sql(db, "UPDATE jobs SET created_at = now() - interval '1 day', run_at = now() - interval '90 s'")
    (claim,) = await take(jobs, db, row["id"])
    assert 90 <= waited() - before < 100
    assert 90 <= claim.waited_seconds < 100


async def test_a_claim_that_is_rolled_back_tells_nothing(jobs: Queue, db: DB) -> None:
    row, before = await submit(jobs, db), metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_count")
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            assert await jobs.claim(tx, [row["id"]])
            raise ZeroDivisionError
    assert metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_count") == before


async def test_the_fence_grows_with_each_claim_and_never_falls(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    fences = [claim.fence]
    for end in (hand_back, fail, hand_back):
        await end(jobs, db, claim)
        await due(db, claim.job)
        (claim,) = await take(jobs, db, claim.job)
        fences.append(claim.fence)
    await crash(jobs, db, claim.job)
    assert fences == [1, 2, 3, 4]
    assert (await job(db, claim.job))["fence"] == 4


async def test_every_transition_writes_one_event_with_its_writers_fence(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    await fail(jobs, db, claim)
    await due(db, claim.job)
    (claim,) = await take(jobs, db, claim.job)
    await hand_back(jobs, db, claim)
    (claim,) = await take(jobs, db, claim.job)
    await crash(jobs, db, claim.job)
    (claim,) = await take(jobs, db, claim.job)
    await complete(jobs, db, claim)
    assert await history(db, claim.job) == [
        ("submit", 0), ("claim", 1), ("retry_wait", 1), ("claim", 2), ("yield", 2), ("claim", 3), ("reap", 3),
        ("claim", 4), ("completed", 4),
    ]  # fmt: skip


async def test_nothing_happens_to_a_job_after_its_end(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    assert await complete(jobs, db, claim) == "completed"
    before = await history(db, claim.job)
    assert await complete(jobs, db, claim) is None
    assert await fail(jobs, db, claim) is None
    assert await hand_back(jobs, db, claim) is None
    assert await cancel(jobs, db, claim.job) is None
    assert await take(jobs, db, claim.job) == []
    assert await crash(jobs, db, claim.job) == []
    assert await history(db, claim.job) == before


async def test_a_zombie_changes_nothing_and_is_counted(jobs: Queue, db: DB) -> None:
    zombie = await claimed(jobs, db)
    await crash(jobs, db, zombie.job)
    (newer,) = await take(jobs, db, zombie.job)
    before = {op: count(metrics.queue_fenced, op=op) for op in ("beat", "complete", "fail", "yield")}
    assert await jobs.beat([zombie]) == ({zombie.job}, set())
    assert await complete(jobs, db, zombie) is None
    assert await fail(jobs, db, zombie, permanent=True) is None
    assert await hand_back(jobs, db, zombie) is None
    assert {op: count(metrics.queue_fenced, op=op) - n for op, n in before.items()} == dict.fromkeys(before, 1)
    assert await complete(jobs, db, newer) == "completed"
    assert await history(db, newer.job) == [("submit", 0), ("claim", 1), ("reap", 1), ("claim", 2), ("completed", 2)]


async def test_a_zombie_whose_job_waits_again_changes_nothing(jobs: Queue, db: DB) -> None:
    zombie = await claimed(jobs, db)
    await crash(jobs, db, zombie.job)
    assert await complete(jobs, db, zombie) is None
    assert await jobs.beat([zombie]) == ({zombie.job}, set())
    assert (await job(db, zombie.job))["state"] == "queued"


async def test_a_beat_renews_what_is_held(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    await sql(db, "UPDATE jobs SET lease_until = now() + interval '1 second'")
    assert await jobs.beat([claim]) == (set(), set())
    ((left,),) = await sql(db, "SELECT extract(epoch FROM lease_until - now())::float8 FROM jobs")
    assert 25 < left <= 30


async def test_a_beat_with_nothing_held_is_well(jobs: Queue) -> None:
    assert await jobs.beat([]) == (set(), set())


async def test_a_waiting_job_is_cancelled_at_once(jobs: Queue, db: DB) -> None:
    id = (await submit(jobs, db))["id"]
    assert await cancel(jobs, db, id) == "cancelled"
    assert await cancel(jobs, db, id) is None
    assert await history(db, id) == [("submit", 0), ("cancelled", 0)]


@pytest.mark.parametrize("end", [complete, fail, hand_back])
async def test_a_running_job_hears_of_its_cancellation_and_ends_as_cancelled(jobs: Queue, db: DB, end: Any) -> None:
    claim = await claimed(jobs, db)
    assert await cancel(jobs, db, claim.job) == "running"
    assert await cancel(jobs, db, claim.job) == "running"
    assert await jobs.beat([claim]) == (set(), {claim.job})
    ended = await end(jobs, db, claim)
    assert ended == "cancelled" or ended["state"] == "cancelled"
    assert await history(db, claim.job) == [("submit", 0), ("claim", 1), ("cancel", 1), ("cancelled", 1)]


async def test_a_cancelled_job_whose_worker_died_ends_as_cancelled(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    await cancel(jobs, db, claim.job)
    assert [row["state"] for row in await crash(jobs, db, claim.job)] == ["cancelled"]
