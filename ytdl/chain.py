"""The hash chain over the audit trail: events are linked soon after they were committed, and looked at again.

The link of an event is SHA-256 over the link before it (that of the first over `GENESIS`) and the event: for each
column of `COLUMNS` that is not NULL, in that order, its name and its text as netstrings (`2:id,36:0198...,`). The
texts are PostgreSQL's own, with `at` in seconds since 1970 to the microsecond, so they are the same in every session,
in every time zone and after a restore. A column added later changes no link as long as it is NULL in older rows.

It is made and checked by `link`, here and not in the database, where whoever may change rows may change functions too.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import psycopg

from ytdl import errors, loops, metrics, sql
from ytdl.db import DB, Row, Statements, Transaction

log = logging.getLogger("ytdl.audit")
q = sql.load("audit")

COLUMNS = (
    "id", "at", "type", "severity", "result", "user_id", "credential_id", "object_kind", "object_id", "ip",
    "request_id", "detail",
)  # fmt: skip
GENESIS = hashlib.sha256(b"ytdl audit chain").digest()
TOLD = "audit.sealed"
# So many are hashed in a few milliseconds.
BATCH = 200
BATCHES_A_ROUND = 50
# After a backup was put back all its events may wait, most of them with a link.
LINKED_BEFORE = 10_000
LINK_SECONDS = 1.0
TELL_SECONDS = 60.0
# How long a stop waits for the last links.
LAST_SECONDS = 3.0
CHECKED_AT_ONCE = 1000
# An event waits a second for its link; after this long nobody is linking.
PATIENCE_SECONDS = 60.0
# Before every number of a link, also of those that are none of ours.
LOWEST = -(2**63)


class Head(NamedTuple):
    """The last link. Whoever keeps it elsewhere can tell later that no link up to it was changed or taken away."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


START = Head(0, GENESIS)


class Broken(Exception):
    """The trail is not what was written; the text says where and what."""


class Absent(Exception):
    """The database has no audit chain."""


def link(before: bytes, event: Row) -> bytes:
    """The hash of an event's link; `event` is a row of `as_linked`, all texts."""
    parts = [before]
    for name in COLUMNS:
        if event[name] is not None:
            value = event[name].encode()
            parts.append(b"%d:%s,%d:%s," % (len(name), name.encode(), len(value), value))
    return hashlib.sha256(b"".join(parts)).digest()


def read_head(text: str) -> Head:
    """Raises `ValueError` for what is not like `12:9f...`."""
    seq, _, hash = text.strip().partition(":")
    head = Head(int(seq), bytes.fromhex(hash))
    if head.seq < 0 or len(head.hash) != len(GENESIS):
        raise ValueError("not a head")
    return head


def told_heads(lines: Iterable[str]) -> list[Head]:
    """The heads in a log of the service; lines that are none of its own are passed over."""
    found = []
    for line in lines:
        if TOLD in line:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found.append(read_head(msgspec.json.decode(line[line.index("{") :])["head"]))
    return found


async def extend(db: DB) -> int:
    """Links the oldest events that wait, in one transaction; how many, none where another process is at it.

    An event that waits but was taken away in that second is left out, and said in the log; one that has its link
    already, as when rows of a backup are put back, waits no more.
    """
    async with db.transaction() as tx:
        if not await tx.value(q.lock_chain):
            return 0
        ids = [row["event_id"] for row in await tx.many(q.pending, limit=BATCH)]
        if ids:
            await _append(tx, ids)
        return len(ids)


async def _append(tx: Transaction, ids: list[UUID]) -> None:
    events = await _events(tx, ids)
    known = {row["event_id"] for row in await tx.many(q.known, ids=ids)}
    if known:
        count = await tx.exec(q.linked_before, limit=LINKED_BEFORE)
        log.warning("audit.linked_before", extra={"events": count})
    ids = [id for id in ids if id not in known]
    if lost := [str(id) for id in ids if id not in events]:
        metrics.audit_breaks.inc()
        log.error("audit.lost", extra={"events": lost})
    head = await _head(tx)
    hash, hashes = head.hash, []
    linked = [id for id in ids if id in events]
    for id in linked:
        hash = link(hash, events[id])
        hashes.append(hash)
    await tx.exec(q.append, after=head.seq, ids=linked, hashes=hashes)
    await tx.exec(q.linked, ids=ids)


async def _events(db: Statements, ids: list[UUID]) -> dict[UUID, Row]:
    return {row["event_id"]: row for row in await db.many(q.as_linked, ids=ids)}


async def _head(db: Statements) -> Head:
    row = await db.maybe(q.head)
    return Head(row["seq"], row["hash"]) if row else START


