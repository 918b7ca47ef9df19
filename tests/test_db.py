"""PostgreSQL as the rest of the service sees it: queries, transactions, migrations, and a server that goes away."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from prometheus_client import generate_latest

from tests.fakes.gate import Gate
from tests.servers import Servers, named
from ytdl import db as module
from ytdl import errors, metrics
from ytdl import sql as queries
from ytdl.db import DB, VIOLATIONS, SchemaMismatch, Statements
from ytdl.sql import Query

NOWHERE = "postgresql://127.0.0.1:1/ytdl"


def query(text: str, name: str = "test.any") -> Query:
    return Query(name, "many", "A test's own.", f"-- {name}\n{text}".encode())


NUMBERS = query("SELECT generate_series(1, %(n)s::int) AS n")
ECHO = query("SELECT %(a)s::text AS a")
INSERT = query("INSERT INTO notes (id, text) VALUES (%(id)s, %(text)s)")
COUNT = query("SELECT count(*) FROM notes")
SLEEP = query("SELECT pg_sleep(%(s)s)", "test.sleep")
# Less than what the server gives a statement, after which it would end by itself.
UNTIL_SECONDS = 8.0


@pytest.fixture
async def notes(db: DB) -> DB:
    create = (
        "CREATE TABLE notes (id int CONSTRAINT notes_pkey PRIMARY KEY, text text CONSTRAINT short CHECK (text < 'n'))"
    )
    await db.exec(query(create))
    return db


# queries


async def test_each_kind_of_query_answers_in_its_way(db: DB) -> None:
    assert await db.many(NUMBERS, n=3) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert await db.many(NUMBERS, n=0) == []
    assert await db.maybe(NUMBERS, n=0) is None
    assert await db.one(NUMBERS, n=1) == {"n": 1}
    assert await db.value(NUMBERS, n=1) == 1
    assert await db.value(NUMBERS, n=0) is None


async def test_one_without_a_row_is_not_found(db: DB) -> None:
    with pytest.raises(errors.NotFound):
        await db.one(NUMBERS, n=0)


async def test_exec_says_how_many_rows_changed(notes: DB) -> None:
    assert await notes.exec(INSERT, id=1, text="a") == 1
    assert await notes.exec(query("UPDATE notes SET text = 'b' WHERE id = 2")) == 0


@pytest.mark.parametrize("value", ["%s %(a)s", "'; DROP TABLE notes", "ä☃", ""])
async def test_arguments_are_never_read_as_sql(db: DB, value: str) -> None:
    assert await db.value(ECHO, a=value) == value


async def test_times_come_in_utc(db: DB) -> None:
    assert str((await db.value(query("SELECT now()"))).tzinfo) == "UTC"


async def until(db: Statements, count: Query, wanted: int) -> None:
    """Until that many are counted; the server sees what a connection does, and that it is gone, a little later."""
    async with asyncio.timeout(UNTIL_SECONDS):
        while await db.value(count) != wanted:  # noqa: ASYNC110 - what it waits for is in the server
            await asyncio.sleep(0.01)


async def test_a_statement_is_named_in_the_servers_activity_and_in_the_metrics(db: DB) -> None:
    lock = "SELECT pg_advisory_xact_lock(1)"
    async with db.transaction() as tx:
        await tx.one(query(lock))
        named = asyncio.create_task(db.one(query(lock, "test.named")))
        # Not by `tx`: what a transaction has once seen of the activity it sees to its end.
        await until(db, query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '-- test.named%%'"), 1)
    await named
    assert 'ytdl_db_queries_total{query="test.named"} 1.0' in generate_latest(metrics.REGISTRY).decode()


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"ytdl_db_{name}", labels) or 0.0


async def test_a_query_is_counted_by_its_name_and_timed_with_its_feature(db: DB) -> None:
    begun = time.perf_counter()
    await db.value(query("SELECT 1", "timed.a"))
    took = time.perf_counter() - begun
    await db.value(query("SELECT pg_sleep(0.2)", "timed.b"))
    a, b = (value("query_busy_seconds_total", query=name) for name in ("timed.a", "timed.b"))
    assert [value("queries_total", query=name) for name in ("timed.a", "timed.b")] == [1, 1]
    assert 0 < a <= took and b >= 0.2
    assert (value("query_seconds_count", feature="timed"), value("query_seconds_sum", feature="timed")) == (2, a + b)
    # The machine may stand still in the short one too.
    assert value("query_seconds_bucket", feature="timed", le="0.1") == (a <= 0.1)


async def test_a_feature_and_its_queries_are_there_before_they_are_asked() -> None:
    queries.load("queue")
    assert metrics.REGISTRY.get_sample_value("ytdl_db_queries_total", {"query": "queue.claim"}) is not None
    assert metrics.REGISTRY.get_sample_value("ytdl_db_query_seconds_count", {"feature": "queue"}) is not None


async def test_waits_for_a_connection_are_timed_and_those_in_vain_as_well(database_url: str) -> None:
    small = DB(database_url, size=2)
    await small.open()
    small._pool.timeout = 30.0
    before, begun = value("pool_wait_seconds_sum"), value("pool_wait_seconds_count")
    async with small.transaction(), small.transaction():
        waiting = asyncio.create_task(small.value(query("SELECT 1")))
        async with asyncio.timeout(10):
            while not small.stats()["waiting"]:  # noqa: ASYNC110 - the pool says nothing to whoever waits
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
    await waiting
    assert value("pool_wait_seconds_sum") >= before + 0.2
    async with small.transaction(), small.transaction():
        small._pool.timeout = 0.5
        with pytest.raises(errors.Unavailable):
            await small.value(query("SELECT 1"))
    await small.close()
    assert value("pool_wait_seconds_sum") >= before + 0.7
    assert value("pool_wait_seconds_count") == begun + 6


# violations


async def test_a_violated_constraint_is_the_error_of_its_feature(notes: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIOLATIONS, "notes_pkey", lambda: errors.Conflict("There is such a note."))
    await notes.exec(INSERT, id=1, text="a")
    with pytest.raises(errors.Conflict, match="such a note"):
        await notes.exec(INSERT, id=1, text="a")


async def test_a_violation_that_nobody_expected_is_a_bug(notes: DB) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await notes.exec(INSERT, id=1, text="z")
    assert await notes.value(COUNT) == 0


# transactions


async def test_a_transaction_that_fails_leaves_nothing(notes: DB) -> None:
    with pytest.raises(ZeroDivisionError):
        async with notes.transaction() as tx:
            await tx.exec(INSERT, id=1, text="a")
            assert await tx.value(COUNT) == 1
            raise ZeroDivisionError
    assert await notes.value(COUNT) == 0


async def test_nobody_sees_a_transaction_before_its_end(notes: DB) -> None:
    async with notes.transaction() as tx:
        await tx.exec(INSERT, id=1, text="a")
        assert await notes.value(COUNT) == 0
    assert await notes.value(COUNT) == 1


async def test_a_violation_in_a_transaction_undoes_it(notes: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIOLATIONS, "notes_pkey", lambda: errors.Conflict("There is such a note."))
    with pytest.raises(errors.Conflict):
        async with notes.transaction() as tx:
            await tx.exec(INSERT, id=1, text="a")
            await tx.exec(INSERT, id=1, text="b")
    assert await notes.value(COUNT) == 0


async def test_a_deadlock_shows_as_unavailable_and_one_side_wins(notes: DB) -> None:
    for id in (1, 2):
        await notes.exec(INSERT, id=id, text="a")
    both = asyncio.Barrier(2)

    async def change(*ids: int) -> None:
        async with notes.transaction() as tx:
            await tx.exec(query("UPDATE notes SET text = 'b' WHERE id = %(id)s"), id=ids[0])
            await both.wait()
            await tx.exec(query("UPDATE notes SET text = 'b' WHERE id = %(id)s"), id=ids[1])

    outcomes = await asyncio.gather(change(1, 2), change(2, 1), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "Unavailable"]


# cancelled in the middle


async def test_tasks_that_are_cancelled_anywhere_do_not_spoil_the_pool(notes: DB) -> None:
    async def work(n: int) -> None:
        async with notes.transaction() as tx:
            await tx.exec(INSERT, id=n, text="a")
            assert await tx.value(ECHO, a=str(n)) == str(n)
            await tx.value(SLEEP, s=0.003)

    for batch in range(20):
        tasks = [asyncio.create_task(work(batch * 100 + n)) for n in range(16)]
        await asyncio.sleep(random.uniform(0, 0.03))
        for task in random.sample(tasks, 10):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    assert await asyncio.gather(*(notes.value(ECHO, a=str(n)) for n in range(50))) == [str(n) for n in range(50)]
    idle = query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %%'")
    await until(notes, idle, 0)
    assert notes.stats()["size"] <= 8


async def test_a_cancelled_query_ends_on_the_server_too(db: DB) -> None:
    active = query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '-- test.sleep%%' AND state = 'active'")
    sleeping = asyncio.create_task(db.value(SLEEP, s=60))
    await until(db, active, 1)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await until(db, active, 0)


# a server that goes away


async def test_a_start_without_a_server_fails_soon_and_says_so() -> None:
    pool = DB(NOWHERE)
    with pytest.raises(errors.Unavailable, match="DATABASE_URL"):
        await pool.open(0.5)
    with pytest.raises(errors.Unavailable, match="does not answer"):
        await module.until_up(NOWHERE, 0.3)
    with pytest.raises(errors.Unavailable):
        await module.migrate(NOWHERE)


async def test_after_the_server_ended_every_connection_the_next_calls_work_again(db: DB) -> None:
    await asyncio.gather(*(db.value(SLEEP, s=0.05) for _ in range(8)))
    await ended(db)
    begun = time.monotonic()
    while await failing(db):
        assert time.monotonic() - begun < 10
    assert await asyncio.gather(*(db.value(ECHO, a="x") for _ in range(20))) == ["x"] * 20


async def test_connections_that_died_while_idle_are_not_handed_out(db: DB) -> None:
    await asyncio.gather(*(db.value(SLEEP, s=0.05) for _ in range(8)))
    await ended(db)
    aged(db, 1.1)
    assert await asyncio.gather(*(db.value(ECHO, a="x") for _ in range(20))) == ["x"] * 20


@pytest.mark.parametrize(("idle", "failures"), [(0, 1), (1.1, 0)])
async def test_of_many_connections_that_died_together_at_most_the_first_is_handed_out(
    db: DB, idle: float, failures: int
) -> None:
    await asyncio.gather(*(db.value(SLEEP, s=0.05) for _ in range(8)))
    await ended(db)
    aged(db, idle)
    assert sum([await failing(db) for _ in range(20)]) <= failures


async def test_a_transaction_whose_connection_is_ended_is_unavailable_and_undone(notes: DB) -> None:
    with pytest.raises(errors.Unavailable):
        async with notes.transaction() as tx:
            await tx.exec(INSERT, id=1, text="a")
            await ended(notes)
            await tx.exec(INSERT, id=2, text="a")
    while await failing(notes):
        pass
    assert await notes.value(COUNT) == 0


def aged(db: DB, seconds: float) -> None:
    """As if nobody had asked for anything for that long."""
    for connection in list(db._answered):
        db._answered[connection] -= seconds


async def ended(db: DB) -> None:
    """As after a crash of the server: those that were told to go are gone when this returns."""
    async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def failing(db: DB) -> bool:
    try:
        await db.value(ECHO, a="x")
    except errors.Unavailable as e:
        assert e.retry_after
        return True
    return False


@pytest.fixture
async def gate(database_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    (folder,) = parse_qs(urlsplit(database_url).query)["host"]
    async with Gate(tmp_path / ".s.PGSQL.5432", Path(folder) / ".s.PGSQL.5432") as gate:
        yield gate


@pytest.fixture
async def behind(gate: Gate, database_url: str) -> AsyncIterator[DB]:
    """Reaches the server through the gate."""
    url = urlsplit(database_url)
    pool = DB(url._replace(query=f"host={gate.path.parent}").geturl(), size=4)
    await pool.open()
    yield pool
    await pool.close()


@pytest.mark.slow
async def test_requests_wait_a_bounded_time_for_a_server_that_is_away_and_soon_work_again(
    behind: DB, gate: Gate
) -> None:
    """It is away longer, too, than the pool tries to reconnect by itself."""
    await behind.value(ECHO, a="x")
    await gate.shut()
    for _ in range(4):
        begun = time.monotonic()
        assert all(await asyncio.gather(*(failing(behind) for _ in range(30))))
        assert time.monotonic() - begun < 9
    await gate.open()
    begun = time.monotonic()
    while await failing(behind):
        pass
    assert time.monotonic() - begun < 6


# a newer version beside this one


CREATE = query("CREATE TABLE grown AS SELECT 1 AS a")
GROW = query("ALTER TABLE grown ADD b int DEFAULT 2")


async def change(db: DB, statement: Query) -> None:
    """By a connection of its own, as another process does it."""
    async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as connection:
        await connection.execute(statement.text)


async def prepared(db: DB) -> Query:
    """A query of all columns that every connection has run so often that the server has prepared it."""
    await change(db, CREATE)
    every = query("SELECT * FROM grown")
    for _ in range(20):
        await asyncio.gather(*(db.one(every) for _ in range(4)))
    return every


async def test_a_column_that_a_newer_version_adds_disturbs_no_query(db: DB) -> None:
    every = await prepared(db)
    await change(db, GROW)
    assert [await db.one(every) for _ in range(8)] == [{"a": 1, "b": 2}] * 8


async def test_a_transaction_in_which_a_column_was_added_is_to_be_tried_again(db: DB) -> None:
    every = await prepared(db)
    async with db.transaction() as tx:
        for _ in range(8):
            await tx.one(every)
    await change(db, GROW)
    outcomes = []
    for _ in range(16):
        try:
            async with db.transaction() as tx:
                outcomes.append((await tx.one(every))["b"])
        except errors.Unavailable as e:
            outcomes.append(e.retry_after)
    assert outcomes[-1] == 2 and set(outcomes) == {1, 2}
    assert outcomes.count(1) <= db.stats()["size"], "each connection once at most"


# migrations


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    """A database without anything."""
    name = next(servers._names)
    servers._admin(f"CREATE DATABASE {name}")
    yield (url := named(servers.postgres_url, name))
    servers.drop(url)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Migrations of the test's own."""
    monkeypatch.setattr(queries, "ROOT", tmp_path)
    (tmp_path / "migrations").mkdir()
    write(tmp_path / "migrations", 1, "CREATE TABLE one (id int);")
    return tmp_path / "migrations"


