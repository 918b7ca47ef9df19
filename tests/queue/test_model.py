"""The queue against a model: whatever happens in whatever order, PostgreSQL says what the model says.

Two workers, users and the faults of Redis and of workers, in an order that Hypothesis makes up. `make model` looks
longer, for a night; YTDL_MODEL_EXAMPLES and YTDL_MODEL_STEPS say how long.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from tests.servers import Servers
from ytdl import queue
from ytdl.db import DB, Row
from ytdl.kv import KV
from ytdl.queue import Claim, Queue

USERS = [UUID(int=n) for n in (1, 2)]
OPEN, ENDED = ("queued", "retry_wait"), ("completed", "failed", "cancelled")
MAX_TRIES = 3
# Whether what follows a commit is done: a crash in between is rare, but not that rare here.
MOSTLY = st.sampled_from([True, True, True, False])
EXAMPLES = int(os.environ.get("YTDL_MODEL_EXAMPLES", "25"))
STEPS = int(os.environ.get("YTDL_MODEL_STEPS", "30"))


@dataclass
class Job:
    """What the model knows of a job."""

    user: UUID
    key: bytes
    state: str = "queued"
    fence: int = 0
    tries: int = 0
    crashes: int = 0
    cancelling: bool = False
    worker: int = 0
    events: list[tuple[str, int]] = field(default_factory=lambda: [("submit", 0)])

    def become(self, state: str, event: str | None = None) -> None:
        self.state = state
        self.events.append((event or state, self.fence))


class Model(RuleBasedStateMachine):
    """Two workers; a claim that one ever had may be used at any time later, by then perhaps a zombie's."""

    url: ClassVar[str]
    redis_url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.jobs: dict[int, Job] = {}
        self.rows: dict[int, Row] = {}
        self.claims: list[Claim] = []
        self.used = 0
        self.copied = False
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.db = DB(self.url, size=2)
        await self.db.open()
        self.kv = KV(self.redis_url, f"model-{uuid4()}")
        self.workers = [Queue(self.db, self.kv, lease_seconds=600, user_cap=3, base_backoff=0.000001) for _ in range(2)]
        self.sql = await psycopg.AsyncConnection.connect(self.url, autocommit=True, row_factory=dict_row)
        await self.sql.execute("DELETE FROM jobs")

    def teardown(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self._flush()
        await self._copy(self.kv.prefix, f"old-{self.kv.prefix}")
        await self.sql.close()
        await self.kv.close()
        await self.db.close()

    async def _flush(self) -> None:
        await self._copy(f"nothing-{self.kv.prefix}", self.kv.prefix)

    async def _copy(self, source: str, target: str) -> None:
        """Makes all keys below the one prefix what they are below the other."""
        client: Any = self.kv.client
        if old := [key async for key in client.scan_iter(f"{target}:*")]:
            await client.delete(*old)
        async for key in client.scan_iter(f"{source}:*"):
            await client.copy(key, target + key.removeprefix(source))

    def live(self, user: UUID, key: bytes) -> bool:
        """Whether the user has a live job under the key that is not on its way out."""
        return any(
            (j.user, j.key) == (user, key) and j.state not in ENDED and not j.cancelling for j in self.jobs.values()
        )

    def holds(self, claim: Claim) -> Job | None:
        """The job, if the claim is still its lease."""
        job = self.jobs[claim.job]
        return job if (job.state, job.fence) == ("running", claim.fence) else None

    # what users do

    @rule(
        user=st.sampled_from(USERS),
        keys=st.lists(st.binary(min_size=1, max_size=1), min_size=1, max_size=5),
        told=MOSTLY,
    )
    def submit(self, user: UUID, keys: list[bytes], told: bool) -> None:
        for key in keys:
            row = self.runner.run(self._submit(user, key))
            assert (row is None) == self.live(user, key)
            if row:
                self.jobs[row["id"]], self.rows[row["id"]] = Job(user, key), row
                if told:
                    self.runner.run(self.workers[0].announce(row))

    async def _submit(self, user: UUID, key: bytes) -> Row | None:
        async with self.db.transaction() as tx:
            return await self.workers[0].submit(
                tx, "download", uuid4(), user, priority=5, dedup_key=key, max_tries=MAX_TRIES
            )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def announce_late(self, data: st.DataObject) -> None:
        """Whatever has become of the job since; the index then suggests what it should not."""
        self.runner.run(self.workers[0].announce(self.rows[data.draw(st.sampled_from(sorted(self.rows)))]))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), told=MOSTLY)
    def cancel(self, data: st.DataObject, told: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[id]

        async def work() -> str | None:
            async with self.db.transaction() as tx:
                return await self.workers[0].cancel(tx, id)

        state = self.runner.run(work())
        if job.state in ENDED:
            assert state is None
            return
        assert state == ("running" if job.state == "running" else "cancelled")
        if job.state != "running":
            job.become("cancelled")
            if told:
                self.runner.run(self.workers[0].forget([id]))
        elif not job.cancelling:
            job.become("running", "cancel")
        job.cancelling = True

    # what workers do

    @precondition(lambda self: any(job.state != "completed" for job in self.jobs.values()))
    @rule(worker=st.sampled_from([0, 1]), number=st.integers(1, 4))
    def claim(self, worker: int, number: int) -> None:
        mine = self.workers[worker]

        async def work() -> tuple[list[int], list[Claim]]:
            suggested = await mine.index.claim(number)
            async with self.db.transaction() as tx:
                claims = await mine.claim(tx, suggested)
            await mine.forget([id for id in suggested if id not in {c.job for c in claims}])
            return suggested, claims

        self.used += 1
        suggested, claims = self.runner.run(work())
        due = {id for id in suggested if id in self.jobs and self.jobs[id].state in OPEN}
        assert {claim.job for claim in claims} == due - self._must_wait(worker, due)
        for claim in claims:
            job = self.jobs[claim.job]
            job.fence += 1
            job.worker = worker
            job.become("running", "claim")
            assert (claim.fence, claim.tries) == (job.fence, job.tries)
        # PostgreSQL names them in any order; a run that is done again must draw the same ones.
        self.claims += sorted(claims, key=lambda claim: claim.job)

    def _must_wait(self, worker: int, due: set[int]) -> set[int]:
        """Of jobs whose next crash is the last a worker has one at a time."""
        last = {id for id, job in self.jobs.items() if job.crashes == queue.MAX_CRASHES - 1}
        has_one = any(self.jobs[id].state == "running" and self.jobs[id].worker == worker for id in last)
        return set(sorted(due & last)[0 if has_one else 1 :])

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        held = data.draw(st.lists(st.sampled_from(self.claims), min_size=1, max_size=3, unique_by=lambda c: c.job))
        lost, cancelled = self.runner.run(self.workers[0].beat(held))
        assert lost == {claim.job for claim in held if not self.holds(claim)}
        assert cancelled == {claim.job for claim in held if (job := self.holds(claim)) and job.cancelling}

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), end=st.sampled_from(["complete", "fail", "give up", "hand back", "put off"]), told=MOSTLY)
    def end(self, data: st.DataObject, end: str, told: bool) -> None:
        """An attempt's end; it is not always told to the index."""
        claim = data.draw(st.sampled_from(self.claims))
        job = self.holds(claim)
        row = self.runner.run(self._end(claim, end))
        if job is None:
            assert row is None
            return
        if end in ("fail", "give up"):
            job.tries += 1
        gone = job.cancelling or end == "give up" or job.tries >= MAX_TRIES
        waits = {"complete": "completed", "fail": "failed" if gone else "retry_wait", "give up": "failed"}
        state = "cancelled" if job.cancelling else waits.get(end, "queued")
        job.become(state, "yield" if state == "queued" else None)
        assert (row if end == "complete" else row["state"]) == state
        if told:
            self.runner.run(self._tell(claim.job))

    async def _tell(self, id: int) -> None:
        """What is done after the commit: the index forgets the job, and hears of it anew if it waits."""
        await self.workers[0].forget([id])
        if self.jobs[id].state in OPEN:
            await self.workers[0].announce(self.rows[id])

    async def _end(self, claim: Claim, end: str) -> Any:
        mine = self.workers[0]
        async with self.db.transaction() as tx:
            if end == "complete":
                return await mine.complete(tx, claim)
            if end == "hand back":
                return await mine.hand_back(tx, claim)
            if end == "put off":
                return await mine.defer(tx, claim, 0, "egress")
            return await mine.fail(tx, claim, permanent=end == "give up")

    # what goes wrong

    @precondition(lambda self: any(job.state == "running" for job in self.jobs.values()))
    @rule(data=st.data(), told=MOSTLY)
    def crash(self, data: st.DataObject, told: bool) -> None:
        """A lease runs out and is taken back, by two reapers at once."""
        running = sorted(id for id, job in self.jobs.items() if job.state == "running")
        self._lose(data.draw(st.sampled_from(running)), told)

    def _lose(self, id: int, told: bool) -> None:
        rows = self.runner.run(self._reap(id))
        assert [row["id"] for row in rows] == [id]
        job = self.jobs[id]
        job.crashes += 1
        over = job.crashes >= queue.MAX_CRASHES
        state = "cancelled" if job.cancelling else "failed" if over else "queued"
        job.become(state, "reap" if state == "queued" else None)
        if told:
            self.runner.run(self._tell(id))

    @precondition(lambda self: any(job.state == "running" for job in self.jobs.values()))
    @rule(worker=st.sampled_from([0, 1]))
    def die(self, worker: int) -> None:
        """A worker dies with all that it has."""
        for id in [id for id, job in self.jobs.items() if job.state == "running" and job.worker == worker]:
            self._lose(id, True)

    async def _reap(self, id: int) -> list[Any]:
        await self.sql.execute("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = %s", (id,))

        async def reap(worker: Queue) -> list[Any]:
            async with self.db.transaction() as tx:
                return await worker.reap(tx)

        return [row for rows in await asyncio.gather(*map(reap, self.workers)) for row in rows]

    @precondition(lambda self: self.used > 2)
    @rule()
    def flush(self) -> None:
        """Only after the index was used a little; there is nothing to see in losing what is empty."""
        self.used = 0
        self.runner.run(self._flush())

    @precondition(lambda self: self.used)
    @rule()
    def save(self) -> None:
        """Redis writes its file."""
        self.copied = True
        self.runner.run(self._copy(self.kv.prefix, f"old-{self.kv.prefix}"))

    @precondition(lambda self: self.copied)
    @rule()
    def go_back(self) -> None:
        """Redis is started again from the file that it wrote, whatever has happened since."""
        self.runner.run(self._copy(f"old-{self.kv.prefix}", self.kv.prefix))

    @precondition(lambda self: self.used)
    @rule()
    def expire(self) -> None:
        """All leases in the index run out, whether or not their workers live."""
        self.runner.run(self._expire())

    async def _expire(self) -> None:
        client: Any = self.kv.client
        leases = self.kv.key("queue", "leases")
        if jobs := await client.zrange(leases, 0, -1):
            await client.zadd(leases, dict.fromkeys(jobs, 1))

    @precondition(lambda self: any(job.state in OPEN for job in self.jobs.values()))
    @rule(worker=st.sampled_from([0, 1]))
    def reconcile(self, worker: int) -> None:
        """After it the index lacks no job that waits, but for those it still holds for leased."""
        self.runner.run(self.workers[worker].index.reconcile())
        known = set(self.runner.run(self._known()))
        assert known >= {id for id, job in self.jobs.items() if job.state in OPEN}

    async def _known(self) -> list[int]:
        client: Any = self.kv.client
        return [int(id) for id in await client.hkeys(self.kv.key("queue", "jobs"))]

    # what always holds

    @invariant()
    def postgres_agrees(self) -> None:
        rows = self.runner.run(self._rows("SELECT * FROM jobs ORDER BY id"))
        assert {row["id"]: (row["state"], row["fence"], row["tries"], row["crashes"]) for row in rows} == {
            id: (job.state, job.fence, job.tries, job.crashes) for id, job in self.jobs.items()
        }
        for row in rows:
            assert (row["state"] == "running") == (row["lease_owner"] is not None)

    @invariant()
    def the_history_is_whole(self) -> None:
        """One event a transition, with a fence that never falls, and none after a terminal one."""
        found: dict[int, list[tuple[str, int]]] = {}
        for row in self.runner.run(self._rows("SELECT job_id, event, fence FROM job_events ORDER BY seq")):
            found.setdefault(row["job_id"], []).append((row["event"], row["fence"]))
        assert found == {id: job.events for id, job in self.jobs.items()}
        for events in found.values():
            assert [fence for _, fence in events] == sorted(fence for _, fence in events)
            assert not {event for event, _ in events[:-1]} & set(ENDED)

    @invariant()
    def the_index_is_sound(self) -> None:
        """A job stands in one place, and each user's number of leases is right."""
        places, leased, counted = self.runner.run(self._places())
        assert len(places) == len(set(places))
        assert leased == counted

    async def _places(self) -> tuple[list[str], dict[str, int], dict[str, int]]:
        def key(*parts: str) -> str:
            return self.kv.key("queue", *parts)

        client: Any = self.kv.client
        entries: dict[str, str] = await client.hgetall(key("jobs"))
        leases = await client.zrange(key("leases"), 0, -1)
        places = [*leases, *await client.zrange(key("delayed"), 0, -1)]
        for user in USERS:
            places += await client.zrange(key("u", str(user)), 0, -1)
        leased: dict[str, int] = {}
        for job in leases:
            owner = entries[job].partition("|")[0]
            leased[owner] = leased.get(owner, 0) + 1
        return places, leased, {user: int(n) for user, n in (await client.hgetall(key("run"))).items()}

    async def _rows(self, text: str) -> list[Any]:
        return await (await self.sql.execute(text.encode())).fetchall()


@pytest.fixture
def model(servers: Servers) -> Iterator[type[Model]]:
    url = servers.clone()

    class Bound(Model):
        pass

    Bound.url, Bound.redis_url = url, servers.redis_url
    yield Bound
    servers.drop(url)


def test_the_queue_does_what_its_model_does(model: type[Model]) -> None:
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
