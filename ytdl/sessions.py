"""Sessions and their refresh tokens: opening, refreshing, ending, listing.

A session is one sign-in; all its tokens die with it. `Sessions(db, events, key, days=7)` serves a process. Passwords,
access tokens and tickets are `auth`'s.
"""

import contextlib
from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta

from ytdl import audit, crypto, errors, metrics, sql
from ytdl.db import DB, Row, Statements
from ytdl.events import Events
from ytdl.hidden import Hidden
from ytdl.log import redact
from ytdl.record import Moment
from ytdl.users import Credentials

q = sql.load("sessions")
REFUSED = "The refresh token is not valid; sign in again."
CHANGING = "A key is being changed; try again in a moment."
NO_SESSION = "There is no such session."
# A client that did not get the answer to its refresh asks once more with the same token. Later it is a thief's.
GRACE_SECONDS = 10.0
AGENT_LENGTH = 400


class Opened(Hidden, msgspec.Struct, frozen=True):
    """What a pair of tokens is made of; `secret` is the refresh token."""

    user_id: UUID
    session_id: UUID
    secret: str


class Session(msgspec.Struct, frozen=True):
    """`last_used_at` is right to about a minute; `current` marks the session that asks."""

    id: UUID
    ip: str | None
    user_agent: str | None
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    current: bool


class SessionFilter(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: UUID | None = None


class SessionPage(msgspec.Struct, frozen=True):
    items: list[Session]
    next_cursor: str | None


class Sessions:
    """A refresh token's successor is made of it with `key`, so the same one can be answered again without being kept;
    one that was made with the `previous` key is answered again too. `days` is how long a session lasts."""

    def __init__(self, db: DB, events: Events, key: bytes, *, days: int, previous: bytes = b"") -> None:
        self._db = db
        self._events = events
        self._keys = [crypto.derived(each, "refresh tokens") for each in (key, previous) if each]
        self._days = days

    async def open(self, db: Statements, account: Credentials, ip: str | None, agent: str | None) -> Opened | None:
        """`None` when the user is not active, or when the password has changed since `account` was read."""
        opened = Opened(account.id, uuid.uuid7(), crypto.new_secret())
        done = await db.exec(
            q.open,
            user_id=account.id,
            password_changed_at=account.password_changed_at,
            session_id=opened.session_id,
            days=self._days,
            ip=ip,
            user_agent=_clean(agent),
            hash=crypto.digest(opened.secret),
        )
        return opened if done else None

    async def refresh(self, secret: str) -> Opened:
        """Spends a refresh token for the next one of its session.

        Within ten seconds the token that was spent last is answered with the same next one again, as long as that is
        unspent itself. Any other spent one ends the session, for one of the two who hold it is a thief. Raises
        `errors.Unauthorized`, and `errors.Unavailable` where the next one was made with a key that is not known here:
        while a key is changed, another process knows it.
        """
        successors = {crypto.digest(made): made for made in (crypto.successor(key, secret) for key in self._keys)}
        hashed, newest = crypto.digest(secret), next(iter(successors))
        row = await self._db.maybe(q.rotate, hash=hashed, successor=newest)
        if row is None:
            row = await self._again(hashed, list(successors))
            metrics.auth_refreshes.labels("again").inc()
        else:
            metrics.auth_refreshes.labels("ok").inc()
        successor = successors.get(row["successor"])
        if successor is None:
            raise errors.Unavailable(CHANGING, retry_after=1)
        return Opened(row["user_id"], row["session_id"], successor)

    async def _again(self, hashed: bytes, successors: list[bytes]) -> Row:
        """Whose a spent token is, for a client that did not get its answer. Raises `errors.Unauthorized`."""
        row = await self._db.maybe(q.refused, grace_seconds=GRACE_SECONDS, hash=hashed, successors=successors)
        if row is None:
            raise _refused("wrong")
        if row["spent"] and not (row["alive"] and row["is_active"] and row["successor"]):
            await self._stolen(row["session_id"], row["user_id"])
            raise _refused("reused", hashed)
        if not row["spent"]:
            raise _refused("expired" if row["is_active"] else "inactive")
        return row

    async def _stolen(self, session_id: UUID, user_id: UUID) -> None:
        """Recorded once, with the end of the session: what comes later can do no harm."""
        async with self._db.transaction() as tx:
            if await tx.exec(q.revoke, session_id=session_id):
                stolen = ("session", session_id)
                await audit.record(tx, "authn_token_reuse", result="denied", user_id=user_id, object=stolen)
        await self.tell([session_id])

    async def revoke(self, session_id: UUID, *, reason: str) -> None:
        """Ends a session: at once in this process, in the others as soon as they hear of it."""
        async with self._db.transaction() as tx:
            if await tx.exec(q.revoke, session_id=session_id):
                await audit.record(tx, "authn_token_revoked", object=("session", session_id), reason=reason)
        await self.tell([session_id])

    async def revoke_own(self, user_id: UUID, session_id: UUID) -> None:
        """Ends a session of this user's. Raises `errors.NotFound` for another's and for one that has ended."""
        async with self._db.transaction() as tx:
            if not await tx.exec(q.revoke_own, user_id=user_id, session_id=session_id):
                raise errors.NotFound(NO_SESSION)
            await audit.record(tx, "authn_token_revoked", object=("session", session_id), reason="user")
        await self.tell([session_id])

    async def revoke_all(self, db: Statements, user_id: UUID, *, reason: str, keep: UUID | None = None) -> list[UUID]:
        """Ends all sessions of a user but `keep`. Whoever gives a transaction calls `tell` with the ids once it is
        committed."""
        ended = [row["id"] for row in await db.many(q.revoke_all, user_id=user_id, keep=keep)]
        if ended:
            whose = ("user", user_id)
            await audit.record(db, "authn_token_revoked", object=whose, reason=reason, sessions=len(ended))
        return ended

    async def tell(self, session_ids: Iterable[UUID]) -> None:
        """Has every process forget what it believed of these sessions, and end their streams."""
        await self._events.tell_all("revoked", map(str, session_ids))

    async def page(self, user_id: UUID, f: SessionFilter, *, current: UUID | None) -> SessionPage:
        """A user's sessions that have not ended, newest first."""
        rows = await self._db.many(q.page, user_id=user_id, before=f.cursor, limit=f.limit + 1)
        items = [Session(**row, current=row["id"] == current) for row in rows[: f.limit]]
        return SessionPage(items, str(items[-1].id) if len(rows) > f.limit else None)

    async def find(self, session_id: UUID, user_id: UUID) -> Row | None:
        """Whose a live session is, with `username` and `role`; that it is used is noted once a minute."""
        row = await self._db.maybe(q.identity, session_id=session_id, user_id=user_id)
        if row is not None and row.pop("unnoted"):
            # A database that only reads, as on a full disk, must not keep anybody from looking at what is theirs.
            with contextlib.suppress(errors.Unavailable):
                await self._db.exec(q.note_use, session_id=session_id)
        return row


def _refused(outcome: str, spent: bytes = b"") -> errors.Unauthorized:
    metrics.auth_refreshes.labels(outcome).inc()
    return errors.Unauthorized(REFUSED, offence="reuse" if spent else None, evidence=spent)


def _clean(agent: str | None) -> str | None:
    """What a client calls itself, cut and made text: a header may hold bytes that are none."""
    if agent is None:
        return None
    return redact(agent)[:AGENT_LENGTH].encode("utf-8", "replace").decode().replace("\0", "")


async def sweep(db: Statements) -> int:
    return await db.exec(q.sweep)
