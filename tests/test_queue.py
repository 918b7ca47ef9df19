"""The queue on real servers: what PostgreSQL decides, and what the index in Redis may never spoil."""

import asyncio
import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter as Metric
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.servers import Servers
from ytdl import metrics, queue
from ytdl.db import DB, Row
from ytdl.kv import KV, Down
from ytdl.queue import Claim, Index, Queue

ANN, BEN = uuid4(), uuid4()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def cloned(servers: Servers) -> Iterator[str]:
    url = servers.clone()
    yield url
    servers.drop(url)


@pytest.fixture
def database_url(cloned: str) -> str:
    """One database for all tests here, emptied before each: a clone a test would cost more than the tests."""
    with psycopg.connect(cloned, autocommit=True) as connection:
        connection.execute("DELETE FROM jobs")
    return cloned


@pytest.fixture
async def kv(redis_url: str) -> AsyncIterator[KV]:
    """Keys of this test only, because keys are counted."""
    client = KV(redis_url, f"queue-{uuid4()}")
    yield client
    await client.close()


@pytest.fixture
def jobs(db: DB, kv: KV) -> Queue:
    return Queue(db, kv, lease_seconds=30, user_cap=100, base_backoff=0.1)


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


def count(metric: Metric, **labels: str) -> float:
    return float((metric.labels(**labels) if labels else metric)._value.get())


# what PostgreSQL decides


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


# cancelling


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


# the same thing twice


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


# failing and dying


@given(
    tries=st.integers(0, 100),
    base=st.floats(0.001, 60),
    floor=st.floats(0, queue.FLOOR_CAP_SECONDS),
)
@settings(max_examples=1000, deadline=None)
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
    assert 55 < wait <= 60 + 0.1


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


async def test_a_job_that_kills_its_workers_fails_and_others_go_on(jobs: Queue, db: DB) -> None:
    good, poison = await claimed(jobs, db), await claimed(jobs, db)
    states = []
    for _ in range(queue.MAX_CRASHES):
        states += [row["state"] for row in await crash(jobs, db, poison.job)]
        await take(jobs, db, poison.job)
    assert states == ["queued", "queued", "failed"]
    assert await complete(jobs, db, good) == "completed"


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

    async with asyncio.timeout(5):
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


# the index


async def flushed(kv: KV) -> None:
    """What a FLUSHALL does to this test's keys; other tests share the server."""
    if keys := [key async for key in kv.client.scan_iter(f"{kv.prefix}:*")]:
        await kv.client.delete(*keys)


async def keys(kv: KV) -> set[str]:
    return {key.removeprefix(f"{kv.prefix}:queue:") async for key in kv.client.scan_iter(f"{kv.prefix}:queue:*")}


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
        async with asyncio.timeout(1):
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
    async with asyncio.timeout(3):
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


async def test_leases_in_the_index_run_out(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, lease_seconds=0.1)
    id = await announced(jobs, db)
    assert await jobs.index.claim(1) == [id]
    assert await jobs.index.reconcile() == 0
    assert await jobs.index.claim(1) == []
    await asyncio.sleep(0.15)
    assert await jobs.index.claim(1) == []
    assert await jobs.index.reconcile() == 1
    assert await jobs.index.claim(1) == [id]


