"""Blocks of networks: made by an admin or for what came from an address, lifted, listed, and known to every process.

PostgreSQL holds them. Each process has those in force in a `Blocklist`: it reads a changed one at once when it hears of
it, and compares the whole with PostgreSQL every second, so that a lost word delays a block and no more. What an address
did is added up in `offences`.
"""

import asyncio
import contextlib
import ipaddress
import logging
import re
import time
from collections.abc import Iterable
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta
from psycopg.types.json import Jsonb

from ytdl import audit, errors, loops, metrics, networks, sql, texts
from ytdl.blocklist import Blocklist, Entry, network_of
from ytdl.config import Config
from ytdl.db import DB, Row, Statements
from ytdl.events import Events
from ytdl.networks import Network
from ytdl.record import Moment
from ytdl.scores import Scores

log = logging.getLogger("ytdl.blocks")
q = sql.load("blocks")

# How long a block may be in force without this process, should the word of it be lost.
COMPARE_SECONDS = 0.6
# Blocks that are made or heard of within this time end streams in one step.
GATHER_SECONDS = 0.05
PAGE = 500
# With more words than this unread the whole is read anyway.
UNREAD = 200
# A block by itself doubles up to this; for so many days after its end the next one is longer.
LONGEST_SECONDS = 86_400.0
REMEMBERED_DAYS = 7
# Somebody with many addresses shall not fill our memory: from here on no block is made by itself.
MOST = 10_000
YEAR_SECONDS = 365 * 86_400
REASON_LENGTH = 200
# Wider networks hold whole countries or providers.
WIDEST = {4: 8, 6: 32}
_WRITTEN = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")

Kind = Literal["automatic", "manual"]


class NewBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`network` is an address or a network such as 192.0.2.0/24; what follows the prefix is left out."""

    network: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(max_length=REASON_LENGTH, extra_json_schema={"minLength": 1})]
    expires_in_seconds: Annotated[int, Meta(ge=60, le=YEAR_SECONDS)] = 86_400


class Block(msgspec.Struct, frozen=True):
    """`reason` of an automatic one is the offence that had most of the points; `offences` says how often each came."""

    id: UUID
    network: str
    kind: Kind
    reason: str
    offences: dict[str, int]
    active: bool
    created_by: UUID | None
    created_at: Moment
    expires_at: Moment
    lifted_at: Moment | None


class BlockFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of the list. With `active=false` those that ended are listed, `ip` finds the networks it lies in."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: UUID | None = None
    active: bool = True
    kind: Kind | None = None
    ip: Annotated[str, Meta(max_length=64)] | None = None


class BlockPage(msgspec.Struct, frozen=True):
    items: list[Block]
    next_cursor: str | None


class Blocks:
    def __init__(self, db: DB, events: Events, scores: Scores, config: Config) -> None:
        self.list = Blocklist(config.trusted_proxies)
        self._db = db
        self._events = events
        self._scores = scores
        self._seconds = config.block_minutes * 60
        self._heard: set[UUID] = set()
        # Whether there are blocks made here whose streams are yet to end.
        self._put = False
        self._woken = asyncio.Event()
        self._compared_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        events.hear("blocks", self._hear)

    async def start(self) -> None:
        """Nobody is served before the first reading: a restart lets nobody in. Raises `errors.Unavailable`."""
        await self._read()
        self._tasks.append(asyncio.create_task(loops.repeat("blocks", 0.0, self._round), name="blocks"))

    async def stop(self) -> None:
        await loops.stop(self._tasks)

    async def add(self, new: NewBlock, *, user_id: UUID, address: str) -> Block:
        """A manual block; `address` is that of the admin who asks for it.

        Raises `errors.Invalid` for a reason that shows nothing or cannot be shown, for what is no network, is too wide
        or would shut out a proxy of ours, this machine or the admin, and `errors.Conflict` where the network is blocked
        already.
        """
        reason = new.reason.strip()
        if faults := texts.faults(reason, REASON_LENGTH):
            raise errors.invalid("reason", "; ".join(faults))
        network = self._blockable(new.network, address)
        async with self._db.transaction() as tx:
            row = await tx.maybe(
                q.insert_manual, id=uuid.uuid7(), network=str(network), reason=reason, user_id=user_id,
                seconds=new.expires_in_seconds,
            )  # fmt: skip
            if row is None:
                raise errors.Conflict(f"{network} is blocked already; lift that block to make another.")
            await _record_made(tx, row)
        await self._made(row)
        return _view(row, active=True)

    def _blockable(self, text: str, address: str) -> Network:
        network = _parsed(text)
        if network.prefixlen < WIDEST[network.version]:
            raise errors.invalid("network", f"must not be wider than /{WIDEST[network.version]}")
        if self.list.protects(network):
            raise errors.invalid("network", "has an address of this machine or of a trusted proxy in it")
        own = network_of(address)
        if own and own.version == network.version and own.overlaps(network):
            raise errors.invalid("network", f"has the address {address} in it, from which you ask for this")
        return network

    async def add_automatic(self, network: str, reason: str, counts: dict[str, int], *, address: str) -> bool:
        """Blocks for what came from a network, `address` last; False where it is blocked already, must not be, or too
        many are. The network's points are forgotten. Raises `errors.Unavailable`."""
        if self.list.protects(ipaddress.ip_network(network)):
            return False
        if len(self.list) >= MOST:
            metrics.blocks_scored.labels("full").inc()
            return False
        async with self._db.transaction() as tx:
            row = await tx.maybe(
                q.insert_automatic, id=uuid.uuid7(), network=network, reason=reason, offences=Jsonb(counts),
                seconds=self._seconds, longest=max(LONGEST_SECONDS, self._seconds), days=REMEMBERED_DAYS,
            )  # fmt: skip
            if row:
                await _record_made(tx, row, address)
        await self._scores.forget(network)
        if row is None:
            # Another process was quicker; its word may be on its way.
            self._compared_at = 0.0
            self._woken.set()
            return False
        await self._made(row)
        return True

    async def lift(self, id: UUID) -> None:
        """Ends a block and forgets the network's points. Raises `errors.NotFound` where none of that id is in force."""
        async with self._db.transaction() as tx:
            row = await tx.maybe(q.lift, id=id)
            if row is None:
                raise errors.NotFound("No block of that id is in force.")
            await audit.record(tx, "network_block_lifted", object=("block", id), network=str(row["network"]))
        self.list.remove(id)
        await self._scores.forget(_scored_as(row["network"]))
        await self._events.tell("blocks", str(id))

    async def get(self, id: UUID) -> Block:
        """In force or not. Raises `errors.NotFound`."""
        row = await self._db.maybe(q.by_id, id=id)
        if row is None:
            raise errors.NotFound("There is no block of that id.")
        return _view(row, active=row["active"])

    async def page(self, f: BlockFilter) -> BlockPage:
        """Raises `errors.Invalid` for an `ip` that is none."""
        ip = _address(f.ip) if f.ip is not None else None
        rows = await self._db.many(
            q.page, before=f.cursor, active=f.active, kind=f.kind, ip=ip and str(ip), limit=f.limit + 1
        )
        items = [_view(row, active=row["active"]) for row in rows[: f.limit]]
        return BlockPage(items, str(items[-1].id) if len(rows) > f.limit else None)

    async def _made(self, row: Row) -> None:
        kind, reason = row["kind"], row["reason"] if row["kind"] == "automatic" else "manual"
        metrics.blocks_created.labels(kind, reason).inc()
        seconds = (row["expires_at"] - row["created_at"]).total_seconds()
        self.list.put(_entry(row | {"network": str(row["network"]), "seconds": seconds}))
        self._put = True
        self._woken.set()
        await self._events.tell("blocks", str(row["id"]))

    def _hear(self, word: str) -> None:
        with contextlib.suppress(ValueError):
            if len(self._heard) < UNREAD:
                self._heard.add(UUID(word))
            else:
                self._compared_at = 0.0
        self._woken.set()

    async def _round(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMPARE_SECONDS):
                await self._woken.wait()
            await asyncio.sleep(GATHER_SECONDS)
        self._woken.clear()
        if self._put:
            self._put = False
            self._changed(())
        heard, self._heard = self._heard, set()
        if heard:
            try:
                await self._look(heard)
            except errors.Unavailable:
                # The whole is read once that can be done again.
                self._compared_at = 0.0
                raise
        if time.monotonic() - self._compared_at >= COMPARE_SECONDS:
            await self._compare()

    async def _look(self, ids: set[UUID]) -> None:
        """Reads some that have changed."""
        rows = await self._db.many(q.those_in_force, ids=list(ids))
        self.list.put(*map(_entry, rows))
        gone = [self.list.remove(id) for id in ids - {row["id"] for row in rows}]
        self._changed([entry for entry in gone if entry])

    async def _compare(self) -> None:
        if await self._db.value(q.mark) != self.list.mark():
            await self._read()
        metrics.blocks_active.set(len(self.list))
        self._compared_at = time.monotonic()

    async def _read(self) -> None:
        """The whole, in pages, so that nothing else waits for a long list."""
        entries: list[Entry] = []
        after = None
        while rows := await self._db.many(q.in_force, after=after, limit=PAGE):
            entries += map(_entry, rows)
            after = rows[-1]["id"]
        self._changed(self.list.replace(entries))

    def _changed(self, gone: Iterable[Entry]) -> None:
        """Ends the streams of those who are blocked now; those who are not any more begin from nothing."""
        now = time.monotonic()
        for entry in gone:
            if entry.until > now:
                self._scores.forget_here(_scored_as(ipaddress.ip_network(entry.network)))
        self._events.end_addresses(lambda address: self.list.seconds_left(address) > 0)
        metrics.blocks_active.set(len(self.list))


