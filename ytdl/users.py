"""Accounts: the rules of names, making, reading and changing them, and the first admin.

`create(db, hasher, username=..., email=..., password=..., full_name=..., role="user") -> User` makes one;
tests give it `Hasher(cost=4)`. Sessions and tokens are `auth`'s.
"""

import logging
import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import UNSET, Meta, UnsetType

from ytdl import audit, errors, metrics, passwords, sql, texts
from ytdl import db as database
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB, Statements
from ytdl.errors import Fault
from ytdl.hidden import Hidden

log = logging.getLogger("ytdl.users")
q = sql.load("users")

Role = Literal["user", "admin"]
USERNAME = re.compile(r"[A-Za-z0-9_.-]{3,50}")
# Plausible, not proven: only a letter that arrives proves an address.
EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64})*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]"
)
USERNAME_LENGTH, EMAIL_LENGTH, MAILBOX_LENGTH = 50, 254, 64
FULL_NAME_LENGTH = 100


def _said(longest: int, **schema: object) -> Meta:
    """The longest length, at which reading ends: looking through a text as long as a body may be would hold up
    everybody. The other rules are for the API's document; they are checked by this module, so that all broken ones show
    at once."""
    return Meta(max_length=longest, extra_json_schema=schema)


Username = Annotated[str, _said(USERNAME_LENGTH, minLength=3, pattern="^[A-Za-z0-9_.-]+$", examples=["alice"])]
Email = Annotated[str, _said(EMAIL_LENGTH, description="E-mail address.", pattern=f"^{EMAIL.pattern}$")]
Password = Annotated[str, _said(passwords.LENGTH[-1], format="password", minLength=passwords.LENGTH[0])]
FullName = Annotated[str, _said(FULL_NAME_LENGTH, minLength=1)]


