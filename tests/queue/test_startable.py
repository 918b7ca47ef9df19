"""What waits for the service, as told apart from what waits for its own user's other downloads."""

from uuid import uuid4

import pytest

from tests.queueing import ANN, BEN, claimed, sql, submit
from ytdl import metrics
from ytdl import sql as queries
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Queue

q = queries.load("queue")


async def oldest(db: DB, *, user_cap: int) -> float:
    found: float = await db.value(q.oldest_startable_seconds, user_cap=user_cap)
    return found


def waits() -> float:
    return metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_count") or 0.0


async def aged(db: DB, job: int, seconds: float) -> None:
    await sql(db, "UPDATE jobs SET run_at = now() - make_interval(secs => %s) WHERE id = %s", seconds, job)


async def test_the_oldest_job_that_may_start_is_told_by_its_age(jobs: Queue, db: DB) -> None:
    for user, age in ((ANN, 20), (BEN, 40), (ANN, 10)):
        await aged(db, (await submit(jobs, db, user))["id"], age)
    assert await oldest(db, user_cap=1) == pytest.approx(40, abs=5)


async def test_nothing_waits_where_nothing_is_due(jobs: Queue, db: DB) -> None:
    assert await oldest(db, user_cap=1) == 0
    await aged(db, (await submit(jobs, db))["id"], -60)
    assert await oldest(db, user_cap=1) == 0


async def test_who_runs_as_many_as_allowed_waits_for_nobody_else(jobs: Queue, db: DB) -> None:
    await claimed(jobs, db)
    await aged(db, (await submit(jobs, db))["id"], 40)
    await aged(db, (await submit(jobs, db, BEN))["id"], 20)
    assert await oldest(db, user_cap=1) == pytest.approx(20, abs=5)
    assert await oldest(db, user_cap=2) == pytest.approx(40, abs=5)


async def test_a_users_own_limit_counts_instead_of_the_usual_one(jobs: Queue, db: DB) -> None:
    user = uuid4()
    await sql(
        db,
        "INSERT INTO users (id, username, email, password_hash, full_name, role, concurrent_downloads)"
        " VALUES (%s, %s, %s, 'x', 'x', 'user', 2)",
        user, f"u{user.hex[:8]}", f"{user.hex}@example.org",
    )  # fmt: skip
    await claimed(jobs, db, user=user)
    await aged(db, (await submit(jobs, db, user))["id"], 40)
    assert await oldest(db, user_cap=1) == pytest.approx(40, abs=5)


async def test_a_wait_is_counted_while_its_user_may_run_more(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    before = waits()
    await claimed(jobs, db)
    assert waits() == before + 1
    await claimed(jobs, db)
    await claimed(jobs, db, user=BEN)
    assert waits() == before + 2


async def test_waits_of_jobs_that_are_claimed_together_are_not_counted_where_they_reach_the_limit(
    db: DB, kv: KV
) -> None:
    jobs = Queue(db, kv, user_cap=2)
    before = waits()
    ids = [(await submit(jobs, db, user))["id"] for user in (ANN, ANN, BEN)]
    async with db.transaction() as tx:
        assert len(await jobs.claim(tx, ids)) == 3
    assert waits() == before + 1
