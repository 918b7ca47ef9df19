"""What waits for the service, as told apart from what waits for its own user's other downloads."""

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from tests.queueing import ANN, BEN, claimed, complete, crash, fail, hand_back, sql, submit, take
from ytdl import metrics
from ytdl import sql as queries
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import MAX_CRASHES, Claim, Queue

q = queries.load("queue")


async def oldest(db: DB, *, user_cap: int) -> float:
    found: float = await db.value(q.oldest_startable_seconds, user_cap=user_cap, max_crashes=MAX_CRASHES)
    return found


def waits() -> float:
    return metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_count") or 0.0


def summed() -> float:
    return metrics.REGISTRY.get_sample_value("ytdl_queue_wait_seconds_sum") or 0.0


async def with_limit(db: DB, number: int) -> UUID:
    """A user of whom so many jobs may run at once."""
    user = uuid4()
    await sql(
        db,
        "INSERT INTO users (id, username, email, password_hash, full_name, role, concurrent_downloads)"
        " VALUES (%s, %s, %s, 'x', 'x', 'user', %s)",
        user, f"u{user.hex[:8]}", f"{user.hex}@example.org", number,
    )  # fmt: skip
    return user


async def aged(db: DB, job: int, seconds: float) -> None:
    await sql(db, "UPDATE jobs SET run_at = now() - make_interval(secs => %s) WHERE id = %s", seconds, job)


async def test_the_oldest_job_that_may_start_is_told_by_its_age(jobs: Queue, db: DB) -> None:
    for user, age in ((ANN, 20), (BEN, 40), (ANN, 10)):
        await aged(db, (await submit(jobs, db, user))["id"], age)
    assert await oldest(db, user_cap=1) == pytest.approx(40, abs=9)


async def test_nothing_waits_where_nothing_is_due(jobs: Queue, db: DB) -> None:
    assert await oldest(db, user_cap=1) == 0
    await aged(db, (await submit(jobs, db))["id"], -60)
    assert await oldest(db, user_cap=1) == 0


async def test_who_runs_as_many_as_allowed_waits_for_nobody_else(jobs: Queue, db: DB) -> None:
    await claimed(jobs, db)
    await aged(db, (await submit(jobs, db))["id"], 40)
    await aged(db, (await submit(jobs, db, BEN))["id"], 20)
    assert await oldest(db, user_cap=1) == pytest.approx(20, abs=9)
    assert await oldest(db, user_cap=2) == pytest.approx(40, abs=9)


async def test_a_users_own_limit_counts_instead_of_the_usual_one(jobs: Queue, db: DB) -> None:
    user = await with_limit(db, 2)
    await claimed(jobs, db, user=user)
    await aged(db, (await submit(jobs, db, user))["id"], 40)
    assert await oldest(db, user_cap=1) == pytest.approx(40, abs=9)


async def crashed(jobs: Queue, db: DB, times: int, age: float = 0, user: UUID = ANN) -> int:
    """A job that has lost its worker so often, and has been due for so many seconds since."""
    id = int((await submit(jobs, db, user))["id"])
    for _ in range(times):
        await take(jobs, db, id)
        await crash(jobs, db, id)
    await aged(db, id, age)
    return id


async def test_of_those_whose_next_crash_is_the_last_none_waits_for_the_service_while_one_runs(
    jobs: Queue, db: DB
) -> None:
    """A worker has one of them at a time, so that is what the others wait for."""
    first = await crashed(jobs, db, MAX_CRASHES - 1)
    await crashed(jobs, db, MAX_CRASHES - 1, 90)
    await crashed(jobs, db, MAX_CRASHES - 1, 60, BEN)
    assert await oldest(db, user_cap=5) == pytest.approx(90, abs=9)
    [running] = await take(jobs, db, first)
    assert await oldest(db, user_cap=5) == 0
    await complete(jobs, db, running)
    assert await oldest(db, user_cap=5) == pytest.approx(90, abs=9)


async def test_whoever_has_a_crash_left_waits_for_the_service_all_the_same(jobs: Queue, db: DB) -> None:
    await take(jobs, db, await crashed(jobs, db, MAX_CRASHES - 1))
    await crashed(jobs, db, MAX_CRASHES - 1, 90)
    await crashed(jobs, db, MAX_CRASHES - 2, 40)
    assert await oldest(db, user_cap=5) == pytest.approx(40, abs=9)


