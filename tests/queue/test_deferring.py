"""Jobs that are put off for what is no fault of theirs."""

from typing import Any

import pytest

from tests.queueing import cancel, claimed, complete, count, crash, due, hand_back, history, job, sql, take
from ytdl import metrics
from ytdl.db import DB, Row
from ytdl.queue import Claim, Queue
from ytdl.reasons import Waiting


async def defer(
    jobs: Queue, db: DB, claim: Claim, seconds: float = 60.0, waiting: Waiting = "egress"
) -> Row | None:  # fmt: skip
    async with db.transaction() as tx:
        return await jobs.defer(tx, claim, seconds, waiting)


async def reason(db: DB, id: int) -> Any:
    return (await sql(db, "SELECT waiting FROM jobs WHERE id = %s", id))[0][0]


async def test_a_job_that_is_put_off_keeps_its_tries_and_says_why(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db, tries=1)
    row = await defer(jobs, db, claim)
    assert row and row["state"] == "queued"
    found = await job(db, claim.job)
    assert (found["state"], found["tries"], found["crashes"], await reason(db, claim.job)) == ("queued", 0, 0, "egress")
    assert await history(db, claim.job) == [("submit", 0), ("claim", 1), ("yield", 1)]


async def test_a_job_that_is_put_off_is_not_taken_before_its_time(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    row = await defer(jobs, db, claim, 60)
    assert row
    await jobs.forget([claim.job])
    await jobs.announce(row)
    assert await jobs.index.claim(5) == []
    assert await take(jobs, db, claim.job) == []


async def test_the_next_attempt_knows_how_often_the_job_was_put_off(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    for _ in range(2):
        await defer(jobs, db, claim, 0)
        (claim,) = await take(jobs, db, claim.job)
    assert (claim.deferrals, claim.fence) == (2, 3)


async def test_being_put_off_for_the_disk_is_not_taken_for_a_refusal(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    waits: list[Waiting] = ["disk", "egress", "disk"]
    for waiting in waits:
        await defer(jobs, db, claim, 0, waiting)
        (claim,) = await take(jobs, db, claim.job)
    assert (claim.deferrals, claim.refusals) == (3, 1)


@pytest.mark.parametrize("end", ["claim", "cancel"])
async def test_the_reason_goes_when_the_wait_is_over(jobs: Queue, db: DB, end: str) -> None:
    claim = await claimed(jobs, db)
    await defer(jobs, db, claim)
    await due(db, claim.job)
    await (take(jobs, db, claim.job) if end == "claim" else cancel(jobs, db, claim.job))
    assert await reason(db, claim.job) is None


async def test_a_cancelled_job_ends_instead_of_being_put_off(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    await cancel(jobs, db, claim.job)
    row = await defer(jobs, db, claim)
    assert row and row["state"] == "cancelled"
    assert await reason(db, claim.job) is None


async def test_a_zombie_puts_nothing_off_and_is_counted(jobs: Queue, db: DB) -> None:
    zombie = await claimed(jobs, db)
    await crash(jobs, db, zombie.job)
    (newer,) = await take(jobs, db, zombie.job)
    before = count(metrics.queue_fenced, op="defer")
    assert await defer(jobs, db, zombie) is None
    assert count(metrics.queue_fenced, op="defer") == before + 1
    assert await complete(jobs, db, newer) == "completed"


async def test_only_the_end_that_comes_first_counts(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db)
    assert await defer(jobs, db, claim)
    assert await hand_back(jobs, db, claim) is None
    assert await reason(db, claim.job) == "egress"