class Registration(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    username: Username
    email: Email
    password: Password
    full_name: FullName


class ProfileChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that is left out stays as it is."""

    email: Email | UnsetType = UNSET
    full_name: FullName | UnsetType = UNSET


class User(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    username: str
    email: str
    full_name: str
    role: Role
    is_active: bool
    created_at: datetime
    last_login: datetime | None


class Credentials(Hidden, msgspec.Struct, frozen=True):
    id: UUID
    password_hash: str
    password_changed_at: datetime


class Limits(msgspec.Struct, frozen=True):
    """What is in force: what an admin set for this user, else what the settings say."""

    concurrent_downloads: int
    requests_per_minute: int
    file_bytes: int


class Usage(msgspec.Struct, frozen=True):
    """Downloads ever, those not at their end, and the bytes of the files that are kept."""

    downloads: int
    active_downloads: int
    stored_bytes: int


class Profile(User, frozen=True, kw_only=True):
    limits: Limits
    usage: Usage


def _taken(field: str, what: str) -> errors.Conflict:
    return errors.Conflict(f"{what} is taken.", faults=(Fault(field, "is taken"),))


database.VIOLATIONS["users_username_taken"] = lambda: _taken("username", "This user name")
database.VIOLATIONS["users_email_taken"] = lambda: _taken("email", "This e-mail address")


async def register(db: DB, hasher: Hasher, config: Config, wish: Registration) -> User:
    """Raises `errors.Forbidden` where registration is closed, else as `create`."""
    if not config.registration_open:
        raise errors.Forbidden("Registration is closed; ask an admin for an account.")
    user = await create(db, hasher, **msgspec.structs.asdict(wish))
    metrics.auth_registrations.inc()
    return user


async def create(
    db: DB,
    hasher: Hasher,
    *,
    username: str,
    email: str,
    password: str,
    full_name: str,
    role: Role = "user",
) -> User:
    """Raises `errors.Invalid` with every broken rule, `errors.Conflict` for a taken name or address, and
    `errors.Unavailable` when too many passwords are being hashed."""
    full_name = full_name.strip()
    refuse(
        *name_faults(username),
        *email_faults(email),
        *(Fault("password", message) for message in passwords.faults(password, username, email)),
        *full_name_faults(full_name),
    )
    hashed = await hasher.hash(password)
    async with db.transaction() as tx:
        return await _insert(tx, username, email, full_name, hashed, role)


async def by_id(db: Statements, id: UUID) -> User:
    """Raises `errors.NotFound`."""
    row = await db.maybe(q.by_id, id=id)
    if row is None:
        raise errors.NotFound("There is no such user.")
    return User(**row)


async def profile(db: Statements, config: Config, id: UUID) -> Profile:
    """The account with what it may use and what it uses. Raises `errors.NotFound`."""
    user = await by_id(db, id)
    own = await db.one(q.limits, id=id)
    limits = Limits(
        own["concurrent_downloads"] or config.download_user_concurrency,
        own["requests_per_minute"] or config.rate_limit_per_minute,
        own["file_bytes"] or config.download_max_bytes,
    )
    usage = Usage(**await db.one(q.usage, id=id))
    return Profile(**msgspec.structs.asdict(user), limits=limits, usage=usage)


async def change(db: DB, id: UUID, wish: ProfileChange) -> User:
    """Raises `errors.Invalid`, `errors.Conflict` for a taken address and `errors.NotFound`."""
    email = None if wish.email is UNSET else wish.email
    full_name = None if wish.full_name is UNSET else wish.full_name.strip()
    refuse(
        *([] if email is None else email_faults(email)),
        *([] if full_name is None else full_name_faults(full_name)),
    )
    changed = [name for name, value in (("email", email), ("full_name", full_name)) if value is not None]
    async with db.transaction() as tx:
        row = await tx.maybe(q.change, id=id, email=email, full_name=full_name)
        if row is None:
            raise errors.NotFound("There is no such user.")
        await audit.record(tx, "user_updated", object=("user", id), fields=changed)
    return User(**row)


async def first_admin(db: DB, hasher: Hasher, *, username: str, password: str) -> str | None:
    """Makes an admin when there is none; returns the password if it was made here, the only time it is seen.

    A given password is taken as it is, with a warning when it breaks the rules: the operator's word stands.
    Raises `errors.Invalid` for a name out of its rules, `errors.Conflict` when it is an ordinary account's.
    """
    refuse(*name_faults(username))
    if await db.value(q.has_admin):
        return None
    chosen = password or passwords.make(username)
    if passwords.faults(chosen, username, ""):
        log.warning("user_password_weak", extra={"setting": "ADMIN_PASSWORD"})
    hashed = await hasher.hash(chosen)
    async with db.transaction() as tx:
        await hold_admins(tx)
        if await tx.value(q.has_admin):
            return None
        # No address can be registered without a dot in its domain, so this one is never taken by a user.
        await _insert(tx, username, f"{username}@localhost", "Administrator", hashed, "admin")
    return None if password else chosen


async def hold_admins(tx: Statements) -> None:
    """Until the transaction ends, who is an active admin is changed by this one alone."""
    await tx.exec(q.lock_admins)


async def credentials(db: Statements, username: str) -> Credentials | None:
    """What a sign-in by this name is checked against; `None` for a name that nobody has."""
    row = None if name_faults(username) else await db.maybe(q.credentials, username=username)
    return Credentials(**row) if row else None


async def _insert(db: Statements, username: str, email: str, full_name: str, password_hash: str, role: Role) -> User:
    row = await db.one(
        q.insert,
        id=uuid.uuid7(),
        username=username,
        email=email,
        full_name=full_name,
        password_hash=password_hash,
        role=role,
    )
    await audit.record(db, "user_created", object=("user", row["id"]), role=role)
    return User(**row)


def refuse(*faults: Fault) -> None:
    """Raises `errors.Invalid` with all of them, if there are any."""
    if faults:
        raise errors.Invalid("; ".join(f"{f.field} {f.message}" for f in faults) + ".", faults=faults)


def name_faults(username: str) -> list[Fault]:
    if USERNAME.fullmatch(username):
        return []
    return [Fault("username", "must have 3 to 50 characters, only letters, digits, _, - and .")]


def email_faults(email: str) -> list[Fault]:
    if len(email) <= EMAIL_LENGTH and EMAIL.fullmatch(email) and email.index("@") <= MAILBOX_LENGTH:
        return []
    return [Fault("email", f"must be an e-mail address of at most {EMAIL_LENGTH} characters")]


def full_name_faults(name: str) -> list[Fault]:
    return [Fault("full_name", message) for message in texts.faults(name, FULL_NAME_LENGTH)]
