"""The audit trail after a backup was put back, by PostgreSQL's own programs: it is whole, and it grows on."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.queueing import sql
from tests.schema import PROGRAMS
from tests.servers import Servers
from tests.test_audit_chain import link_all, record_many, said
from tests.test_audit_command import verify
from ytdl import chain
from ytdl.chain import Head, Linker
from ytdl.db import DB

PLAIN, CUSTOM = "plain", "custom"


def run(program: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAMS / program, *options], capture_output=True, text=True, check=False, timeout=60)


def dump(url: str, to: Path, form: str, *options: str) -> Path:
    done = run("pg_dump", "--no-owner", f"--format={form}", f"--file={to}", "--dbname", url, *options)
    assert done.returncode == 0, done.stderr
    return to


def restore(url: str, dumped: Path, form: str, *options: str) -> str:
    """What went wrong; both programs go on after that, as they do by default."""
    if form == PLAIN:
        return run("psql", "--no-psqlrc", "--quiet", "--dbname", url, "--file", dumped).stderr
    return run("pg_restore", "--no-owner", "--dbname", url, *options, dumped).stderr


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[DB]:
    db = DB(url, size=2)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
def empty(servers: Servers) -> Iterator[str]:
    url = servers.empty()
    yield url
    servers.drop(url)


@pytest.fixture
def migrated(servers: Servers) -> Iterator[str]:
    url = servers.clone()
    yield url
    servers.drop(url)


@pytest.fixture
async def trail(db: DB) -> Head:
    """Ten linked events, and three that wait for their link while the backup is made; the head."""
    await record_many(db, 10)
    await link_all(db)
    await record_many(db, 3)
    return await chain.verify(db, {})


async def grows_on(url: str, trail: Head) -> None:
    """Links what waited and what is new, and is the same trail as before."""
    assert verify(url, "--at-rest", "--head", str(trail)).stdout.startswith("10 events in the database ")
    async with opened(url) as db:
        await record_many(db, 2)
        linker = Linker(db)
        await linker.round()
        await linker.stop()
        assert await sql(db, "SELECT FROM audit_pending") == []
    assert verify(url, "--head", str(trail)).stdout.startswith("15 events in the database ")


@pytest.mark.parametrize("form", [PLAIN, CUSTOM])
async def test_a_whole_backup_put_back_is_the_same_trail(
    db: DB, trail: Head, empty: str, tmp_path: Path, form: str
) -> None:
    assert restore(empty, dump(db.url, tmp_path / "dump", form), form) == ""
    await grows_on(empty, trail)
    async with opened(empty) as back:
        with pytest.raises(Exception, match="only ever added to"):
            await sql(back, "SET session_replication_role = replica; DELETE FROM audit_events")


@pytest.mark.parametrize("form", [PLAIN, CUSTOM])
async def test_data_put_back_into_a_migrated_database_is_the_same_trail(
    db: DB, trail: Head, migrated: str, tmp_path: Path, form: str
) -> None:
    """What is there by itself then is left out of the backup, or would be there twice."""
    without = ("--exclude-table=schema_migrations", "--exclude-table=audit_pending")
    dumped = dump(db.url, tmp_path / "dump", form, "--data-only", *without)
    assert restore(migrated, dumped, form) == ""
    await grows_on(migrated, trail)


async def test_what_is_twice_in_a_backup_of_data_does_no_harm(
    db: DB, trail: Head, migrated: str, tmp_path: Path
) -> None:
    said = restore(migrated, dump(db.url, tmp_path / "dump", CUSTOM, "--data-only"), CUSTOM)
    assert "errors ignored on restore: 2" in said
    await grows_on(migrated, trail)


async def test_an_event_that_waits_and_has_its_link_holds_up_no_others(
    db: DB, trail: Head, caplog: pytest.LogCaptureFixture
) -> None:
    await sql(db, "INSERT INTO audit_pending SELECT event_id FROM audit_chain")
    await link_all(db)
    assert (await chain.verify(db, {10: trail.hash})).seq == 13
    assert [line["events"] for line in said(caplog, "audit.linked_before")] == [10]
