"""The lease queue: PostgreSQL decides, Redis suggests.

Every change of a job is one conditional statement whose row count decides the race, and that writes the history in
the same commit. The fence names the attempt in each of them, so a worker that was thought dead can change nothing.
The index in Redis may be stale, doubled, rolled back or empty: that costs latency or a refused claim, never a job.
What a job is about is not known here; callers write their own rows in the same transaction.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from ytdl import errors, metrics, sql, tracing
from ytdl.db import DB, Row, Statements
from ytdl.kv import KV, Down
from ytdl.reasons import Waiting

log = logging.getLogger("ytdl.queue")
q = sql.load("queue")

# A job whose worker died this often is taken to be what kills them.
MAX_CRASHES = 3
BACKOFF_CAP_SECONDS = 900.0
# What upstream asks for is honoured up to a day; beyond that it is an error or a trick.
FLOOR_CAP_SECONDS = 86_400.0
# An advisory lock of its own: `db` and `users` have the two numbers before it.
REBUILD_LOCK = 7_402_003


def backoff(tries: int, base: float, floor: float = 0.0) -> float:
    """Seconds before the next try after `tries` failures: full jitter below a doubling bound of at most 15 minutes.

    `floor` is what upstream asked for (Retry-After); the jitter then comes on top of it, so that jobs that were
    refused together do not come back together.
    """
    asked = max(0.0, min(FLOOR_CAP_SECONDS, floor))
    return asked + random.uniform(0, min(BACKOFF_CAP_SECONDS, base * 2 ** min(tries, 20)))


def score(job: int, priority: int) -> int:
    """The user's own order: priority, then age. Exact in a double up to 2^49 jobs."""
    return (9 - priority) * 2**49 + job


def due_ms(run_at: datetime) -> int:
    """Rounded up: a job suggested a moment too early is refused, and dropped until the next reconciliation."""
    return math.ceil(run_at.timestamp() * 1000)


@dataclass(frozen=True)
class Claim:
    """One attempt at a job; `fence` names it for ever. `deferrals` is how often earlier ones were put off,
    `refusals` how often that was for a refusal of the site. `traceparent` is where the asking for it was in its trace,
    `waited_seconds` how long the job was due."""

    job: int
    fence: int
    subject: UUID
    user_id: UUID
    tries: int
    deferrals: int = 0
    refusals: int = 0
    traceparent: str | None = None
    waited_seconds: float = 0.0


def _claim(row: Row) -> Claim:
    counts = row["tries"], row["deferrals"], row["refusals"]
    told = row["traceparent"], row["waited_seconds"]
    return Claim(row["id"], row["fence"], row["subject"], row["user_id"], *counts, *told)


