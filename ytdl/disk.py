"""Room on the disk: promised before a transfer begins, and given in turn.

All processes write to one disk, so what was promised stands in PostgreSQL, and one asks at a time. A promise is how
large an attempt's folder may become; what the folder holds already is looked up where it lies, so nothing has to be
reported. It stands while its attempt runs, so no end has to take it back. Moving jobs in the queue is left to others.

Turns. Who is refused stands in line by the age of the job. The oldest in line whose wish can be met once all that runs
has ended keeps its place: younger ones get only what it would leave, so small downloads cannot starve a large one. That
lasts no longer than what runs now. A wish that not even that would meet needs somebody to delete files: it holds up
nobody, so a large download cannot block small ones for ever.
"""

import asyncio
import errno
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ytdl import metrics, sql
from ytdl.db import DB, Row, Statements
from ytdl.events import Events
from ytdl.fetcher import Failed, FetchFailed, Usage
from ytdl.queue import Claim, Queue
from ytdl.storage import Storage

log = logging.getLogger("ytdl.disk")
q = sql.load("disk")
# An advisory lock of its own: `db`, `users` and `queue` have the three numbers before it.
LOCK = 7_402_004
# What is promised where neither a size nor a bit rate is known.
UNKNOWN_BYTES = 64 * 2**20
# Notes, containers' own bytes and blocks that are not full come on top of what the site says of its streams.
MARGIN_BYTES = 2**20
MARGIN_PART = 64
# Who was refused is called as soon as there is room; the delay is for when nobody is there to call.
FIRST_DELAY_SECONDS = 60.0
LONGEST_DELAY_SECONDS = 900.0
LOOK_SECONDS = 5.0
# What a full disk can look like: ffmpeg, for one, may leave an empty file and call that a success.
SYMPTOMS = frozenset({"child_crashed", "extractor_broken", "internal", "processing_failed", "verification_failed"})
FULL = "The server's disk has no room for this download now."
NEVER = "The download is larger than the server's whole disk."


@dataclass(frozen=True)
class Room:
    """What one look found, in bytes and less the watermark. `at_work` is what running attempts hold now, `promised`
    what they may yet add."""

    whole: int
    free: int
    at_work: int
    promised: int

    @property
    def left(self) -> int:
        return self.free - self.promised

    @property
    def hope(self) -> int:
        """The most that can be left once everything that runs has ended."""
        return self.free + self.at_work


