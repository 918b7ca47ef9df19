"""PostgreSQL: a pool, the five kinds of query, transactions and migrations.

A statement outside `transaction()` commits by itself. A server that is away, or that only reads, shows as
`errors.Unavailable`; a violated constraint as the error that its feature registered under the constraint's name in
`VIOLATIONS`.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
import psycopg
from prometheus_client import Counter, Histogram
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ytdl import errors, metrics, sql, tracing
from ytdl.sql import Query

Row = dict[str, Any]
# The server ends a statement of its own accord; the second limit is for a server that does nothing any more.
STATEMENT_SECONDS = 10
ANSWER_SECONDS = 12.0
T = TypeVar("T")


class Connection(psycopg.AsyncConnection[Row]):
    """Waits for the server, but not for ever, whatever is asked of it."""

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Raises `psycopg.OperationalError` after a silence. The connection is useless then, and is closed."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await super().wait(gen, interval, timeout)
        except TimeoutError:
            raise psycopg.OperationalError("the server does not answer") from None


log = logging.getLogger("ytdl.db")
set_json_dumps(lambda value: msgspec.json.encode(value).decode())
set_json_loads(msgspec.json.decode)

# Constraint name -> what to tell the user; features fill it beside the queries that can hit the constraint.
VIOLATIONS: dict[str, Callable[[], errors.Error]] = {}

# An advisory lock's number is free to choose; it only has to be the same in every process.
MIGRATION_LOCK = 7_402_001
READS_ONLY = "The database takes no changes just now; try again later."
CHANGED = "The database was just changed by a newer version of the service; try again in a moment."
GONE = "The database cannot be reached just now; try again in a moment."


class Statements:
    """The five kinds of query, for a pool and for a transaction alike."""

    def _connection(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        raise NotImplementedError

    def on_commit(self, work: Callable[[], object]) -> None:
        """Does `work` once what was written is committed; outside a transaction that is now."""
        work()

    async def one(self, query: Query, **args: Any) -> Row:
        """Raises `errors.NotFound` when there is no row."""
        row = await self.maybe(query, **args)
        if row is None:
            raise errors.NotFound("There is nothing here by that name.")
        return row

    async def maybe(self, query: Query, **args: Any) -> Row | None:
        async with self._run(query, args) as cursor:
            return await cursor.fetchone()

    async def many(self, query: Query, **args: Any) -> list[Row]:
        async with self._run(query, args) as cursor:
            return await cursor.fetchall()

    async def value(self, query: Query, **args: Any) -> Any:
        """The first column of the only row, `None` without one."""
        row = await self.maybe(query, **args)
        return None if row is None else next(iter(row.values()))

    async def exec(self, query: Query, **args: Any) -> int:
        """The number of rows that changed."""
        async with self._run(query, args) as cursor:
            return cursor.rowcount

    @contextlib.asynccontextmanager
    async def _run(self, query: Query, args: Row) -> AsyncIterator[psycopg.AsyncCursor[Row]]:
        async with _translated(), self._connection() as connection, connection.cursor() as cursor:
            begun = time.perf_counter()
            with tracing.step("sql", query.name):
                await _execute(connection, cursor, query, args)
            yield cursor
            _count(query.name, time.perf_counter() - begun)


async def _execute(connection: Connection, cursor: psycopg.AsyncCursor[Row], query: Query, args: Row) -> None:
    """Once more where a newer version of the service beside this one has added a column: what the server had prepared
    for its rows is void then, and stays so. Not in a transaction; its end forgets what was prepared."""
    try:
        await cursor.execute(query.text, args)
    except psycopg.errors.FeatureNotSupported as e:
        if not _is_void(e) or connection.info.transaction_status is not TransactionStatus.IDLE:
            raise
        await connection.execute("DEALLOCATE ALL")
        await cursor.execute(query.text, args)


def _is_void(error: psycopg.errors.FeatureNotSupported) -> bool:
    """Told by who says it, as the sentence is in the server's language."""
    return error.diag.source_function == "RevalidateCachedQuery"


class Transaction(Statements):
    """One connection with an open transaction; everything commits together or not at all."""

    def __init__(self, connection: Connection) -> None:
        self._held = connection
        self._then: list[Callable[[], object]] = []

    def on_commit(self, work: Callable[[], object]) -> None:
        self._then.append(work)

    def committed(self) -> None:
        for work in self._then:
            work()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        yield self._held


