"""Whose turn it is: between users, and among the jobs of one."""

from collections import Counter
from uuid import UUID, uuid4

from tests.queueing import (
    ANN,
    BEN,
    announced,
    many,
    sql,
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


async def owners(db: DB) -> dict[int, UUID]:
    return dict(await sql(db, "SELECT id, user_id FROM jobs"))


async def test_users_are_served_in_turn_however_much_one_has_queued(db: DB, kv: KV) -> None:
    """Ann has 5,000 jobs of the highest priority; late comers with the lowest are each served within a round."""
    await many(db, ANN, 5000, priority=9)
    index = Index(db, kv, user_cap=10**6, lease_seconds=30)
    for _ in range(100):
        await index.claim(1)
    late = [uuid4() for _ in range(19)]
    for user in late:
        await many(db, user, 20, priority=0)
    await index.reconcile()
    owner = await owners(db)
    served: Counter[UUID] = Counter(dict.fromkeys([ANN, *late], 0))
    for _ in range(20):  # until then all of them have something left
        for _ in range(20):
            served[owner[(await index.claim(1))[0]]] += 1
            assert max(served.values()) - min(served.values()) <= 1
        assert len(set(served.values())) == 1, "a round serves everybody once"


async def test_turns_hold_over_processes_batches_and_ends(db: DB, kv: KV) -> None:
    """Three processes with batches of their own sizes; what they took ends before or after the next claim."""
    users = [uuid4() for _ in range(7)]
    for n, user in enumerate(users):
        await many(db, user, 100 + 50 * n, priority=n)
    processes = [Index(db, kv, user_cap=10**6, lease_seconds=30) for _ in range(3)]
    owner, served, running = await owners(db), Counter(dict.fromkeys(users, 0)), []
    for n in range(100):
        taken = await processes[n % 3].claim(n % 3 * 2 + 1)
        served.update(owner[job] for job in taken)
        running.append(taken)
        if n % 2:
            await processes[n % 3].drop(running.pop(0))
        assert max(served.values()) - min(served.values()) <= 1
    assert served.total() > 290
