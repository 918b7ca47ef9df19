"""How many jobs the index would give: as many as a claim then takes."""

from uuid import uuid4

import pytest

from tests.queueing import ANN, BEN, announced, sql, submit
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Queue, due_ms


@pytest.mark.parametrize("wanted", [1, 3, 5, 50])
async def test_as_many_are_ready_as_a_claim_takes(db: DB, kv: KV, wanted: int) -> None:
    jobs = Queue(db, kv, user_cap=2)
    for user, number in ((ANN, 3), (BEN, 1), (uuid4(), 2)):
        for _ in range(number):
            await announced(jobs, db, user)
    found = await jobs.index.ready(wanted)
    assert found == min(5, wanted) == len(await jobs.index.claim(wanted))


async def test_of_users_who_have_their_share_nothing_is_ready(db: DB, kv: KV) -> None:
    jobs = Queue(db, kv, user_cap=2)
    for _ in range(5):
        await announced(jobs, db)
    await jobs.index.claim(2)
    assert await jobs.index.ready(10) == 0


async def test_what_has_become_due_is_ready(jobs: Queue, db: DB, kv: KV) -> None:
    row = await submit(jobs, db)
    ((at,),) = await sql(db, "UPDATE jobs SET run_at = now() + interval '1 hour' RETURNING run_at")
    await jobs.announce(row | {"run_at": at})
    assert await jobs.index.ready(10) == 0
    delayed = kv.key("queue", "delayed")
    assert await kv.client.zscore(delayed, row["id"]) == due_ms(at)
    # As if it were an hour later.
    await kv.client.zincrby(delayed, -3_600_000, row["id"])
    assert await jobs.index.ready(10) == 1


async def test_looking_takes_nobodys_turn(jobs: Queue, db: DB) -> None:
    whose = {await announced(jobs, db, user): user for user in (ANN, ANN, BEN, BEN)}
    served = []
    for _ in range(4):
        await jobs.index.ready(1)
        served += [whose[job] for job in await jobs.index.claim(1)]
    assert served in ([ANN, BEN] * 2, [BEN, ANN] * 2)
