"""What admins do with accounts: looking at them, changing them, giving them limits, shutting them out, removing them.

`Accounts(db, auth, downloads, queue)` serves a process. What its owner does with an account is `users`'.
"""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ytdl import apikeys, audit, errors, log, sql, users
from ytdl import db as database
from ytdl.auth import Auth
from ytdl.db import DB, Row, Statements, Transaction
from ytdl.downloads import Downloads
from ytdl.queue import Queue
from ytdl.record import Moment
from ytdl.users import Email, FullName, Role, User

q = sql.load("accounts")

NO_USER = "There is no such user."
LAST_ADMIN = "This is the last active admin, who can be neither removed nor demoted nor deactivated."
LIMITS = ("concurrent_downloads", "requests_per_minute", "file_bytes")


# Whoever asks for something while the account or key they come with is being removed.
for _constraint in (
    *("api_keys_user_id_fkey", "blocks_created_by_fkey", "cookies_user_id_fkey", "downloads_user_id_fkey"),
    *("idempotency_keys_user_id_fkey", "refresh_tokens_session_id_fkey", "sealed_values_owner_fkey"),
    *("sessions_user_id_fkey", "tickets_key_id_fkey", "tickets_session_id_fkey", "thresholds_set_by_fkey"),
    *("acknowledgements_user_id_fkey", "notification_settings_updated_by_fkey"),
):
    database.VIOLATIONS[_constraint] = lambda: errors.Unauthorized("The account or key was just removed.")