def write(folder: Path, version: int, text: str) -> None:
    (folder / f"{version:04}_test.sql").write_text(text)


async def tables(url: str) -> set[str]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in await cursor.fetchall()}


async def test_migrating_twice_does_nothing_the_second_time(empty_url: str) -> None:
    assert await module.migrate(empty_url) == [f"{m.version:04}_{m.name}" for m in module.migrations()]
    assert await module.migrate(empty_url) == []


async def test_processes_that_start_at_once_migrate_once(empty_url: str, folder: Path) -> None:
    write(folder, 2, "SELECT pg_sleep(0.1); CREATE TABLE two (id int);")
    applied = await asyncio.gather(*(module.migrate(empty_url) for _ in range(4)))
    assert sorted(applied) == [[], [], [], ["0001_test", "0002_test"]]


async def test_only_what_is_missing_is_applied(empty_url: str, folder: Path) -> None:
    await module.migrate(empty_url)
    write(folder, 2, "CREATE TABLE two (id int);")
    assert await module.migrate(empty_url) == ["0002_test"]


async def test_a_migration_that_was_changed_is_refused(empty_url: str, folder: Path) -> None:
    await module.migrate(empty_url)
    write(folder, 1, "CREATE TABLE one (id bigint);")
    write(folder, 2, "CREATE TABLE two (id int);")
    with pytest.raises(SchemaMismatch, match="0001 was changed"):
        await module.migrate(empty_url)
    assert "two" not in await tables(empty_url)


async def test_a_database_of_a_newer_version_is_refused(empty_url: str, folder: Path) -> None:
    write(folder, 2, "CREATE TABLE two (id int);")
    await module.migrate(empty_url)
    (folder / "0002_test.sql").unlink()
    with pytest.raises(SchemaMismatch, match="newer version"):
        await module.migrate(empty_url)


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_all_before_it(empty_url: str, folder: Path) -> None:
    write(folder, 2, "CREATE TABLE two (id int); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await module.migrate(empty_url)
    assert await tables(empty_url) == {"schema_migrations", "one"}
    write(folder, 2, "CREATE TABLE two (id int);")
    assert await module.migrate(empty_url) == ["0002_test"]
