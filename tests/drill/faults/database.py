"""PostgreSQL stopped, slow, locked, out of connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psycopg

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin

LATE_SECONDS = 0.2


@fault("postgres-down", "PostgreSQL is stopped", "PostgresDown", apart=True, silent=("twilio",))
async def _down(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.stop_postgres()
    yield
    await ground.start_postgres()


@fault("database-slow", "PostgreSQL is 0.2 s away", "QueriesSlow")
async def _slow(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.gate.delay = LATE_SECONDS
    yield
    ground.gate.delay = 0.0


@fault(
    "table-locked", "Somebody locks the table of downloads while many list them", "PoolExhausted", silent=("twilio",)
)
async def _locked(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(ground.database())
        await db.execute("BEGIN")
        await db.execute("LOCK TABLE downloads IN ACCESS EXCLUSIVE MODE")
        for _ in range(30):
            await stack.enter_async_context(again(lambda: admin.request("GET", "/downloads"), 0.05))
        yield
        await db.execute("ROLLBACK")


@fault("transaction-open", "Somebody leaves a transaction open", "LongTransaction")
async def _open(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("BEGIN")
        await db.execute("SELECT count(*) FROM downloads")
        yield
        await db.execute("ROLLBACK")


@fault("deadlock", "Two transactions wait for each other", "Deadlocks")
async def _deadlock(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as one, ground.database() as other:
        for db, first in ((one, 1), (other, 2)):
            await db.execute("BEGIN")
            await db.execute(f"SELECT pg_advisory_xact_lock({first})".encode())
        waiting = [one.execute("SELECT pg_advisory_xact_lock(2)"), other.execute("SELECT pg_advisory_xact_lock(1)")]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert any(isinstance(one, psycopg.errors.DeadlockDetected) for one in found)
    yield


@fault("connections-gone", "Others take nearly all connections of PostgreSQL", "ConnectionsNearLimit")
async def _gone(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(93):
                await stack.enter_async_context(ground.database())
        yield


@fault("table-broken", "A table that the service writes to is renamed", "QueriesFailing")
async def _broken(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("ALTER TABLE download_logs RENAME TO elsewhere")
        yield
        await db.execute("ALTER TABLE elsewhere RENAME TO download_logs")


@fault("archive-failing", "PostgreSQL cannot archive its log", "ArchiveFailing", apart=True)
async def _archive(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("ALTER SYSTEM SET archive_mode = 'on'")
        await db.execute("ALTER SYSTEM SET archive_command = 'false'")
    await ground.stop_postgres()
    await ground.start_postgres()
    await ground.seen()
    async with ground.database() as db:
        await db.execute("SELECT pg_switch_wal()")
        yield
        await db.execute("ALTER SYSTEM RESET archive_mode")
        await db.execute("ALTER SYSTEM RESET archive_command")
    await ground.stop_postgres()
    await ground.start_postgres()
