"""The role for dashboards: it reads the views, knows nothing that they do not have, and changes nothing."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors as refusals

from tests.conftest import SECRET
from tests.reading import Reading, dropped, reading
from tests.test_cli import settings, ytdl
from ytdl import errors, readers

PASSWORD = "twelve letters and more"
VIEWS = ["accounts", "attempts", "downloads", "users", "videos", "waiting"]
# Whom it is about, what was watched, and what a file tells of what it is.
WHO, WHAT = {"username"}, {"title", "video_id", "uploader"}
LIKE = {"extractor", "height", "duration_seconds", "file_bytes", "downloaded_bytes", "started_at", "finished_at"}
# No view has a column of such a name.
NEVER = {
    *("email", "full_name", "password_hash", "ip", "user_agent", "request_headers", "url", "canonical_url", "hash"),
    *("session_id", "user_id", "file_path", "file_name", "sealed", "detail", "thumbnail_url", "options"),
}
LIST = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v', 'p', 'm', 'S') AND n.nspname = 'public' ORDER BY 1"""
COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'analytics'"
WRITES = [
    "CREATE TABLE mine (n int)",
    "CREATE TABLE public.mine (n int)",
    "CREATE SCHEMA mine",
    "INSERT INTO accounts (username) VALUES ('mallory')",
    "UPDATE accounts SET role = 'admin'",
    "DELETE FROM accounts",
    "DROP VIEW accounts",
    "CREATE OR REPLACE VIEW accounts AS SELECT 1 AS one",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "SET ROLE postgres",
    "COPY accounts TO PROGRAM 'true'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> CURRENT_USER",
]  # fmt: skip


@pytest.fixture
def name(database_url: str) -> Iterator[str]:
    with dropped(database_url) as name:
        yield name


@pytest.fixture
async def reader(database_url: str, name: str) -> AsyncIterator[Reading]:
    assert await readers.make(database_url, name, PASSWORD) is True
    with reading(database_url, name) as connection:
        yield connection


@pytest.fixture
def owner(database_url: str) -> Iterator[Reading]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def views(connection: Reading) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for view, column in connection.execute(COLUMNS).fetchall():
        found.setdefault(view, set()).add(column)
    return found


def test_every_view_can_be_read(reader: Reading) -> None:
    assert sorted(views(reader)) == VIEWS
    for view in VIEWS:
        assert reader.execute(f"SELECT * FROM {view}".encode()).fetchall() == []


def test_nothing_else_can_be_read(reader: Reading, owner: Reading) -> None:
    tables = [table for (table,) in owner.execute(LIST).fetchall()]
    assert {"public.users", "public.sessions", "public.sealed_values", "public.downloads"} <= set(tables)
    for table in tables:
        with pytest.raises(refusals.InsufficientPrivilege):
            reader.execute(f"SELECT * FROM {table}".encode())


def test_nothing_can_be_changed_even_by_who_sets_the_settings_aside(reader: Reading, owner: Reading) -> None:
    assert not owner.closed  # somebody whom the role might end
    reader.execute("SET default_transaction_read_only = off")
    for statement in WRITES:
        with pytest.raises(refusals.InsufficientPrivilege):
            reader.execute(statement.encode())


def test_a_write_is_refused_before_it_is_looked_at_who_may(reader: Reading) -> None:
    with pytest.raises(refusals.ReadOnlySqlTransaction):
        reader.execute("CREATE TEMPORARY TABLE mine (n int)")


def test_a_page_that_asks_too_much_is_ended(reader: Reading) -> None:
    assert reader.execute("SHOW statement_timeout").fetchone() == ("15s",)
    assert reader.execute("SHOW lock_timeout").fetchone() == ("1s",)


def test_views_have_neither_addresses_nor_secrets_nor_who_watched_what(reader: Reading) -> None:
    for view, columns in views(reader).items():
        assert not columns & NEVER, view
        assert not (columns & WHO and columns & (WHAT | LIKE)), view
        assert not (columns & WHAT and columns & (LIKE - {"extractor"} | {"created_at", "day"})), view