def delay(deferrals: int) -> float:
    """Seconds until a refused download asks again of its own accord, after that many earlier times."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(deferrals, 8)) * random.uniform(0.8, 1.2)


def demand(needed: int | None) -> int:
    """What has to be there for an attempt that says it will write `needed` bytes; nothing for nothing."""
    if needed is None:
        return UNKNOWN_BYTES
    return needed and needed + MARGIN_BYTES + needed // MARGIN_PART


class Disk:
    """`full` is what was last seen: true while nothing may be leased. `look_seconds` is how often to `tend`."""

    def __init__(self, db: DB, queue: Queue, storage: Storage, events: Events, *, watermark: int) -> None:
        self.look_seconds = LOOK_SECONDS
        self.full = False
        self._db = db
        self._queue = queue
        self._storage = storage
        self._events = events
        self._watermark = watermark
        self._promised = 0
        # Of this process one asks at a time, so that those that wait hold no connection.
        self._asking = asyncio.Lock()
        metrics.disk_watermark_bytes.set(watermark)

    async def may_lease(self) -> bool:
        """Whether anything is left above the watermark beside what was promised; asked of the disk anew."""
        free = await self._storage.free_bytes()
        self._see(free, free - self._promised < self._watermark)
        return not self.full

    def _see(self, free: int, full: bool) -> None:
        metrics.disk_free_bytes.set(free)
        if full != self.full:
            self.full = full
            facts = {"free_bytes": free, "promised_bytes": self._promised, "watermark_bytes": self._watermark}
            log.log(logging.WARNING if full else logging.INFO, "disk.full" if full else "disk.room", extra=facts)

    async def admit(self, claim: Claim, needed: int | None) -> bool:
        """Promises an attempt the room it needs; false when its lease was lost.

        Raises `FetchFailed`: `disk_full` when there is no room now, which gives the job its place in line, and
        `file_too_large` when it would not fit on the empty disk. May be asked again after a lost answer.
        """
        wanted = demand(needed)
        async with self._asking, self._db.transaction() as tx:
            await tx.one(q.lock, lock=LOCK)
            room, own = await self._look(tx, claim)
            if wanted > room.whole:
                raise _failure("file_too_large", NEVER, retryable=False)
            fits = await self._fits(tx, claim, wanted, room)
            reserved = own + wanted if fits else None
            noted = await tx.maybe(q.ask, job=claim.job, fence=claim.fence, wanted=wanted, reserved=reserved)
        if noted and not fits:
            raise _failure("disk_full", FULL, retryable=True)
        return noted is not None

    async def admit_again(self, claim: Claim) -> None:
        """Refuses an attempt whose predecessor was refused and that would be as well, before the site is asked."""
        if not claim.deferrals:
            return
        async with self._asking, self._db.transaction() as tx:
            await tx.one(q.lock, lock=LOCK)
            wanted = await tx.value(q.refused_before, job=claim.job, fence=claim.fence)
            if wanted is None:
                return
            room, _ = await self._look(tx, claim)
            if await self._fits(tx, claim, wanted, room):
                return
            await tx.maybe(q.ask, job=claim.job, fence=claim.fence, wanted=wanted, reserved=None)
        raise _failure("disk_full", FULL, retryable=True)

    async def _fits(self, tx: Statements, claim: Claim, wanted: int, room: Room) -> bool:
        ahead: int = await tx.value(q.ahead, job=claim.job, hope=room.hope) or 0
        return wanted <= max(room.left - ahead, 0)

    async def _look(self, db: Statements, claim: Claim | None) -> tuple[Room, int]:
        """The room there is for this attempt, and what its folder holds already."""
        rows = await db.many(q.promised, job=claim.job if claim else 0)
        attempts = [(row["subject"], row["job"], row["fence"]) for row in rows]
        own = [(claim.subject, claim.job, claim.fence)] if claim else []
        sizes, space = await self._storage.survey(attempts + own)
        promised = sum(max(row["reserved_bytes"] - size, 0) for row, size in zip(rows, sizes, strict=False))
        held = sum(sizes[: len(rows)])
        room = Room(space.total - self._watermark, space.free - self._watermark, held, promised)
        return room, sum(sizes[len(rows) :])

    async def blame(self, failure: Failed) -> Failed:
        """The failure, or the full disk where that may well be behind it."""
        if failure.code in SYMPTOMS and await self._storage.free_bytes() < self._watermark:
            return Failed("disk_full", FULL, retryable=True)
        return failure

    async def put_off(self, claim: Claim, *, admitted: bool) -> float:
        """The attempt ends for want of room: seconds until the next may begin. Whoever was let in and found the disk
        full all the same stands in line from now on, for all that was promised."""
        await self._db.exec(q.give_up, job=claim.job, fence=claim.fence)
        metrics.disk_deferred.labels("write" if admitted else "admit").inc()
        return delay(claim.deferrals)

    async def tend(self) -> int:
        """One round: calls those in line for whom there is room now, and returns how many."""
        room, _ = await self._look(self._db, None)
        self._promised = room.promised
        metrics.disk_reserved_bytes.set(room.promised)
        await self.may_lease()
        line = await self._db.many(q.line)
        called = called_by(line, room)
        if called:
            return await self._call(called)
        if line and not room.promised and not room.at_work:
            await self._clear_one(line, room)
        return 0

    async def _call(self, jobs: list[int]) -> int:
        come = await self._queue.hasten(jobs, "disk")
        if come:
            await self._events.tell("wake", "")
        return come

    async def _clear_one(self, line: Sequence[Row], room: Room) -> None:
        """Nothing runs and nobody in line fits: one of the partial files goes that the first of them lacks for whom
        all of the others' would do.

        Kept for later they would be what keeps everybody from finishing.
        """
        at_work = await self._storage.at_work()
        idle = await self._db.many(q.idle, ids=list(at_work))
        sizes = await self._storage.work_sizes([row["id"] for row in idle])
        held = {row["job"]: size for row, size in zip(idle, sizes, strict=True)}
        first = helped_by(line, room.left, held)
        if first is None:
            return
        for row in idle:
            if row["job"] != first and held[row["job"]] and await self._clear(row["id"], row["job"], row["fence"]):
                return

    async def _clear(self, download: UUID, job: int, fence: int) -> bool:
        async with self._db.transaction() as tx:
            if not await tx.maybe(q.hold_idle, job=job, fence=fence):
                return False
            await self._storage.clear_work(download, (job, fence))
        log.warning("disk.cleared", extra={"job": job, "download": str(download)})
        return True


def called_by(line: Sequence[Row], room: Room) -> list[int]:
    """Who of those in line, the oldest first, may ask again: as in `admit`, nobody gets past one whose turn comes."""
    left, called = room.left, []
    for row in line:
        if row["wanted_bytes"] <= max(left, 0):
            called.append(row["id"])
            left -= row["wanted_bytes"]
        elif row["wanted_bytes"] <= room.hope:
            break
    return called


def helped_by(line: Sequence[Row], left: int, held: Mapping[int, int]) -> int | None:
    """The first in line who would fit if the partial files of all other jobs went; nobody's own are in his way."""
    idle = sum(held.values())
    fits = (row["id"] for row in line if row["wanted_bytes"] <= left + idle - held.get(row["id"], 0))
    return next(fits, None)


def is_full(error: BaseException) -> bool:
    """Whether that is what the file system says when it has no room, or not for this user."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


async def sweep(db: DB) -> int:
    """Forgets the promises of jobs that have ended, and returns how many those were."""
    return await db.exec(q.forget)


def _failure(code: str, message: str, *, retryable: bool) -> FetchFailed:
    return FetchFailed(Failed(code, message, retryable), Usage())