class Linker:
    """Links every second, in each process or in one of them. It shows the figures, tells the log how far the chain is,
    and notices when a link that it has seen is gone or another."""

    def __init__(self, db: DB) -> None:
        self._db = db
        self._seen = START
        self._told = START
        self._tell_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks.append(asyncio.create_task(loops.repeat("link", LINK_SECONDS, self.round)))

    async def stop(self) -> None:
        """Links what came last; without a database that is left to whoever is next."""
        await loops.stop(self._tasks)
        with contextlib.suppress(errors.Unavailable, TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self.round()
                await self._look()
        self._tell()

    async def round(self) -> None:
        """Links what waits, so much at most that others get a turn."""
        if await self._look():
            for _ in range(BATCHES_A_ROUND):
                if await extend(self._db) < BATCH:
                    break
        if time.monotonic() >= self._tell_at:
            self._tell()

    async def _look(self) -> int:
        """How many events wait for their link."""
        row = await self._db.one(q.state, known=self._seen.seq)
        if self._seen.seq and row["known"] != self._seen.hash:
            metrics.audit_breaks.inc()
            log.error("audit.broken", extra={"known": str(self._seen), "length": row["seq"]})
        head = Head(row["seq"], row["hash"]) if row["seq"] else START
        if head != self._seen:
            self._seen = head
            metrics.audit_sealed.set(time.time())
        metrics.audit_chain.set(head.seq)
        metrics.audit_pending.set(row["pending"])
        return int(row["pending"])

    def _tell(self) -> None:
        """In the log it stands even when the database is changed; the same is not told twice."""
        if self._told != self._seen:
            self._told = self._seen
            self._tell_at = time.monotonic() + TELL_SECONDS
            log.info(TOLD, extra={"head": str(self._seen)})


async def verify(db: Statements, heads: Mapping[int, bytes], *, at_rest: bool = False) -> Head:
    """Reads the whole trail, a thousand events at a time, and returns its head.

    `heads` are links known from elsewhere, hash by place. With `at_rest` nothing is wrong with events that wait for
    their link, as in a backup. Raises `Broken` for the first that is wrong, and `Absent`.
    """
    head = START
    try:
        while further := await _checked(db, head, heads):
            head = further
    except psycopg.errors.UndefinedTable:
        raise Absent("The database has no audit chain; `ytdl migrate` makes the tables.") from None
    if missing := [seq for seq in heads if seq > head.seq]:
        raise Broken(f"The chain ends with link {head.seq}; link {min(missing)} was there and is missing.")
    await _none_left_out(db, at_rest)
    return head


async def _checked(db: Statements, head: Head, heads: Mapping[int, bytes]) -> Head | None:
    """The head a batch further on; `None` at the end of the chain."""
    first = head.seq + 1 if head.seq else LOWEST
    links = await db.many(q.links, first=first, limit=CHECKED_AT_ONCE)
    events = await _events(db, [row["event_id"] for row in links])
    for row in links:
        head = _next(head, row, events.get(row["event_id"]))
        if heads.get(head.seq, head.hash) != head.hash:
            raise Broken(f"Link {head.seq} is not the one that was there: the chain was made anew.")
    return head if links else None


def _next(head: Head, row: Row, event: Row | None) -> Head:
    seq, id = head.seq + 1, row["event_id"]
    if row["seq"] < seq:
        raise Broken(f"Link {row['seq']} is none: the first has number 1.")
    if row["seq"] > seq:
        raise Broken(f"Link {seq} is missing.")
    if event is None:
        raise Broken(f"Link {seq}: the event {id} is missing.")
    if link(head.hash, event) != row["hash"]:
        raise Broken(f"Link {seq}: the event {id}, or its link, was changed after it had been linked.")
    return Head(seq, row["hash"])


async def _none_left_out(db: Statements, at_rest: bool) -> None:
    """Raises `Broken` for an event that has no link and gets none."""
    after: UUID | None = None
    while (row := await db.one(q.unlinked, after=after, limit=CHECKED_AT_ONCE))["last"]:
        after = row["last"]
        if row["forgotten"]:
            raise Broken(f"The event {row['forgotten']} has no link, and none is to come: its link was taken away.")
        if row["since"] is not None and not at_rest and row["since"] < time.time() - PATIENCE_SECONDS:
            raise Broken(f"Events of {_moment(row['since'])} and later wait for their links: nobody makes them.")
    after = None
    while (row := await db.one(q.lost, after=after, limit=CHECKED_AT_ONCE))["last"]:
        after = row["last"]
        if row["lost"]:
            raise Broken(f"The event {row['lost']} was waiting for its link and is missing.")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