async def test_a_second_run_gives_another_password_which_the_server_never_hears(
    reader: Reading, owner: Reading, database_url: str, name: str
) -> None:
    asked = ("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (name,))
    before = owner.execute(*asked).fetchone()
    assert await readers.make(database_url, name, "another one of many letters") is False
    [after] = owner.execute(*asked).fetchone() or [""]
    assert (after,) != before and after.startswith("SCRAM-SHA-256$")


def test_a_view_of_a_later_version_can_be_read_at_once(reader: Reading, owner: Reading) -> None:
    owner.execute("CREATE VIEW analytics.later AS SELECT 1 AS one")
    assert reader.execute("SELECT one FROM later").fetchone() == (1,)


async def test_a_role_of_somebody_else_is_left_alone(database_url: str, owner: Reading, name: str) -> None:
    owner.execute(f"CREATE ROLE {name} LOGIN".encode())
    with pytest.raises(errors.Conflict, match="was not made by this command"):
        await readers.make(database_url, name, PASSWORD)
    with pytest.raises(errors.Conflict, match="was not made by this command"):
        await readers.make(database_url, owner.info.user, PASSWORD)


@pytest.mark.parametrize("power", ["ALTER ROLE {name} CREATEDB", "GRANT pg_read_all_data TO {name}"])
async def test_a_role_that_was_given_powers_is_refused(
    reader: Reading, owner: Reading, database_url: str, name: str, power: str
) -> None:
    owner.execute(power.format(name=name).encode())
    with pytest.raises(errors.Conflict, match="drop it first"):
        await readers.make(database_url, name, PASSWORD)


@pytest.mark.parametrize(
    ("grant", "could"),
    [("GRANT SELECT ON users TO PUBLIC", "use users"), ("GRANT UPDATE (role) ON users TO PUBLIC", "use users"),
     ("GRANT CREATE ON SCHEMA public TO PUBLIC", "make tables in public"),
     ("GRANT USAGE ON SEQUENCE jobs_id_seq TO PUBLIC", "use jobs_id_seq")],
)  # fmt: skip
async def test_no_role_is_made_where_everybody_may_do_more(
    database_url: str, owner: Reading, name: str, grant: str, could: str
) -> None:
    owner.execute(grant.encode())
    with pytest.raises(errors.Conflict, match=f"could also {could}"):
        await readers.make(database_url, name, PASSWORD)
    assert owner.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None


async def test_who_may_not_make_roles_is_told_so(database_url: str, owner: Reading, name: str) -> None:
    with dropped(database_url) as weak:
        owner.execute(f"CREATE ROLE {weak} LOGIN".encode())
        with pytest.raises(errors.Forbidden, match="DATABASE_URL may not"):
            await readers.make(psycopg.conninfo.make_conninfo(database_url, user=weak), name, PASSWORD)


@pytest.fixture
def given(tmp_path: Path, database_url: str, redis_url: str) -> dict[str, str]:
    return settings(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url, JWT_SECRET_KEY=SECRET)


def test_an_operator_makes_the_role_and_changes_its_password(given: dict[str, str], name: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    done = ytdl("grafana-role", "--name", name, "--password-file", str(file), env=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"The role {name} was made, in the database ")
    done = ytdl("grafana-role", "--name", name, env=given, input=f"{PASSWORD} again\n")
    assert done.stdout.startswith(f"The role {name} has this password now, in the database ")
    with reading(given["DATABASE_URL"], name) as connection:
        assert sorted(views(connection)) == VIEWS


@pytest.mark.parametrize(
    ("role", "password", "words"),
    [("Grafana", PASSWORD, "small letters"), ("grafana", "short", "at least 12 characters")],
)
def test_a_role_without_a_usable_name_or_password_is_refused(
    given: dict[str, str], role: str, password: str, words: str
) -> None:
    done = ytdl("grafana-role", "--name", role, env=given, input=f"{password}\n")
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""
