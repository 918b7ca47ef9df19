"""Whose turn it is: between users, and among the jobs of one."""

from collections import Counter
from uuid import UUID, uuid4

from tests.queueing import (
    ANN,
    BEN,
    announced,
    many,
    take,
)
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Index, Queue


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
