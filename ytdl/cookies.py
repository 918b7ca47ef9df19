"""Cookies that users upload, so that the site shows their downloads what it shows to them.

They are sealed for their user, lent to one attempt at a time of one of that user's downloads, and never shown again:
what can be seen is their state. Whether an attempt needs them is found out by the child; which file is a good one is
`netscape`'s.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta

from ytdl import audit, errors, metrics, netscape, sealed, sql
from ytdl.db import DB, Statements
from ytdl.fetcher import Account, Cookie
from ytdl.hidden import Hidden
from ytdl.queue import Claim
from ytdl.vault import Unopened, Vault

log = logging.getLogger("ytdl.cookies")
q = sql.load("cookies")

Status = Literal["unproven", "valid", "expired", "refused", "unreadable"]
Outcome = Literal["accepted", "refused", "unclear"]
# Those that an attempt gets, if they can be opened.
USABLE = ("unproven", "valid")
NONE = "You have uploaded no cookies."
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Cookie]).decode


class NewCookies(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cookies` is the text of a cookies.txt file; of that only what belongs to the site is kept."""

    cookies: Annotated[str, Meta(min_length=1, max_length=netscape.LARGEST)]


class CookieState(msgspec.Struct, frozen=True, kw_only=True):
    """`unproven` until the site has taken them, `refused` since it did not, `unreadable` where the server has lost what
    they were sealed with, so that they have to be uploaded again; `expires_at` is the end of the first one that the
    site knows its user by, null when they end with a browser."""

    site: Literal["youtube"] = "youtube"
    status: Status
    cookie_count: int
    uploaded_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    refused_at: datetime | None


class KeptCookies(CookieState, frozen=True, kw_only=True):
    """What was not kept of the file: cookies of other sites, and expired ones."""

    dropped_other_sites: int
    dropped_expired: int


@dataclass(frozen=True)
class Loan:
    """What an attempt got; `upload` is none when it got nothing."""

    account: Account = field(repr=False)
    user_id: UUID | None = None
    upload: UUID | None = None


NOTHING = Loan(Account())


class Cookies:
    def __init__(self, db: DB, vault: Vault) -> None:
        self._db = db
        self._vault = vault

    async def put(self, user_id: UUID, new: NewCookies) -> KeptCookies:
        """Keeps them in place of earlier ones. Raises `errors.Invalid`, which names lines and shows none."""
        file = await asyncio.to_thread(netscape.parse, new.cookies, time.time())
        async with self._db.transaction() as tx:
            known = await tx.maybe(q.state, user_id=user_id)
            count = len(file.cookies)
            await tx.exec(q.put, user_id=user_id, upload=uuid.uuid7(), cookie_count=count, expires=file.expires)
            await sealed.put(tx, self._vault, "cookies", user_id, _encode(file.cookies))
            kind = "sensitive_update" if known else "sensitive_create"
            await audit.record(tx, kind, object=("cookies", user_id), kept=count)
            row = await tx.one(q.state, user_id=user_id)
        return KeptCookies(**row, dropped_other_sites=file.other_sites, dropped_expired=file.expired)

    async def state(self, user_id: UUID) -> CookieState:
        """Raises `errors.NotFound` where there are none."""
        row = await self._db.maybe(q.state, user_id=user_id)
        if row is None:
            raise errors.NotFound(NONE)
        if row["status"] in USABLE and await self._open(self._db, user_id) is None:
            row["status"] = "unreadable"
        return CookieState(**row)

    async def remove(self, user_id: UUID) -> None:
        """No attempt gets them from now on; one that has them uses them until the site has described its video.

        Raises `errors.NotFound` where there are none.
        """
        async with self._db.transaction() as tx:
            if not await tx.exec(q.remove, user_id=user_id):
                raise errors.NotFound(NONE)
            await sealed.remove(tx, "cookies", user_id)
            await audit.record(tx, "sensitive_delete", object=("cookies", user_id))

    async def lend(self, claim: Claim, *, needed: bool) -> Loan:
        """The cookies of the job's own user, as long as the job is leased under this fence and they may be used.

        `needed` is whether the site has said that it wants a signed-in user, which the download then remembers.
        """
        async with self._db.transaction() as tx:
            row = await tx.maybe(q.lend, job=claim.job, fence=claim.fence, needed=needed)
            if row is None:
                return NOTHING
            if row["status"] not in USABLE:
                return Loan(Account(missing=row["status"]))
            owner, upload = row["user_id"], row["upload"]
            plain = await self._open(tx, owner)
            if plain is None:
                log.error("cookies.unopened", extra={"owner": str(owner)})
                return Loan(Account(missing="unreadable"))
            await tx.exec(q.used, user_id=owner, upload=upload)
            await audit.record(tx, "sensitive_read", user_id=owner, object=("cookies", owner), job=claim.job)
        return Loan(Account(_decode(plain)), owner, upload)

    async def _open(self, db: Statements, user_id: UUID) -> bytes | None:
        """`None` as well where their key is lost: a download must not wait until that is found."""
        try:
            return await sealed.read(db, self._vault, "cookies", user_id)
        except Unopened:
            return None

    async def give_back(self, loan: Loan, outcome: Outcome) -> None:
        """What became of them: whether the site took them for its user, did not, or was never understood."""
        if loan.upload is None:
            return
        upload = {"user_id": loan.user_id, "upload": loan.upload}
        if outcome == "accepted":
            await self._db.exec(q.accepted, **upload)
        elif outcome == "refused" and await self._db.maybe(q.refused, **upload):
            log.warning("cookies.refused", extra={"owner": str(loan.user_id)})
        metrics.cookies_used.labels(outcome).inc()

    async def measure(self) -> None:
        """Sets the gauges of all users' cookies together. Which can be read is told by the key that they name."""
        keys = list(self._vault.key_ids)
        found = {row["status"]: row["users"] for row in await self._db.many(q.by_status, keys=keys)}
        for status in metrics.COOKIE_STATUSES:
            metrics.cookies_state.labels(status).set(found.get(status, 0))
        ages = await self._db.one(q.ages, keys=keys)
        metrics.cookies_oldest_uploaded.set(ages["oldest_upload"])
        metrics.cookies_first_expiry.set(ages["first_expiry"])