class Index:
    """The index in Redis. Every call may raise `Down`; none is needed for the truth."""

    def __init__(self, db: DB, kv: KV, *, user_cap: int, lease_seconds: float) -> None:
        self._db = db
        self._kv = kv
        self._cap = user_cap
        self._lease_ms = int(lease_seconds * 1000)
        self._prefix = kv.key("queue")
        self._epoch = ""
        self._rejoining = asyncio.Lock()

    async def ready(self, n: int) -> int:
        """How many jobs `claim(n)` would take just now."""
        return int(await self._call("ready", n))

    async def claim(self, n: int) -> list[int]:
        return [int(job) for job in await self._call("claim", n, self._lease_ms)]

    async def ensure(self, rows: Iterable[Row]) -> int:
        """How many of the waiting jobs the index did not know."""
        args = _members(rows)
        return int(await self._call("ensure", *args)) if args else 0

    async def beat(self, confirmed: Iterable[Row]) -> None:
        """Extends leases; only rows that PostgreSQL confirmed in this same beat may come here."""
        args = [a for r in confirmed for a in (r["id"], str(r["user_id"]), score(r["id"], r["priority"]))]
        await self._call("beat", self._lease_ms, *args)

    async def drop(self, jobs: Sequence[int]) -> None:
        if jobs:
            await self._call("drop", *jobs)

    async def give_back(self, jobs: Sequence[int]) -> None:
        await self._call("give_back", *jobs)

    async def rank(self, job: int) -> int | None:
        """How many ready jobs of the same user stand before it; `None` when it is not ready."""
        rank = int(await self._call("rank", job))
        return None if rank < 0 else rank

    async def _call(self, op: str, *args: Any) -> Any:
        for _ in range(3):
            epoch = self._epoch
            reply = await self._move(op, *args)
            if reply != "EPOCH":
                return reply
            await self._rejoin(epoch)
        raise Down("The queue's index changes faster than it can be followed.", retry_after=2)

    async def _move(self, op: str, *args: Any) -> Any:
        return await self._kv.script("queue", [self._prefix], [op, self._epoch, self._cap, *args])

    async def _rejoin(self, refused: str) -> None:
        """Takes on the index's incarnation, or makes it anew when Redis has lost it or went back to an older one.

        One coroutine at a time, so that those that wait hold no connection.
        """
        async with self._rejoining:
            if self._epoch != refused:
                return
            async with self._db.transaction() as tx:
                await tx.one(q.lock_index, lock=REBUILD_LOCK)
                current = await self._kv.get(f"{self._prefix}:epoch")
                if current and int(current) > int(refused or 0):
                    self._epoch = current
                else:
                    await self._rebuild(tx)

    async def rebuild(self) -> None:
        """Makes the index anew, whatever it holds."""
        async with self._rejoining, self._db.transaction() as tx:
            await tx.one(q.lock_index, lock=REBUILD_LOCK)
            await self._rebuild(tx)

    async def _rebuild(self, tx: Statements) -> None:
        self._epoch = str(await tx.value(q.next_epoch))
        await self._move("reset")
        await self._move("caps", *await self._caps(tx))
        jobs = await self._sweep(tx, self._put)
        metrics.queue_rebuilds.inc()
        log.info("queue.rebuilt", extra={"epoch": self._epoch, "jobs": jobs})

    async def _put(self, rows: Iterable[Row]) -> int:
        """`ensure` while the index is being made: whoever makes it must not wait for himself to make it again."""
        reply = await self._move("ensure", *_members(rows))
        if reply == "EPOCH":
            raise Down("Redis lost the queue's index while it was being made.", retry_after=2)
        return int(reply)

    async def allow(self) -> None:
        """Tells the index who may run more or fewer jobs at once than others."""
        await self._call("caps", *await self._caps(self._db))

    async def _caps(self, db: Statements) -> list[Any]:
        return [a for row in await db.many(q.caps) for a in (str(row["id"]), row["concurrent_downloads"])]

    async def reconcile(self) -> int:
        """Puts waiting jobs that the index lost back into it and returns how many those were."""
        await self.allow()
        found = await self._sweep(self._db, self.ensure)
        metrics.queue_ensured.inc(found)
        return found

    async def _sweep(self, db: Statements, put: Callable[[list[Row]], Awaitable[int]]) -> int:
        after, found = 0, 0
        while page := await db.many(q.open_page, after=after):
            found += await put(page)
            after = page[-1]["id"]
        return found


def _members(rows: Iterable[Row]) -> list[Any]:
    return [a for r in rows for a in (r["id"], str(r["user_id"]), score(r["id"], r["priority"]), due_ms(r["run_at"]))]