async def _record_made(tx: Statements, row: Row, address: str | None = None) -> None:
    seconds = round((row["expires_at"] - row["created_at"]).total_seconds())
    facts = {"network": str(row["network"]), "kind": row["kind"], "reason": row["reason"], "seconds": seconds}
    object = ("block", row["id"])
    await audit.record(tx, "network_blocked", object=object, ip=address, offences=row["offences"], **facts)
    if row["kind"] == "automatic" and row["reason"] in ("probe", "scan"):
        await audit.record(tx, "malicious_excess_404", result="denied", object=object, ip=address, **facts)


def _view(row: Row, *, active: bool) -> Block:
    values = {name: row[name] for name in Block.__struct_fields__ if name in row}
    return Block(**values | {"network": _shown(row["network"]), "active": active})


def _shown(network: Network) -> str:
    """A single address stands without the length of its prefix."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _entry(row: Row) -> Entry:
    return Entry(row["id"], row["network"], time.monotonic() + row["seconds"], row["mark"])


def _scored_as(network: Network) -> str:
    """The network under which points are kept for an address of this one."""
    return str(network_of(str(network.network_address)) if network.num_addresses == 1 else network)


def _parsed(text: str) -> Network:
    network = networks.read_network(text) if _WRITTEN.fullmatch(text) else None
    if network is None:
        raise errors.invalid("network", "must be an IP address or a network such as 192.0.2.0/24")
    return network


def _address(text: str) -> networks.Address:
    address = networks.read(text)
    if address is None:
        raise errors.invalid("ip", "must be an IP address")
    return address


async def sweep(db: Statements) -> int:
    """Removes what is remembered no longer; for the janitor."""
    return await db.exec(q.sweep, days=REMEMBERED_DAYS)
