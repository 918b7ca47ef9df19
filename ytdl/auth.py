"""Sign-in, access tokens, tickets, change of password: who is asking, and for how long that is believed.

`Auth(db, events, config, key, hasher=Hasher())` serves a process: `sign_in(username, password) -> Tokens`,
`identify(token) -> Identity`. Accounts are `users`', sessions and refresh tokens `sessions`', the count of failures is
`lockout`'s.
"""

import contextlib
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ytdl import audit, crypto, errors, lockout, metrics, passwords, sessions, sql, users
from ytdl.config import Config
from ytdl.crypto import AccessTokens, Claims, Hasher
from ytdl.db import DB, Statements, Transaction
from ytdl.errors import Fault
from ytdl.events import Events
from ytdl.hidden import Hidden
from ytdl.lockout import Attempt, Lockout
from ytdl.recent import Recent
from ytdl.sessions import Opened, Sessions

q = sql.load("auth")

WRONG = "The user name or the password is wrong."
CHANGED_MEANWHILE = "The password was changed meanwhile."
NO_TICKET = "The ticket is spent, expired or unknown; ask for a new one."
TICKET_SECONDS = 60
# How long this process believes what it read of a session. A revocation is heard at once; this bounds what
# happens when the word of it is lost.
BELIEVED_SECONDS = 3.0


