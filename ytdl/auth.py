"""Sign-in, sessions, access and refresh tokens, tickets: who is asking, and for how long that is believed.

A session is one sign-in; all its tokens die with it. `Auth(db, events, config, key, hasher=Hasher())` serves
a process: `sign_in(username, password) -> Tokens`, `identify(token) -> Identity`. Accounts are `users`'.
"""

import logging
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta

from ytdl import crypto, errors, metrics, sql, users
from ytdl.config import Config
from ytdl.crypto import AccessTokens, Claims, Hasher
from ytdl.db import DB, Statements
from ytdl.events import Events
from ytdl.recent import Recent

log = logging.getLogger("ytdl.auth")
q = sql.load("auth")

WRONG = "The user name or the password is wrong."
REFUSED = "The refresh token is not valid; sign in again."
NO_TICKET = "The ticket is spent, expired or unknown; ask for a new one."
TICKET_SECONDS = 60
# How long this process believes what it read of a session. A revocation is heard at once; this bounds what
# happens when the word of it is lost.
BELIEVED_SECONDS = 3.0
AGENT_LENGTH = 400


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # The limits only keep junk out: a password that an operator chose need not follow registration's rules.
    username: Annotated[str, Meta(max_length=254)]
    password: Annotated[str, Meta(max_length=1024)]


class Grant(Credentials, frozen=True, forbid_unknown_fields=True):
    """The OAuth 2 password grant; what is not a name or a password is accepted and has no meaning here."""

    grant_type: Literal["password"] = "password"
    scope: Annotated[str, Meta(max_length=1024)] = ""
    client_id: Annotated[str, Meta(max_length=254)] = ""
    client_secret: Annotated[str, Meta(max_length=254)] = ""


class RefreshToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refresh_token: Annotated[str, Meta(max_length=512)]