async def test_the_first_whose_next_crash_is_the_last_waits_for_the_service_whatever_else_runs(
    jobs: Queue, db: DB
) -> None:
    await claimed(jobs, db)
    await take(jobs, db, await crashed(jobs, db, MAX_CRASHES - 2))
    await crashed(jobs, db, MAX_CRASHES - 1, 90)
    assert await oldest(db, user_cap=5) == pytest.approx(90, abs=9)


async def observed(jobs: Queue, db: DB, job: int) -> float:
    """The seconds of the one wait that is counted when this job is claimed."""
    count, seconds = waits(), summed()
    assert len(await take(jobs, db, job)) == 1
    assert waits() == count + 1
    return summed() - seconds


async def left(db: DB, user: UUID, seconds: float) -> None:
    """As if what this user's jobs freed had come free so long ago."""
    await sql(db, "UPDATE jobs SET freed_at = freed_at - make_interval(secs => %s) WHERE user_id = %s", seconds, user)


async def ended(jobs: Queue, db: DB, claim: Claim, how: str) -> None:
    ends: dict[str, Callable[[Queue, DB, Claim], Awaitable[object]]]
    ends = {"completes": complete, "fails": fail, "is handed back": hand_back}
    if how == "loses its worker":
        await crash(jobs, db, claim.job)
    elif how == "is put off":
        async with db.transaction() as tx:
            await jobs.defer(tx, claim, 60, "egress")
    else:
        await ends[how](jobs, db, claim)


ENDS = ("completes", "fails", "is handed back", "is put off", "loses its worker")


@pytest.mark.parametrize("how", ENDS)
async def test_who_waits_for_their_own_download_waits_for_the_service_when_that_ends(db: DB, kv: KV, how: str) -> None:
    jobs = Queue(db, kv, user_cap=1)
    first = await claimed(jobs, db)
    await aged(db, next := (await submit(jobs, db))["id"], 3600)
    await ended(jobs, db, first, how)
    assert await oldest(db, user_cap=1) == pytest.approx(0, abs=9)
    await left(db, ANN, 70)
    assert await oldest(db, user_cap=1) == pytest.approx(70, abs=9)
    assert await observed(jobs, db, next) == pytest.approx(70, abs=9)


async def test_where_one_may_run_at_once_waiting_for_the_service_is_counted(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=1)
    await aged(db, id := (await submit(jobs, db))["id"], 90)
    assert await observed(jobs, db, id) == pytest.approx(90, abs=9)


async def test_of_slots_that_come_free_together_each_is_judged_from_then(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    running = [await claimed(jobs, db), await claimed(jobs, db)]
    waiting = [(await submit(jobs, db))["id"] for _ in running]
    for id in waiting:
        await aged(db, id, 3600)
    async with db.transaction() as tx:
        for claim in running:
            await jobs.complete(tx, claim)
    for id in waiting:
        assert await observed(jobs, db, id) == pytest.approx(0, abs=9)


async def test_an_end_below_the_limit_excuses_nothing(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=3)
    running = [await claimed(jobs, db), await claimed(jobs, db)]
    await aged(db, id := (await submit(jobs, db))["id"], 90)
    await complete(jobs, db, running[0])
    assert await observed(jobs, db, id) == pytest.approx(90, abs=9)


async def test_what_others_free_excuses_nothing(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=1)
    await aged(db, id := (await submit(jobs, db, BEN))["id"], 90)
    await complete(jobs, db, await claimed(jobs, db))
    assert await observed(jobs, db, id) == pytest.approx(90, abs=9)


async def test_a_job_keeps_what_it_freed_when_it_ends_again_below_the_limit(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    other, first = await claimed(jobs, db), await claimed(jobs, db)
    await hand_back(jobs, db, first)
    await complete(jobs, db, other)
    await aged(db, waiting := (await submit(jobs, db))["id"], 3600)
    [again] = await take(jobs, db, first.job)
    await complete(jobs, db, again)
    assert await observed(jobs, db, waiting) == pytest.approx(0, abs=9)


async def test_who_may_run_more_from_now_on_waits_from_now_on(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    await claimed(jobs, db)
    await aged(db, id := (await submit(jobs, db))["id"], 3600)
    await jobs.allow(ANN)
    assert await observed(jobs, db, id) == pytest.approx(0, abs=9)


async def test_a_user_with_a_limit_of_their_own_is_judged_by_that(jobs: Queue, db: DB) -> None:
    user = await with_limit(db, 1)
    first = await claimed(jobs, db, user=user)
    await aged(db, id := (await submit(jobs, db, user))["id"], 3600)
    await complete(jobs, db, first)
    assert await observed(jobs, db, id) == pytest.approx(0, abs=9)
