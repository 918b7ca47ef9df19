"""Jobs that fail, wait for their retry, or lose their workers."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.queueing import (
    claimed,
    complete,
    crash,
    due,
    fail,
    hand_back,
    job,
    sql,
    submit,
    take,
)
from ytdl import queue
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Claim, Queue


async def lose(jobs: Queue, db: DB, claim: Claim) -> None:
    await crash(jobs, db, claim.job)


@given(
    tries=st.integers(0, 100),
    base=st.floats(0.001, 60),
    floor=st.floats(0, queue.FLOOR_CAP_SECONDS),
)
@settings(max_examples=2_000, deadline=None)
def test_the_wait_lies_between_the_floor_and_the_doubling_bound(tries: int, base: float, floor: float) -> None:
    wait = queue.backoff(tries, base, floor)
    assert floor <= wait <= floor + min(queue.BACKOFF_CAP_SECONDS, base * 2**tries) + 1e-6


@pytest.mark.parametrize("asked", [1e12, float("inf"), float("nan"), -5.0])
async def test_no_wait_that_upstream_asks_for_can_break_the_transition(jobs: Queue, db: DB, asked: float) -> None:
    claim = await claimed(jobs, db)
    row = await fail(jobs, db, claim, floor=asked)
    assert row and row["state"] == "retry_wait"


async def test_a_failed_attempt_waits_as_long_as_it_should(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    assert await fail(jobs, db, claim, floor=60)
    ((wait,),) = await sql(db, "SELECT extract(epoch FROM run_at - now())::float8 FROM jobs")
    assert 30 < wait <= 60 + 0.1


async def test_a_permanent_failure_is_the_end(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    row = await fail(jobs, db, claim, permanent=True)
    assert row and row["state"] == "failed"


async def test_the_last_try_that_fails_is_the_end(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db, tries=2)
    await fail(jobs, db, claim)
    await due(db, claim.job)
    (claim,) = await take(jobs, db, claim.job)
    row = await fail(jobs, db, claim)
    assert row and (row["state"], row["tries"]) == ("failed", 2)


async def test_neither_hand_backs_nor_crashes_use_up_tries(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db, tries=1)
    for _ in range(3):
        await hand_back(jobs, db, claim)
        (claim,) = await take(jobs, db, claim.job)
    for _ in range(2):
        await crash(jobs, db, claim.job)
        (claim,) = await take(jobs, db, claim.job)
    assert (await job(db, claim.job))["tries"] == 0


async def defer(jobs: Queue, db: DB, claim: Claim) -> None:
    async with db.transaction() as tx:
        await jobs.defer(tx, claim, 0, "egress")


NO_FAILURES = (hand_back, lose, defer)


@given(may=st.integers(1, 6), ends=st.lists(st.sampled_from([fail, fail, *NO_FAILURES]), max_size=12))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_job_is_tried_as_often_as_it_may_fail_whatever_else_befalls_it(
    database_url: str, redis_url: str, may: int, ends: list[Any]
) -> None:
    """Until one rule ends it: its last try, or its third lost worker."""

    async def live() -> None:
        db, kv = DB(database_url, size=2), KV(redis_url, "life")
        await db.open()
        jobs, failures, crashes = Queue(db, kv, base_backoff=0), 0, 0
        claim = await claimed(jobs, db, tries=may)
        for end in ends:
            await end(jobs, db, claim)
            failures, crashes = failures + (end is fail), crashes + (end is lose)
            row = await job(db, claim.job)
            assert (row["tries"], row["crashes"]) == (failures, crashes)
            assert (row["state"] == "failed") == (failures == may or crashes == queue.MAX_CRASHES)
            if row["state"] == "failed":
                break
            (claim,) = await take(jobs, db, claim.job)
        await kv.close()
        await db.close()

    asyncio.run(live())


async def test_a_job_that_kills_its_workers_fails_and_others_go_on(jobs: Queue, db: DB) -> None:
    good, poison = await claimed(jobs, db), await claimed(jobs, db)
    states = []
    for _ in range(queue.MAX_CRASHES):
        states += [row["state"] for row in await crash(jobs, db, poison.job)]
        await take(jobs, db, poison.job)
    assert states == ["queued", "queued", "failed"]
    assert await complete(jobs, db, good) == "completed"


async def test_a_worker_has_one_job_at_a_time_whose_next_crash_is_the_last(jobs: Queue, db: DB, kv: KV) -> None:
    fresh, *suspects = [(await submit(jobs, db))["id"] for _ in range(4)]
    await sql(db, "UPDATE jobs SET crashes = %s WHERE id > %s", queue.MAX_CRASHES - 1, fresh)
    claims = {claim.job: claim for claim in await take(jobs, db, fresh, *suspects)}
    assert set(claims) == {fresh, suspects[0]}
    assert await take(jobs, db, *suspects) == []
    assert [claim.job for claim in await take(Queue(db, kv), db, *suspects)] == [suspects[1]]
    await complete(jobs, db, claims[suspects[0]])
    assert [claim.job for claim in await take(jobs, db, *suspects)] == [suspects[2]]


async def test_a_worker_that_dies_again_and_again_ends_one_of_its_jobs_and_not_all(jobs: Queue, db: DB) -> None:
    ids = [(await submit(jobs, db))["id"] for _ in range(10)]
    states: list[str] = []
    for _ in range(queue.MAX_CRASHES):
        await take(jobs, db, *ids)
        await jobs.disown()
        async with db.transaction() as tx:
            states += [row["state"] for row in await jobs.reap(tx)]
    assert states == ["queued"] * 20 + ["failed"]


async def test_two_reapers_at_once_take_each_job_once(jobs: Queue, db: DB, kv: KV) -> None:
    ids = [(await submit(jobs, db))["id"] for _ in range(150)]
    await take(jobs, db, *ids)
    assert await jobs.disown() == 150

    neither_waits_for_the_other = asyncio.Barrier(2)

    async def reap(owner: Queue) -> list[int]:
        async with db.transaction() as tx:
            rows = await owner.reap(tx)
            await neither_waits_for_the_other.wait()
            return [row["id"] for row in rows]

    async with asyncio.timeout(30):
        taken = await asyncio.gather(*(reap(owner) for owner in (jobs, Queue(db, kv))))
    assert max(len(rows) for rows in taken) <= 100
    assert sorted(id for rows in taken for id in rows) == ids


async def test_a_lease_that_runs_is_not_reaped(jobs: Queue, db: DB) -> None:
    await claimed(jobs, db)
    async with db.transaction() as tx:
        assert await jobs.reap(tx) == []


async def test_after_a_lost_answer_the_attempt_finds_its_own_commit(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    await complete(jobs, db, claim)
    row = await jobs.outcome(claim)
    assert row and row["state"] == "completed"
    assert await jobs.outcome(replace(claim, fence=claim.fence + 1)) is None