async def test_no_user_has_more_than_the_cap_running(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    ids = [await announced(jobs, db) for _ in range(5)]
    other = await announced(jobs, db, BEN)
    assert sorted(await jobs.index.claim(10)) == sorted([*ids[:2], other])
    assert await jobs.index.claim(10) == []
    await jobs.forget(ids[:1])
    assert await jobs.index.claim(10) == [ids[2]]


async def test_a_lower_cap_of_another_process_counts_for_its_own_claims(jobs: Queue, db: DB, kv: KV) -> None:
    for _ in range(3):
        await announced(jobs, db)
    assert len(await jobs.index.claim(1)) == 1
    assert await Index(db, kv, user_cap=1, lease_seconds=30).claim(5) == []


async def test_a_higher_cap_is_noticed_at_the_next_reconciliation(db: DB, kv: KV) -> None:
    low = Queue(db, kv, user_cap=1)
    ids = [await announced(low, db) for _ in range(3)]
    assert await low.index.claim(5) == ids[:1]
    await take(low, db, ids[0])
    high = Index(db, kv, user_cap=3, lease_seconds=30)
    await high.reconcile()
    assert await high.claim(5) == ids[1:]


async def test_priority_then_age_orders_a_users_own_jobs(jobs: Queue, db: DB) -> None:
    ids = {p: [await announced(jobs, db, priority=p) for _ in range(2)] for p in (5, 0, 9)}
    assert [await jobs.index.rank(id) for p in (9, 5, 0) for id in ids[p]] == [0, 1, 2, 3, 4, 5]
    assert await jobs.index.claim(10) == [*ids[9], *ids[5], *ids[0]]
    assert await jobs.index.rank(ids[9][0]) is None
    assert await jobs.index.rank(10**9) is None


async def test_users_are_served_in_turn_however_much_one_has_queued(jobs: Queue, db: DB, kv: KV) -> None:
    """Ann has 500 jobs of the highest priority; late comers with one of the lowest each are served within a round."""
    await many(db, ANN, 500, priority=9)
    index = Index(db, kv, user_cap=10**6, lease_seconds=30)
    for _ in range(100):
        await index.claim(1)
    late = [uuid4() for _ in range(5)]
    owner = {await announced(jobs, db, user, priority=0): user for user in late for _ in range(20)}
    served: Counter[UUID] = Counter()
    for n in range(1, 121):
        (id,) = await index.claim(1)
        served[owner.get(id, ANN)] += 1
        if n <= 114:  # until then all of them have something left
            assert max(served.values()) - min(served[user] for user in [ANN, *late]) <= 1
        assert n < len(late) + 1 or all(served[user] for user in late)


async def test_a_job_of_the_future_is_suggested_when_it_is_due(jobs: Queue, db: DB) -> None:
    row = await submit(jobs, db)
    ((at,),) = await sql(db, "UPDATE jobs SET run_at = now() + interval '0.3 second' RETURNING run_at")
    await jobs.announce(row | {"run_at": at})
    assert await jobs.index.claim(1) == []
    suggested: list[int] = []
    async with asyncio.timeout(2):
        while not suggested:
            suggested = await jobs.index.claim(1)
    assert suggested == [row["id"]]
    assert len(await take(jobs, db, *suggested)) == 1, "the index must never be earlier than PostgreSQL"


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


# without Redis


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
def lonely_redis(tmp_path: Path) -> Any:
    """Starts a Redis that keeps nothing; called again it starts another on the same socket."""
    from ytdl.embedded.redis import _program

    started: list[subprocess.Popen[bytes]] = []

    def start() -> str:
        for process in started:
            process.kill()
            process.wait()
        command = [_program(), "--port", "0", "--unixsocket", str(tmp_path / "r"), "--save", "", "--dir", str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        return f"unix://{tmp_path / 'r'}"

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_a_redis_that_comes_back_empty_is_filled_within_two_seconds(db: DB, lonely_redis: Any) -> None:
    kv = KV(lonely_redis(), "p")
    jobs = Queue(db, kv)
    await until_up(kv.client)
    ids = [await announced(jobs, db)]
    lonely_redis()
    ids.append(await announced(jobs, db))
    await until_up(kv.client)
    begun = time.monotonic()
    assert await claimed_when_up(jobs) == ids
    assert time.monotonic() - begun < 2
    await kv.close()


async def test_a_start_that_is_alone_forgets_what_a_dead_process_was_just_taking(jobs: Queue, db: DB) -> None:
    id = await announced(jobs, db)
    assert await jobs.index.claim(1) == [id]
    assert await jobs.index.claim(1) == []
    await jobs.disown()
    assert await jobs.index.claim(1) == [id]


async def claimed_when_up(jobs: Queue) -> list[int]:
    """As the claim loop does it: a Redis that was away is asked again."""
    for _ in range(30):
        with contextlib.suppress(Down):
            return await jobs.index.claim(5)
        await asyncio.sleep(0.1)
    raise AssertionError("Redis does not come back.")


async def until_up(client: Redis) -> None:
    for _ in range(100):
        try:
            await client.ping()
            return
        except RedisError:
            await asyncio.sleep(0.05)
    raise AssertionError("Redis does not start.")