class Queue:
    """Submitting, leasing and ending jobs. `owner` names this process in its leases."""

    def __init__(
        self, db: DB, kv: KV, *, lease_seconds: float = 30.0, user_cap: int = 10, base_backoff: float = 5.0
    ) -> None:
        self.owner = uuid4()
        self.lease_seconds = lease_seconds
        self._db = db
        self._base_backoff = base_backoff
        self._user_cap = user_cap
        self.index = Index(db, kv, user_cap=user_cap, lease_seconds=lease_seconds)

    async def submit(
        self,
        tx: Statements,
        kind: str,
        subject: UUID,
        user_id: UUID,
        *,
        priority: int,
        dedup_key: bytes | None,
        max_tries: int,
    ) -> Row | None:
        """The new job's row, for `announce` after the commit; `None` when the user has a live one like it."""
        row = await tx.maybe(
            q.submit,
            kind=kind,
            subject=subject,
            user_id=user_id,
            priority=priority,
            dedup_key=dedup_key,
            max_tries=max_tries,
            traceparent=tracing.traceparent(),
        )
        return self._counted(tx, "submit", row) if row else None

    async def live_subject(self, tx: Statements, user_id: UUID, dedup_key: bytes) -> UUID | None:
        found: UUID | None = await tx.value(q.live_subject, user_id=user_id, dedup_key=dedup_key)
        return found

    async def announce(self, row: Row) -> None:
        """Best effort, after the commit: without Redis the reconciler does it later."""
        try:
            await self.index.ensure([row])
        except errors.Unavailable:
            log.warning("queue.not_announced", extra={"job": row["id"]})

    async def allow(self, user_id: UUID) -> None:
        """After a user was given another number of jobs at once. Best effort: the reconciler does it later."""
        try:
            await self._db.exec(q.widen, user_id=user_id)
            await self.index.allow()
        except errors.Unavailable:
            log.warning("queue.caps_not_told")

    async def forget(self, jobs: Sequence[int]) -> None:
        """Best effort: a job left in the index is refused at claim and dropped then."""
        try:
            await self.index.drop(jobs)
        except errors.Unavailable:
            log.warning("queue.not_dropped", extra={"jobs": list(jobs)})

    async def give_back(self, jobs: Sequence[int]) -> None:
        """Best effort, for what was suggested and could not be asked about: it is suggested to the next who comes."""
        try:
            await self.index.give_back(jobs)
        except errors.Unavailable:
            log.warning("queue.not_given_back", extra={"jobs": list(jobs)})

    async def refused(self, jobs: Sequence[int]) -> int:
        """Best effort, after a claim: what it did not get leaves the index, or comes again a little later.

        How many of them left it for good, as far as that could be asked.
        """
        if not jobs:
            return 0
        try:
            await self.index.drop(jobs)
            waiting = await self._db.many(q.refused, ids=list(jobs))
            await self.index.ensure(waiting)
        except errors.Unavailable:
            log.warning("queue.not_dropped", extra={"jobs": list(jobs)})
            return 0
        return len(jobs) - len(waiting)

    async def claim(self, tx: Statements, jobs: Sequence[int]) -> list[Claim]:
        rows = await tx.many(
            q.claim, ids=list(jobs), owner=self.owner, lease_seconds=self.lease_seconds, max_crashes=MAX_CRASHES
        )
        for row in rows:
            self._counted(tx, "claim", row)
            exemplar = tracing.exemplar_of(row["traceparent"])
            tx.on_commit(partial(metrics.queue_wait_seconds.observe, row["kept_seconds"], exemplar))
        return [_claim(row) for row in rows]

    async def beat(self, held: Sequence[Claim]) -> tuple[set[int], set[int]]:
        """Renews what is held and returns the jobs that are (lost, to be cancelled)."""
        confirmed = await self._db.many(
            q.beat, ids=[c.job for c in held], fences=[c.fence for c in held], lease_seconds=self.lease_seconds
        )
        try:
            await self.index.beat(confirmed)
        except errors.Unavailable:
            log.warning("queue.index_not_renewed", extra={"jobs": len(confirmed)})
        lost = {c.job for c in held} - {r["id"] for r in confirmed}
        metrics.queue_fenced.labels("beat").inc(len(lost))
        return lost, {r["id"] for r in confirmed if r["cancel"]}

    async def complete(self, tx: Statements, claim: Claim) -> str | None:
        """The job's end state, `completed` or `cancelled`; `None` when the lease was lost."""
        row = await tx.maybe(q.complete, id=claim.job, fence=claim.fence, user_cap=self._user_cap)
        if row is None:
            self._fenced("complete")
            return None
        return str(self._counted(tx, "complete", row)["state"])

    async def fail(self, tx: Statements, claim: Claim, *, permanent: bool, floor: float = 0.0) -> Row | None:
        """Ends the attempt; the row says `failed`, `cancelled` or `retry_wait` and when. `None`: the lease was lost."""
        delay = backoff(claim.tries, self._base_backoff, floor)
        row = await tx.maybe(
            q.fail, id=claim.job, fence=claim.fence, permanent=permanent, delay_seconds=delay, user_cap=self._user_cap
        )
        if row is None:
            self._fenced("fail")
            return None
        return self._counted(tx, "retry" if row["state"] == "retry_wait" else "fail", row)

    async def hand_back(self, tx: Statements, claim: Claim) -> Row | None:
        """Hands the job back without using up a try; `None` when the lease was lost."""
        row = await self._handed_back(tx, claim, 0.0, None)
        if row is None:
            self._fenced("yield")
            return None
        return self._counted(tx, "yield", row)

    async def defer(self, tx: Statements, claim: Claim, delay_seconds: float, waiting: Waiting) -> Row | None:
        """Puts the job off without using up a try, with the reason on it; `None` when the lease was lost."""
        row = await self._handed_back(tx, claim, delay_seconds, waiting)
        if row is None:
            self._fenced("defer")
            return None
        return self._counted(tx, "defer", row)

    async def _handed_back(
        self, tx: Statements, claim: Claim, delay_seconds: float, waiting: Waiting | None
    ) -> Row | None:
        return await tx.maybe(
            q.hand_back, id=claim.job, fence=claim.fence, delay_seconds=delay_seconds, waiting=waiting,
            user_cap=self._user_cap,
        )  # fmt: skip

    async def hasten(self, jobs: Sequence[int], waiting: Waiting) -> int:
        """Ends the wait of jobs that were put off for this reason; how many those were."""
        rows = await self._db.many(q.hasten, ids=list(jobs), waiting=waiting)
        with contextlib.suppress(errors.Unavailable):
            await self.index.ensure(rows)
        return len(rows)

    def _counted(self, tx: Statements, op: str, row: Row) -> Row:
        tx.on_commit(metrics.queue_transitions.labels(op).inc)
        return row

    def _fenced(self, op: str) -> None:
        """Counts a refused write."""
        metrics.queue_fenced.labels(op).inc()

    async def outcome(self, claim: Claim) -> Row | None:
        """The job's row if this attempt is still its newest, for after a commit whose answer was lost."""
        row = await self._db.maybe(q.outcome, id=claim.job)
        return row if row and row["fence"] == claim.fence else None

    async def cancel(self, tx: Statements, job: int) -> str | None:
        """`cancelled` at once, `running` when its worker has to end it, `None` when it has ended already."""
        return (await self.cancel_many(tx, [job])).get(job)

    async def cancel_many(self, tx: Statements, jobs: Sequence[int]) -> dict[int, str]:
        """As `cancel`, by job; without those that have ended already."""
        rows = await tx.many(q.cancel, ids=list(jobs))
        return {row["id"]: self._counted(tx, "cancel", row)["state"] for row in rows}

    async def reap(self, tx: Statements) -> list[Row]:
        """Jobs taken back from dead workers, at most 100 a call."""
        rows = await tx.many(q.reap, max_crashes=MAX_CRASHES, user_cap=self._user_cap)
        return [self._counted(tx, "reap", row) for row in rows]

    async def disown(self) -> int:
        """Ends every lease, in the index too; only for a process that knows itself alone on this database."""
        ended = await self._db.exec(q.disown)
        with contextlib.suppress(errors.Unavailable):
            await self.index.rebuild()
        return ended