class Tokens(msgspec.Struct, frozen=True):
    """`expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: Literal["bearer"] = "bearer"


class Ticket(msgspec.Struct, frozen=True):
    ticket: str
    expires_in: int = TICKET_SECONDS


class Identity(msgspec.Struct, frozen=True):
    """Who asks. Somebody signed in has a session; a script has the API key `key_id` instead, and its scope.
    `requests_per_minute` is what an admin allows this user, where that differs from the settings."""

    user_id: UUID
    username: str
    role: users.Role
    session_id: UUID | None = None
    key_id: UUID | None = None
    scope: Literal["read", "write"] = "write"
    requests_per_minute: int | None = None

    @property
    def credential_id(self) -> UUID:
        """The session or the API key, whichever it is; what ends with it ends by this id."""
        found = self.session_id or self.key_id
        assert found is not None
        return found


class Auth:
    """Close it after use: it owns `hasher`'s threads. Tests give a `Hasher` of low cost."""

    def __init__(self, db: DB, events: Events, config: Config, key: bytes, *, hasher: Hasher | None = None) -> None:
        self.hasher = hasher or Hasher()
        self._db = db
        self._events = events
        self._tokens = AccessTokens(key, config.jwt_algorithm)
        self._access_seconds = config.jwt_access_token_expire_minutes * 60
        self._session_days = config.jwt_refresh_token_expire_days
        self._known: Recent[str, Identity] = Recent(events, seconds=BELIEVED_SECONDS)
        events.hear("revoked", self._known.forget)

    async def close(self) -> None:
        self.hasher.close()

    async def sign_in(self, username: str, password: str, *, ip: str | None = None, agent: str | None = None) -> Tokens:
        """Raises `errors.Unauthorized`, with the same words after the same work whatever was wrong, and
        `errors.Unavailable` when too many passwords are being checked."""
        account = await self._checked(username, password, ip)
        session, secret = uuid.uuid7(), crypto.new_secret()
        opened = await self._db.exec(
            q.open_session,
            user_id=account,
            session_id=session,
            days=self._session_days,
            ip=ip,
            user_agent=_clean(agent),
            hash=crypto.digest(secret),
        )
        if not opened:
            raise self._failed("inactive", ip, account)
        metrics.auth_logins.labels("ok").inc()
        log.info("authn_login_success", extra={"user_id": str(account), "session": str(session), "ip": ip})
        return self._pair(account, session, secret)

    async def refresh(self, secret: str, *, ip: str | None = None) -> Tokens:
        """Spends a refresh token for a new pair. Raises `errors.Unauthorized`; a token that was spent before
        ends its session, for one of the two who hold it is a thief."""
        successor = crypto.new_secret()
        row = await self._db.maybe(q.rotate, hash=crypto.digest(secret), successor=crypto.digest(successor))
        if row is None:
            metrics.auth_refreshes.labels(await self._refused(secret, ip)).inc()
            raise errors.Unauthorized(REFUSED)
        metrics.auth_refreshes.labels("ok").inc()
        return self._pair(row["user_id"], row["session_id"], successor)

    async def sign_out(self, identity: Identity) -> None:
        await self.revoke(identity.credential_id)
        log.info("authn_token_revoked", extra={"session": str(identity.session_id), "reason": "logout"})

    async def revoke(self, session_id: UUID) -> None:
        """Ends a session: at once in this process, in the others as soon as they hear of it."""
        await self._db.exec(q.revoke_session, session_id=session_id)
        await self._events.tell("revoked", str(session_id))

    async def identify(self, token: str) -> Identity:
        """Whose token this is. Raises `errors.Unauthorized` for one that is expired, forged, of another
        kind, of an ended session or of an inactive user."""
        claims = self._tokens.verify(token)
        identity = self._known.find(str(claims.session_id)) or await self._read(claims)
        if identity is None or identity.user_id != claims.user_id:
            raise errors.Unauthorized(crypto.NOT_VALID)
        return identity

    async def issue_ticket(self, identity: Identity) -> Ticket:
        secret = crypto.new_secret()
        origin = {"session_id": identity.session_id, "key_id": identity.key_id}
        await self._db.exec(q.insert_ticket, hash=crypto.digest(secret), seconds=TICKET_SECONDS, **origin)
        return Ticket(secret)

    async def redeem(self, ticket: str) -> Identity:
        """Spends a ticket. Raises `errors.Unauthorized` for one that is spent, expired, unknown, or of an
        ended session."""
        row = await self._db.maybe(q.redeem_ticket, hash=crypto.digest(ticket))
        if row is None:
            raise errors.Unauthorized(NO_TICKET)
        return Identity(**row)

    async def _checked(self, username: str, password: str, ip: str | None) -> UUID:
        """The id of the active user whose password this is. A hash is worked through in every case."""
        account = await users.credentials(self._db, username)
        hashed = account.password_hash if account else self.hasher.nobody
        try:
            right = await self.hasher.verify(password, hashed)
        except errors.Unavailable:
            metrics.auth_logins.labels("busy").inc()
            raise
        if account is None or not right:
            raise self._failed("wrong", ip, account.id if account else None)
        if not account.is_active:
            raise self._failed("inactive", ip, account.id)
        return account.id

    def _failed(self, outcome: str, ip: str | None, account: UUID | None) -> errors.Unauthorized:
        """Counts and logs a failed sign-in. The name that was typed is not logged: it may be a password."""
        metrics.auth_logins.labels(outcome).inc()
        known = {"user_id": str(account)} if account else {}
        log.warning("authn_login_fail", extra={"reason": outcome, "ip": ip, **known})
        return errors.Unauthorized(WRONG)

    async def _refused(self, secret: str, ip: str | None) -> str:
        """Why a refresh token was refused, as an outcome; ends the session of one that was spent before."""
        row = await self._db.maybe(q.refresh_token, hash=crypto.digest(secret))
        if row is None:
            return "wrong"
        if not row["spent"]:
            return "expired" if row["is_active"] else "inactive"
        await self.revoke(row["session_id"])
        ids = {"user_id": str(row["user_id"]), "session": str(row["session_id"])}
        log.warning("authn_token_reuse", extra={**ids, "ip": ip})
        return "reused"

    def _pair(self, user: UUID, session: UUID, secret: str) -> Tokens:
        access = self._tokens.issue(user, session, seconds=self._access_seconds)
        return Tokens(access, secret, self._access_seconds)

    async def _read(self, claims: Claims) -> Identity | None:
        """The session's state from the database. It is remembered unless a revocation came while it was read,
        which may have been too late for this answer."""
        changes = self._known.changes
        row = await self._db.maybe(q.identity, session_id=claims.session_id, user_id=claims.user_id)
        if row is None:
            return None
        identity = Identity(**row)
        self._known.keep(str(claims.session_id), identity, changes)
        return identity


def _clean(agent: str | None) -> str | None:
    """What a client calls itself, cut and made text: a header may hold bytes that are none."""
    if agent is None:
        return None
    return agent[:AGENT_LENGTH].encode("utf-8", "replace").decode().replace("\0", "")


async def sweep(db: Statements) -> dict[str, int]:
    """Removes what nobody can use any more; for the janitor. The rows removed, by kind."""
    return {"tickets": await db.exec(q.sweep_tickets), "sessions": await db.exec(q.sweep_sessions)}
