"""The same thing asked for twice."""

import asyncio
from uuid import uuid4

from tests.queueing import (
    ANN,
    BEN,
    cancel,
    claimed,
    complete,
    sql,
    submit,
)
from ytdl.db import DB, Row
from ytdl.queue import Queue


async def test_of_fifty_identical_submits_at_once_one_is_live(jobs: Queue, db: DB) -> None:
    async def ask() -> Row | None:
        async with db.transaction() as tx:
            return await jobs.submit(tx, "download", uuid4(), ANN, priority=5, dedup_key=b"same", max_tries=5)

    rows = await asyncio.gather(*(ask() for _ in range(50)))
    assert len([row for row in rows if row]) == 1
    assert await sql(db, "SELECT count(*) FROM jobs") == [(1,)]


async def test_another_user_may_ask_for_the_same(jobs: Queue, db: DB) -> None:
    first, second = await submit(jobs, db, ANN, key=b"k"), await submit(jobs, db, BEN, key=b"k")
    assert await jobs.live_subject(db, ANN, b"k") != await jobs.live_subject(db, BEN, b"k")
    assert first["id"] != second["id"]


async def test_a_job_that_is_being_cancelled_does_not_absorb_a_new_one(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db, key=b"k")
    await cancel(jobs, db, claim.job)
    assert await jobs.live_subject(db, ANN, b"k") is None
    assert (await submit(jobs, db, key=b"k"))["id"] != claim.job


async def test_after_the_end_the_same_may_be_asked_for_again(jobs: Queue, db: DB) -> None:
    claim = await claimed(jobs, db, key=b"k")
    await complete(jobs, db, claim)
    assert await submit(jobs, db, key=b"k")