class Credentials(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # The limits only keep junk out: a password that an operator chose need not follow registration's rules.
    username: Annotated[str, Meta(max_length=254)]
    password: Annotated[str, Meta(max_length=1024)]


class Grant(Credentials, frozen=True, forbid_unknown_fields=True):
    """The OAuth 2 password grant; of what is not a name or a password nothing has a meaning here. As a form it may hold
    other parameters too, as JSON only these."""

    grant_type: Literal["password"] = "password"
    scope: Annotated[str, Meta(max_length=1024)] = ""
    client_id: Annotated[str, Meta(max_length=254)] = ""
    client_secret: Annotated[str, Meta(max_length=254)] = ""


class RefreshToken(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refresh_token: Annotated[str, Meta(max_length=512)]


class PasswordChange(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current_password: Annotated[str, Meta(max_length=1024)]
    new_password: users.Password


class Tokens(Hidden, msgspec.Struct, frozen=True):
    """`expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: Literal["bearer"] = "bearer"


class Ticket(Hidden, msgspec.Struct, frozen=True):
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
        previous = config.jwt_secret_key_previous.encode()
        self.sessions = Sessions(db, events, key, days=config.jwt_refresh_token_expire_days, previous=previous)
        self.lockout = Lockout(db, key, attempts=config.max_login_attempts, minutes=config.lockout_duration_minutes)
        self._tokens = AccessTokens(key, config.jwt_algorithm, previous=previous)
        self._access_seconds = config.jwt_access_token_expire_minutes * 60
        self._known: Recent[str, Identity] = Recent(events, seconds=BELIEVED_SECONDS)
        events.hear("revoked", self._known.forget)

    async def close(self) -> None:
        self.hasher.close()

    async def sign_in(self, username: str, password: str, *, ip: str | None = None, agent: str | None = None) -> Tokens:
        """Raises `errors.Unauthorized`, with the same words after the same work whatever was wrong, `errors.Locked`
        after too many failures, and `errors.Unavailable` when too many passwords are being checked."""
        try:
            opened = await self._sign_in(username, password, ip, agent)
        except (errors.Locked, errors.Unavailable) as e:
            metrics.auth_logins.labels("locked" if isinstance(e, errors.Locked) else "busy").inc()
            raise
        metrics.auth_logins.labels("ok").inc()
        return self._pair(opened)

    async def refresh(self, secret: str) -> Tokens:
        """Spends a refresh token for a new pair; as `Sessions.refresh`."""
        return self._pair(await self.sessions.refresh(secret))

    async def sign_out(self, identity: Identity) -> None:
        await self.sessions.revoke(identity.credential_id, reason="logout")

    async def change_password(self, identity: Identity, change: PasswordChange) -> None:
        """Ends every other session of the user. API keys stay: each was made on purpose and is taken back by itself.

        Raises `errors.Invalid` for a new password that breaks the rules and for a current one that is wrong, which
        counts like a failed sign-in, `errors.Locked` after too many of those, `errors.Conflict`, which counts for
        nothing, where another change came first, and `errors.Unavailable`.
        """
        user = await users.by_id(self._db, identity.user_id)
        _refuse_new(change, user)
        self.hasher.turn_away()
        # Before a try is waited for: a change that is made meanwhile makes no wrong password of a right one.
        account = await users.credentials(self._db, user.username)
        async with self.lockout.attempt(user.username) as attempt:
            right = account is not None and await self.hasher.verify(change.current_password, account.password_hash)
            if account is None or not right:
                raise await self._change_failed(attempt, user.id)
            hashed = await self.hasher.hash(change.new_password)
            async with self._db.transaction() as tx:
                seen = account.password_changed_at
                if not await tx.exec(q.change_password, id=user.id, hash=hashed, seen=seen):
                    raise errors.Conflict(CHANGED_MEANWHILE)
                await attempt.right(tx)
                ended = await self._changed(tx, identity)
        await self.sessions.tell(ended)

    async def identify(self, token: str) -> Identity:
        """Whose token this is. Raises `errors.Unauthorized` for one that is expired, forged, of another
        kind, of an ended session or of an inactive user."""
        claims = self._tokens.verify(token)
        identity = self._known.find(str(claims.session_id)) or await self._read(claims)
        if identity is None or identity.user_id != claims.user_id:
            raise errors.Unauthorized(crypto.NOT_VALID)
        return identity

    async def is_live(self, identity: Identity) -> bool:
        """Whether its session or API key has neither ended nor expired and its user is what it says. Asks the database,
        for what goes on for longer than an identity is believed. Raises `errors.Unavailable`."""
        known = {"user_id": identity.user_id, "role": identity.role}
        origin = {"session_id": identity.session_id, "key_id": identity.key_id}
        return bool(await self._db.value(q.is_live, **known, **origin))

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

    async def _sign_in(self, username: str, password: str, ip: str | None, agent: str | None) -> Opened:
        self.hasher.turn_away()
        async with self.lockout.attempt(username) as attempt:
            account = await self._checked(attempt, username, password)
            async with self._db.transaction() as tx:
                opened = await self.sessions.open(tx, account, ip, agent)
                if opened:
                    await attempt.right(tx)
                    into = ("session", opened.session_id)
                    await audit.record(tx, "authn_login_success", user_id=account.id, object=into, ip=ip)
            if opened is None:
                raise await self._failed(attempt, "inactive", account.id)
        await self._renew_hash(account, password)
        return opened

    async def _checked(self, attempt: Attempt, username: str, password: str) -> users.Credentials:
        """The account whose password this is. The same is done for a name that nobody has: the same statements, and a
        hash that is worked through."""
        account = await users.credentials(self._db, username)
        right = await self.hasher.verify(password, account.password_hash if account else self.hasher.nobody)
        if account is None or not right:
            raise await self._failed(attempt, "wrong", account.id if account else None)
        return account

    async def _failed(self, attempt: Attempt, outcome: str, account: UUID | None) -> errors.Unauthorized:
        """Counts and records a failed sign-in. The name that was typed is not recorded: it may be a password."""
        metrics.auth_logins.labels(outcome).inc()
        async with self._db.transaction() as tx:
            await attempt.wrong(tx, account)
            await audit.record(tx, "authn_login_fail", result="failed", user_id=account, reason=outcome)
        return errors.Unauthorized(WRONG, offence="login")

    async def _change_failed(self, attempt: Attempt, user_id: UUID) -> errors.Invalid:
        async with self._db.transaction() as tx:
            await attempt.wrong(tx, user_id)
            await audit.record(tx, "authn_password_change_fail", result="failed", object=("user", user_id))
        faults = (Fault("current_password", "is wrong"),)
        return errors.Invalid("current_password is wrong.", faults=faults, offence="login")

    async def _changed(self, tx: Transaction, identity: Identity) -> list[UUID]:
        """Records a change of password and ends the other sessions, whose ids are answered."""
        whose = identity.user_id
        await audit.record(tx, "authn_password_change", object=("user", whose))
        return await self.sessions.revoke_all(tx, whose, reason="password", keep=identity.session_id)

    async def _renew_hash(self, account: users.Credentials, password: str) -> None:
        """Hashes a password that was just proven anew where hashes have another cost by now."""
        if not self.hasher.outdated(account.password_hash):
            return
        # The next sign-in does it where too many wait for a hash.
        with contextlib.suppress(errors.Unavailable):
            hashed = await self.hasher.hash(password)
            await self._db.exec(q.renew_hash, id=account.id, old=account.password_hash, new=hashed)

    def _pair(self, opened: Opened) -> Tokens:
        access = self._tokens.issue(opened.user_id, opened.session_id, seconds=self._access_seconds)
        return Tokens(access, opened.secret, self._access_seconds)

    async def _read(self, claims: Claims) -> Identity | None:
        """The session's state from the database. It is remembered unless a revocation came while it was read,
        which may have been too late for this answer."""
        changes = self._known.changes
        row = await self.sessions.find(claims.session_id, claims.user_id)
        if row is None:
            return None
        identity = Identity(**row)
        self._known.keep(str(claims.session_id), identity, changes)
        return identity


def _refuse_new(change: PasswordChange, user: users.User) -> None:
    """Raises `errors.Invalid` with every rule that the new password breaks."""
    broken = passwords.faults(change.new_password, user.username, user.email)
    if crypto.same_password(change.new_password, change.current_password):
        broken.append("must not be the current password")
    if broken:
        faults = tuple(Fault("new_password", message) for message in broken)
        raise errors.Invalid("; ".join(f"new_password {message}" for message in broken) + ".", faults=faults)


async def sweep(db: Statements) -> dict[str, int]:
    """Removes what nobody can use any more; for the janitor. The rows removed, by kind."""
    return {
        "tickets": await db.exec(q.sweep_tickets),
        "sessions": await sessions.sweep(db),
        "sign_in_attempts": await lockout.sweep(db),
    }
