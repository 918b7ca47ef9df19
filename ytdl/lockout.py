"""How often a name's password may be tried: tries are entered before the password is looked at.

`async with lockout.attempt(username) as attempt:` holds one of the name's tries; `attempt.right(tx)` or
`attempt.wrong(tx)` says how it ended. Names that nobody has are counted like all others, so that a lock tells
nothing of who has an account. Whose password it is, and whether it is right, is `auth`'s.
"""

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from uuid import UUID
from weakref import WeakValueDictionary

from ytdl import audit, crypto, errors, sql
from ytdl.db import DB, Statements

q = sql.load("lockout")
LOCKED = "Too many failed sign-ins under this name; try again later."
# All tries of a name may be under way at once, as when a script signs in twenty times: whoever is too many waits for
# one to end, so that right passwords lock nobody out. After so long it is turned away as when the service is busy.
WAIT_SECONDS = 10.0
# A try that has not ended by then has died with its process, or could not be given back: the wait for a hash, the hash
# and what is written after it take less.
ALIVE_SECONDS = 60.0
# Up to this a lock is doubled: whoever guesses on and on shall not keep a name locked with a handful of tries a day.
LONGEST_SECONDS = 3600.0
# How often it is asked whether a try has ended in another process; those of this process are known at once.
ASK_SECONDS = 0.1


class Lockout:
    """After `attempts` failures in a row a name is locked for `minutes`, and doubly for each further lock within a day,
    up to an hour; more `minutes` than that stay as they are. A success forgets all of that; failures are also forgotten
    after `minutes` without a try."""

    def __init__(self, db: DB, key: bytes, *, attempts: int, minutes: float) -> None:
        self._db = db
        self._key = crypto.derived(key, "names of sign-ins")
        self._limits = {"most": attempts, "seconds": minutes * 60}
        # Of one name no more than can be entered wait at the database.
        self._doors: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def attempt(self, username: str) -> AsyncIterator["Attempt"]:
        """Raises `errors.Locked`, and `errors.Unavailable` when other tries take too long to end.

        A try that ends in `errors.Unavailable` or `errors.Conflict` is given back. One that ends without a word, as
        when the process is killed or the database is away, counts for a minute from its begin.
        """
        digest = self._digest(username)
        deadline = time.monotonic() + WAIT_SECONDS
        async with self._door(digest, deadline):
            attempt = Attempt(digest, await self._enter(digest, deadline), self._limits)
            try:
                yield attempt
            except (errors.Unavailable, errors.Conflict):
                if not attempt.failed:
                    # It runs out by itself where the database is what failed.
                    with contextlib.suppress(errors.Unavailable):
                        await attempt.give_back(self._db)
                raise

    @contextlib.asynccontextmanager
    async def _door(self, digest: bytes, deadline: float) -> AsyncIterator[None]:
        door = self._doors.setdefault(digest, asyncio.Semaphore(int(self._limits["most"])))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await door.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            yield
        finally:
            door.release()

    async def _enter(self, digest: bytes, deadline: float) -> datetime:
        """When the try began, by which it is known among those of its name."""
        while (row := await self._db.maybe(q.reserve, digest=digest, alive=ALIVE_SECONDS, **self._limits)) is None:
            seconds = await self._db.value(q.locked_seconds, digest=digest)
            if seconds is not None:
                raise errors.Locked(LOCKED, retry_after=seconds)
            if time.monotonic() > deadline:
                raise _busy()
            await asyncio.sleep(ASK_SECONDS)
        began: datetime = row["began"]
        return began

    async def unlock(self, db: Statements, username: str) -> None:
        """Forgets the failures of a name; for an admin."""
        await db.exec(q.unlock, digest=self._digest(username))

    async def locked_until(self, db: Statements, usernames: Iterable[str]) -> dict[str, datetime]:
        """By name, until when it is locked; names that are not locked are not in it."""
        names = {self._digest(name): name for name in usernames}
        rows = await db.many(q.locked, digests=list(names))
        return {names[row["name_digest"]]: row["locked_until"] for row in rows}

    def _digest(self, username: str) -> bytes:
        return hmac.digest(self._key, username.lower().encode("utf-8", "surrogatepass"), "sha256")


class Attempt:
    """One try of a name's password; `right` or `wrong` ends it."""

    def __init__(self, digest: bytes, began: datetime, limits: dict[str, float]) -> None:
        self._known = {"digest": digest, "began": began}
        self._limits = limits
        self.failed = False

    async def give_back(self, db: Statements) -> None:
        await db.exec(q.give_back, **self._known)

    async def right(self, db: Statements) -> None:
        await db.exec(q.right, **self._known)

    async def wrong(self, db: Statements, user_id: UUID | None) -> None:
        """Counts a failure, and records the lock that may come of it; `user_id` is that of an account, if there is
        one by that name."""
        self.failed = True
        longest = max(LONGEST_SECONDS, self._limits["seconds"])
        state = await db.maybe(q.wrong, **self._known, **self._limits, longest=longest)
        if state and state["locked"]:
            await audit.record(db, "authn_login_lock", result="denied", user_id=user_id, lockouts=state["lockouts"])


def _busy() -> errors.Unavailable:
    return errors.Unavailable(crypto.BUSY, retry_after=1)


async def sweep(db: Statements) -> int:
    return await db.exec(q.sweep, alive=ALIVE_SECONDS)