class DB(Statements):
    def __init__(self, url: str, *, size: int = 10) -> None:
        self.url = url
        self._answered: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        self._drained_at = 0.0
        # A dead server must cost a request little: bounded waits everywhere, and a pool that comes back within seconds.
        options = (
            f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=30000 -c timezone=UTC"
        )
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=min(2, size),
            max_size=size,
            open=False,
            timeout=5,
            reconnect_timeout=5,
            max_waiting=500,
            configure=self._opened,
            check=self._check,
            connection_class=Connection,
            kwargs={"row_factory": dict_row, "autocommit": True, "connect_timeout": 3, "options": options},
        )

    async def _opened(self, connection: Connection) -> None:
        self._answered[connection] = time.monotonic()

    async def _check(self, connection: Connection) -> None:
        """Asks the server only after a pause: a connection that just served needs no further round trip."""
        if time.monotonic() - self._answered[connection] > 1.0:
            try:
                await AsyncConnectionPool.check_connection(connection)
            except psycopg.OperationalError:
                await self._drain(connection)
                raise

    async def _drain(self, dead: Connection) -> None:
        """What idles beside it most likely died with it; found one after the other, with the pool's pauses between,
        they would have one request wait for longer than it may. What answered only before the last time says nothing
        new."""
        if self._answered[dead] > self._drained_at:
            self._drained_at = time.monotonic()
            await self._pool.drain()

    async def open(self, seconds: float = 10.0) -> None:
        """Raises `errors.Unavailable` when no connection stands within that time."""
        try:
            await self._pool.open(wait=True, timeout=seconds)
        except (PoolTimeout, psycopg.Error):
            await self._pool.close()
            raise errors.Unavailable("PostgreSQL does not answer; look at DATABASE_URL.") from None

    async def close(self) -> None:
        await self._pool.close(timeout=3)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        begun = time.perf_counter()
        try:
            async with self._pool.connection() as connection:
                metrics.db_pool_wait_seconds.observe(time.perf_counter() - begun)
                try:
                    yield connection
                finally:
                    if connection.closed:
                        await self._drain(connection)
                self._answered[connection] = time.monotonic()
        except PoolTimeout:
            metrics.db_pool_wait_seconds.observe(time.perf_counter() - begun)
            raise

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with _translated(), self._connection() as connection:
            async with connection.transaction():
                tx = Transaction(connection)
                yield tx
            tx.committed()

    def stats(self) -> dict[str, int]:
        """Connections by state; a state that has none may be missing in the pool's own figures."""
        stats = self._pool.get_stats()
        return {
            "size": stats.get("pool_size", 0),
            "available": stats.get("pool_available", 0),
            "waiting": stats.get("requests_waiting", 0),
        }


def _count(name: str, seconds: float) -> None:
    of_feature, answered, busy = _series(name)
    of_feature.observe(seconds)
    answered.inc()
    busy.inc(seconds)


@functools.cache
def _series(name: str) -> tuple[Histogram, Counter, Counter]:
    """Those of a query. Its time is told for its feature: a histogram for each would be most of all series."""
    feature = name.partition(".")[0]
    return (
        metrics.db_query_seconds.labels(feature),
        metrics.db_queries.labels(name),
        metrics.db_query_busy_seconds.labels(name),
    )


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Driver errors to ours; the original stays as the cause, for the log."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as e:
        metrics.db_errors.labels("unavailable").inc()
        log.warning("db.unavailable", extra={"error": str(e).splitlines()[0] if str(e) else type(e).__name__})
        raise errors.Unavailable(GONE, retry_after=2) from e
    except psycopg.errors.ReadOnlySqlTransaction as e:
        metrics.db_errors.labels("unavailable").inc()
        log.warning("db.reads_only", extra={"error": str(e).splitlines()[0]})
        raise errors.Unavailable(READS_ONLY, retry_after=30) from e
    except psycopg.errors.FeatureNotSupported as e:
        metrics.db_errors.labels("unavailable" if _is_void(e) else "other").inc()
        if not _is_void(e):
            raise
        log.warning("db.schema_changed", extra={"error": str(e).splitlines()[0]})
        raise errors.Unavailable(CHANGED, retry_after=1) from e
    except psycopg.IntegrityError as e:
        known = VIOLATIONS.get(e.diag.constraint_name or "")
        metrics.db_errors.labels("conflict" if known else "other").inc()
        if known is None:
            raise
        raise known() from e
    except psycopg.Error:
        metrics.db_errors.labels("other").inc()
        raise


class Migration:
    def __init__(self, path: Any) -> None:
        number, _, self.name = path.stem.partition("_")
        self.version = int(number)
        self.text: bytes = path.read_bytes()
        self.checksum = hashlib.sha256(self.text).hexdigest()


def migrations() -> list[Migration]:
    return [Migration(path) for path in sorted((sql.ROOT / "migrations").glob("*.sql"))]


class SchemaMismatch(Exception):
    """The database was changed by another version of the service; the text says how."""


async def migrate(url: str) -> list[str]:
    """Applies what is missing, each file in its own transaction, and returns the names.

    An advisory lock lets several processes start at once. Raises `SchemaMismatch` when the database holds a migration
    that this version does not know, or knows with another text, and `errors.Unavailable` when no server answers.
    """
    async with (
        _translated(),
        await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10) as connection,
    ):
        await connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor = await connection.execute("SELECT version, checksum FROM schema_migrations")
        applied: dict[int, str] = dict(await cursor.fetchall())
        _compare(applied)
        missing = [m for m in migrations() if m.version not in applied]
        for migration in missing:
            await _apply(connection, migration)
        return [f"{m.version:04}_{m.name}" for m in missing]


def _compare(applied: dict[int, str]) -> None:
    known = {m.version: m.checksum for m in migrations()}
    for version, checksum in applied.items():
        if version not in known:
            raise SchemaMismatch(
                f"The database has migration {version:04}, which this version does not know; run a newer version."
            )
        if known[version] != checksum:
            raise SchemaMismatch(f"Migration {version:04} was changed after it had been applied.")


async def _apply(connection: "psycopg.AsyncConnection[Any]", migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.text)
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
    log.info("db.migrated", extra={"version": migration.version, "migration": migration.name})


async def until_up(url: str, seconds: float) -> None:
    """Waits until the server answers; for a start beside a server that is still coming up.

    Raises `errors.Unavailable` when the time is up.
    """
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=3):
                return
        except psycopg.OperationalError as e:
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"PostgreSQL does not answer: {str(e).splitlines()[0]}") from None
            if not told:
                told = True
                log.warning("db.waiting", extra={"seconds": seconds, "error": str(e).splitlines()[0]})
            await asyncio.sleep(0.2)
