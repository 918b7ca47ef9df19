"""API keys: named, for scripts, with a scope; made, listed, ended, and known again when they come with a request.

A key begins with `ytdl_`, so that a scanner finds one that leaked, and ends with a checksum, so that a typo is refused
without asking the database. Only its hash is kept. Sessions are `auth`'s.
"""

import contextlib
import re
import secrets
import string
import time
import zlib
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta

from ytdl import audit, crypto, errors, sql, texts
from ytdl.auth import BELIEVED_SECONDS, Identity
from ytdl.db import DB, Statements
from ytdl.events import Events
from ytdl.hidden import Hidden
from ytdl.recent import LIMIT as REMEMBERED
from ytdl.recent import Recent

q = sql.load("apikeys")

PREFIX = "ytdl_"
MOST_KEYS = 50
NAME_LENGTH = 100
NOT_VALID = "The API key is not valid: it is mistyped, expired or deleted."
_ALPHABET = string.digits + string.ascii_letters
# 190 bits at random.
_BODY_LENGTH = 32
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_BODY_LENGTH + 6}}}")
_SHOWN = len(PREFIX) + 6

Scope = Literal["read", "write"]


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that may `read` changes nothing, wherever it is used. Without `expires_in_days` it lives until deleted."""

    name: Annotated[str, Meta(max_length=NAME_LENGTH, extra_json_schema={"minLength": 1})]
    scope: Scope = "read"
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """`prefix` is how the key begins; `last_used_at` is true to the minute."""

    id: UUID
    name: str
    scope: Scope
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


class MadeKey(Hidden, ApiKey, frozen=True, kw_only=True):
    """`key` is shown this once."""

    key: str


class Keys(msgspec.Struct, frozen=True):
    """All of them: `next_cursor` is always null."""

    items: list[ApiKey]
    next_cursor: None = None


def is_key(token: str) -> bool:
    """Whether this wants to be an API key, valid or not."""
    return token.startswith(PREFIX)


def mint() -> str:
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_BODY_LENGTH))
    return body + _checksum(body)


def is_whole(key: str) -> bool:
    """Whether the checksum is right; says nothing of whether there is such a key."""
    return bool(_FORM.fullmatch(key)) and _checksum(key[:-6]) == key[-6:]


def _checksum(body: str) -> str:
    rest, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text


class _Known(msgspec.Struct, frozen=True):
    """`until` is in seconds since 1970."""

    identity: Identity
    until: float


class ApiKeys:
    def __init__(self, db: DB, events: Events) -> None:
        self._db = db
        self._events = events
        # Which key a hash is of never changes; whether it is alive is believed for a moment only.
        self._ids: dict[bytes, str] = {}
        self._known: Recent[str, _Known] = Recent(events, seconds=BELIEVED_SECONDS)
        events.hear("revoked", self._known.forget)

    async def create(self, identity: Identity, wish: NewKey) -> MadeKey:
        """Raises `errors.Invalid` for the name, `errors.Conflict` at the limit of keys, and `errors.Unauthorized` when
        the session ended meanwhile."""
        name = wish.name.strip()
        if faults := texts.faults(name, NAME_LENGTH):
            raise errors.invalid("name", "; ".join(faults))
        key = mint()
        async with self._db.transaction() as tx:
            if not await tx.maybe(q.lock_owner, session_id=identity.session_id):
                raise errors.Unauthorized(crypto.NOT_VALID)
            row = await tx.maybe(
                q.insert, id=uuid.uuid7(), user_id=identity.user_id, name=name, scope=wish.scope,
                hash=crypto.digest(key), prefix=key[:_SHOWN], days=wish.expires_in_days, limit=MOST_KEYS,
            )  # fmt: skip
            if row is None:
                raise errors.Conflict(f"You have {MOST_KEYS} API keys, which is as many as there may be; delete one.")
            made = MadeKey(**row, key=key)
            await audit.record(tx, "authn_token_created", object=("api_key", made.id), scope=made.scope)
        return made

    async def of(self, user_id: UUID) -> Keys:
        return Keys([ApiKey(**row) for row in await self._db.many(q.of_user, user_id=user_id)])

    async def delete(self, identity: Identity, id: UUID) -> None:
        """At once in this process, in the others as soon as they hear of it. Raises `errors.NotFound`."""
        async with self._db.transaction() as tx:
            if not await tx.maybe(q.delete, id=id, user_id=identity.user_id):
                raise errors.NotFound("There is nothing here by that id.")
            await audit.record(tx, "authn_token_revoked", object=("api_key", id), reason="deleted")
        await self._events.tell("revoked", str(id))

    async def identify(self, key: str) -> Identity:
        """Whose key this is. Raises `errors.Unauthorized` for one that is mistyped, unknown, expired, or of an
        inactive user."""
        hashed = crypto.digest(key)
        id = self._ids.get(hashed)
        known = (self._known.find(id) if id else None) or await self._read(key, hashed)
        if known.until <= time.time():
            raise errors.Unauthorized(NOT_VALID)
        return known.identity

    async def _read(self, key: str, hashed: bytes) -> _Known:
        """The key's state from the database, remembered unless a revocation came while it was read."""
        if not is_whole(key):
            raise errors.Unauthorized(NOT_VALID, offence="forgery", evidence=hashed)
        changes = self._known.changes
        row = await self._db.maybe(q.identify, hash=hashed)
        if row is None:
            # Anybody can work out a checksum. A key that was deleted counts once, however often its client brings it.
            raise errors.Unauthorized(NOT_VALID, offence="forgery", evidence=hashed)
        if row.pop("unnoted"):
            await self._note_use(row["key_id"])
        expires_at = row.pop("expires_at")
        known = _Known(Identity(**row), expires_at.timestamp() if expires_at else float("inf"))
        self._keep(hashed, str(row["key_id"]), known, changes)
        return known

    async def _note_use(self, key_id: UUID) -> None:
        """A database that only reads, as on a full disk, must not keep a script from reading."""
        with contextlib.suppress(errors.Unavailable):
            await self._db.exec(q.note_use, key_id=key_id)

    def _keep(self, hashed: bytes, id: str, known: _Known, changes: int) -> None:
        self._ids.pop(hashed, None)
        if len(self._ids) >= REMEMBERED:
            del self._ids[next(iter(self._ids))]
        self._ids[hashed] = id
        self._known.keep(id, known, changes)


async def revoke_all(db: Statements, user_id: UUID, *, reason: str) -> list[UUID]:
    """Ends all keys of a user. Whoever calls tells `revoked` with each id once that is committed."""
    ids = [row["id"] for row in await db.many(q.revoke_all, user_id=user_id)]
    for id in ids:
        await audit.record(db, "authn_token_revoked", object=("api_key", id), reason=reason)
    return ids


async def sweep(db: Statements) -> dict[str, int]:
    """Removes what nobody can use any more; for the janitor. The rows removed, by kind."""
    return {"api_keys": await db.exec(q.sweep)}
