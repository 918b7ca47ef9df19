"""The secrets that the service must be able to read again, sealed in one table, each in a place of its own.

A place is a kind, an owner (`None` where it is the service's own) and a name among the owner's. `put`, `read` and
`remove` take the transaction of whatever the secret belongs to; it goes with its owner's account. `rotate` brings all
to the newest key. A new kind is a word in `Kind` and nothing else: rotation finds whatever is in the table.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import uuid_utils.compat as uuid

from ytdl import audit, sql
from ytdl.db import DB, Row, Statements
from ytdl.vault import Unopened, Vault

log = logging.getLogger("ytdl.sealed")
q = sql.load("sealed")

Kind = Literal["cookies", "store", "channel", "webhook"]
# What one secret may hold, in bytes.
LARGEST = 2**20
BATCH = 100
FIRST = UUID(int=0)


async def put(db: Statements, vault: Vault, kind: Kind, owner: UUID | None, plain: bytes, *, name: str = "") -> UUID:
    """Keeps `plain` over what was in that place. Returns the row's id, which stays the same from then on.

    Raises `ValueError` beyond `LARGEST`: whoever takes a secret from a client has a bound of its own.
    """
    if len(plain) > LARGEST:
        raise ValueError(f"a secret of {len(plain)} bytes is larger than {LARGEST}")
    sealed = vault.seal(plain, about(kind, owner, name))
    row = await db.one(
        q.put, id=uuid.uuid7(), kind=kind, owner=owner, name=name, sealed=sealed, key_id=vault.newest
    )  # fmt: skip
    return UUID(str(row["id"]))


async def read(db: Statements, vault: Vault, kind: Kind, owner: UUID | None, *, name: str = "") -> bytes | None:
    """What is kept there, `None` where nothing is. Raises `vault.Unopened` where it cannot be opened."""
    row = await db.maybe(q.place, kind=kind, owner=owner, name=name)
    return None if row is None else vault.open(row["sealed"], about(kind, owner, name))


async def remove(db: Statements, kind: Kind, owner: UUID | None, *, name: str = "") -> bool:
    """Whether there was something."""
    return await db.exec(q.remove, kind=kind, owner=owner, name=name) > 0


def about(kind: str, owner: UUID | None, name: str) -> str:
    """What a value is bound to. A kind and an owner have no colon in them, so no two places read alike."""
    return f"{kind}:{owner or ''}:{name}"


async def by_key(db: Statements) -> dict[str, int]:
    """How many values are sealed with which key."""
    return {row["key_id"]: row["values"] for row in await db.many(q.by_key)}


async def warn_of_lost_keys(db: Statements, vault: Vault) -> None:
    """A line in the log for each key that would be needed and is not there; for a start."""
    for key_id, values in (await by_key(db)).items():
        if key_id not in vault.key_ids:
            log.error("sealed.key_missing", extra={"key_id": key_id, "values": values})


@dataclass
class Walk:
    """What a walk over all values came upon: `unopened` by the id of the key that a value names."""

    seen: int = 0
    resealed: int = 0
    # Written by somebody else meanwhile, so it is sealed with that process's newest key already.
    overtaken: int = 0
    unopened: dict[str, int] = field(default_factory=dict)


async def check(db: DB, vault: Vault) -> Walk:
    """Opens every value and changes none."""
    walk = Walk()
    async for rows in _batches(db):
        for row in rows:
            _opened(vault, row, walk)
    return walk


async def rotate(db: DB, vault: Vault) -> AsyncIterator[Walk]:
    """Seals anew, with the vault's newest key, whatever is sealed with another; yields after each batch.

    A batch is a transaction, so what was done stays done whenever this ends, and a second run goes on from there. A
    value that was written meanwhile keeps what was written. One that does not open is counted and left as it is.
    """
    walk = Walk()
    async for rows in _batches(db):
        older = [row for row in rows if row["key_id"] != vault.newest]
        opened = [(row, plain) for row in older if (plain := _opened(vault, row, walk)) is not None]
        walk.seen += len(rows) - len(older)
        changed = await _replace(db, vault, opened)
        walk.resealed += changed
        walk.overtaken += len(opened) - changed
        yield walk


async def _batches(db: DB) -> AsyncIterator[list[Row]]:
    after = FIRST
    while rows := await db.many(q.after, after=after, limit=BATCH):
        yield rows
        after = rows[-1]["id"]


def _opened(vault: Vault, row: Row, walk: Walk) -> bytes | None:
    walk.seen += 1
    try:
        return vault.open(row["sealed"], about(row["kind"], row["owner"], row["name"]))
    except Unopened as e:
        walk.unopened[e.key_id] = walk.unopened.get(e.key_id, 0) + 1
        return None


async def _replace(db: DB, vault: Vault, opened: list[tuple[Row, bytes]]) -> int:
    if not opened:
        return 0
    news = [vault.seal(plain, about(row["kind"], row["owner"], row["name"])) for row, plain in opened]
    ids, olds = [row["id"] for row, _ in opened], [row["sealed"] for row, _ in opened]
    async with db.transaction() as tx:
        changed = await tx.exec(q.replace, ids=ids, olds=olds, news=news, key_id=vault.newest)
        await audit.record(tx, "secret_rotated", object=("key", vault.newest), values=changed)
    return changed