class AccountFilter(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`q` is a part of the user name, the e-mail address or the full name."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: UUID | None = None
    role: Role | None = None
    is_active: bool | None = None
    q: Annotated[str, Meta(max_length=200)] | None = None


class OwnLimits(msgspec.Struct, frozen=True):
    """Null is what the settings say."""

    concurrent_downloads: int | None
    requests_per_minute: int | None
    file_bytes: int | None


class LimitsChange(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is left out stays; null goes back to what the settings say."""

    concurrent_downloads: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType | None = UNSET
    requests_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType | None = UNSET
    file_bytes: Annotated[int, Meta(ge=1, le=2**50)] | UnsetType | None = UNSET


class AccountChange(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is left out stays. `locked` can be given as false, which forgets failed sign-ins."""

    email: Email | UnsetType = UNSET
    full_name: FullName | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    limits: LimitsChange | UnsetType = UNSET
    locked: Annotated[bool, Meta(extra_json_schema={"const": False})] | UnsetType = UNSET


class Account(User, frozen=True, kw_only=True):
    """`locked_until` is until when failed sign-ins keep the name from signing in."""

    limits: OwnLimits
    locked_until: Moment | None


class AccountPage(msgspec.Struct, frozen=True):
    items: list[Account]
    next_cursor: str | None


class Accounts:
    def __init__(self, db: DB, auth: Auth, downloads: Downloads, queue: Queue) -> None:
        self._db = db
        self._auth = auth
        self._downloads = downloads
        self._queue = queue

    async def page(self, f: AccountFilter) -> AccountPage:
        rows = await self._db.many(
            q.page, before=f.cursor, role=f.role, is_active=f.is_active, part=f.q, limit=f.limit + 1
        )
        await audit.record(self._db, "sensitive_read", object=("user", None), accounts=len(rows[: f.limit]))
        items = await self._views(rows[: f.limit])
        return AccountPage(items, str(items[-1].id) if len(rows) > f.limit else None)

    async def get(self, id: UUID) -> Account:
        """Goes on record, unless it is the reader's own. Raises `errors.NotFound`."""
        account = await self._account(id)
        if log.user_id.get() != str(id):
            await audit.record(self._db, "sensitive_read", object=("user", id))
        return account

    async def change(self, id: UUID, wish: AccountChange) -> Account:
        """A change of the role, and being deactivated, end all sessions and API keys of the account: what was given to
        one role is not to be found in the hands of another. Its downloads go on.

        Raises `errors.Invalid`, `errors.Conflict` for a taken address and for the last active admin, and
        `errors.NotFound`.
        """
        _check(wish)
        async with self._db.transaction() as tx:
            if wish.role is not UNSET or wish.is_active is not UNSET:
                await users.hold_admins(tx)
            before = await self._held(tx, id)
            after = before | _wanted(wish)
            await self._spare_last_admin(tx, id, before, after)
            await tx.exec(q.change, id=id, **_columns(after))
            shut_out = before["role"] != after["role"] or (before["is_active"] and not after["is_active"])
            ended = await self._shut_out(tx, id, "account changed") if shut_out else []
            await self._record(tx, id, before, after)
            if wish.locked is False:
                await self._unlock(tx, id, before["username"])
        await self._auth.sessions.tell(ended)
        if before["concurrent_downloads"] != after["concurrent_downloads"]:
            await self._queue.allow(id)
        return await self._account(id)

    async def delete(self, id: UUID) -> None:
        """Ends and removes whatever is the account's: first nobody comes in any more, then its downloads are cancelled,
        then their rows and files go in steps, and at last the account. Stopped in between, it leaves an inactive
        account, which can be deleted again. Log rows of its downloads and what is on record stay.

        Raises `errors.Conflict` for the last active admin, `errors.NotFound`.
        """
        async with self._db.transaction() as tx:
            await users.hold_admins(tx)
            before = await self._held(tx, id)
            after = before | {"is_active": False}
            await self._spare_last_admin(tx, id, before, after)
            await tx.exec(q.change, id=id, **_columns(after))
            ended = await self._shut_out(tx, id, "account deleted")
            await self._record(tx, id, before, after)
        await self._auth.sessions.tell(ended)
        await self._downloads.cancel_all(id)
        files = await self._empty(id)
        async with self._db.transaction() as tx:
            await users.hold_admins(tx)
            await self._held_inactive(tx, id)
            late = await self._downloads.delete_some(tx, id)
            await tx.exec(q.delete, id=id)
            files += sum(1 for name in late if name)
            await audit.record(tx, "user_deleted", object=("user", id), files=files)
        # One that was asked for at the very last moment has a job and no record any more.
        await self._downloads.cancel_all(id)
        await self._downloads.remove_files(late)

    async def _empty(self, id: UUID) -> int:
        """Removes records and files in steps, as one for all would take too long; returns how many files those were."""
        files = 0
        while True:
            async with self._db.transaction() as tx:
                await self._held_inactive(tx, id)
                names = await self._downloads.delete_some(tx, id)
            if not names:
                return files
            files += await self._downloads.remove_files(names)

    async def _held_inactive(self, tx: Statements, id: UUID) -> None:
        if (await self._held(tx, id))["is_active"]:
            raise errors.Conflict("The account was activated again meanwhile; look at it again.")

    async def _account(self, id: UUID) -> Account:
        row = await self._db.maybe(q.by_id, id=id)
        if row is None:
            raise errors.NotFound(NO_USER)
        return (await self._views([row]))[0]

    async def _views(self, rows: list[Row]) -> list[Account]:
        locked = await self._auth.lockout.locked_until(self._db, [row["username"] for row in rows])
        return [_view(row, locked.get(row["username"])) for row in rows]

    async def _held(self, tx: Statements, id: UUID) -> Row:
        """The account as it is now; nobody else changes it until the transaction ends. Whoever holds the admins as well
        does that before, so that two cannot wait in a circle."""
        row = await tx.maybe(q.lock, id=id)
        if row is None:
            raise errors.NotFound(NO_USER)
        return row

    async def _spare_last_admin(self, tx: Statements, id: UUID, before: Row, after: Row) -> None:
        if _rules(before) and not _rules(after) and not await tx.value(q.has_other_admin, id=id):
            raise errors.Conflict(LAST_ADMIN)

    async def _shut_out(self, tx: Transaction, id: UUID, reason: str) -> list[UUID]:
        """Ends all sessions and keys; returns their ids, to be told once that is committed."""
        sessions = await self._auth.sessions.revoke_all(tx, id, reason=reason)
        return sessions + await apikeys.revoke_all(tx, id, reason=reason)

    async def _record(self, tx: Statements, id: UUID, before: Row, after: Row) -> None:
        changed = [name for name in before if before[name] != after[name]]
        if "role" in changed:
            roles = {"former": before["role"], "role": after["role"]}
            await audit.record(tx, "privilege_permissions_changed", object=("user", id), **roles)
        if fields := [name for name in changed if name != "role"]:
            active = {"is_active": after["is_active"]} if "is_active" in fields else {}
            await audit.record(tx, "user_updated", object=("user", id), fields=fields, **active)

    async def _unlock(self, tx: Statements, id: UUID, username: str) -> None:
        await self._auth.lockout.unlock(tx, username)
        await audit.record(tx, "user_unlocked", object=("user", id))


def _check(wish: AccountChange) -> None:
    """Raises `errors.Invalid` with every broken rule."""
    users.refuse(
        *([] if wish.email is UNSET else users.email_faults(wish.email)),
        *([] if wish.full_name is UNSET else users.full_name_faults(wish.full_name.strip())),
        *([errors.Fault("locked", "can be set to false only")] if wish.locked is True else []),
    )


def _wanted(wish: AccountChange) -> dict[str, Any]:
    """The columns that are to have another value."""
    own = {name: getattr(wish, name) for name in ("email", "full_name", "role", "is_active")}
    limits = {} if wish.limits is UNSET else {name: getattr(wish.limits, name) for name in LIMITS}
    found = {name: value for name, value in (own | limits).items() if value is not UNSET}
    return found | ({"full_name": found["full_name"].strip()} if "full_name" in found else {})


def _columns(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "username"}


def _rules(row: Row) -> bool:
    return bool(row["role"] == "admin" and row["is_active"])


def _view(row: Row, locked_until: Moment | None) -> Account:
    own = {name: value for name, value in row.items() if name not in LIMITS}
    return Account(**own, limits=OwnLimits(*(row[name] for name in LIMITS)), locked_until=locked_until)
