"""`ytdl audit verify` as an operator runs it, over what a real service wrote and told its log."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests import instance
from tests.conftest import SECRET
from tests.queueing import sql
from tests.test_audit_chain import as_owner, cut, link_all, record_many
from tests.test_cli import settings, ytdl
from ytdl.db import DB


def verify(url: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    env = settings(Path("unused"), DATABASE_URL=url, JWT_SECRET_KEY=SECRET)
    return ytdl("audit", "verify", *map(str, options), env=env)


async def test_what_a_service_wrote_is_whole_and_as_long_as_its_log_says(
    db: DB, redis_url: str, tmp_path: Path
) -> None:
    more = {"DATABASE_URL": db.url, "REDIS_URL": redis_url, "JWT_SECRET_KEY": SECRET, "DOWNLOAD_CONCURRENCY": "0"}
    async with instance.serving(tmp_path, REDIS_PREFIX=tmp_path.name, **more) as service:
        pass
    types = [type for (type,) in await sql(db, "SELECT type FROM audit_events ORDER BY at")]
    assert (types[-2:], len(types) >= 2) == (["sys_startup", "sys_shutdown"], True)
    done = verify(db.url, "--log", service.log)
    whole = re.fullmatch(rf"(\d+) events in the database \S+ on \S+, chain whole, head {len(types)}:.*\n", done.stdout)
    assert done.returncode == 0 and whole and int(whole[1]) == len(types)
    assert done.stdout.split()[-1] in service.log.read_text()

    await sql(db, "ALTER TABLE audit_chain DISABLE TRIGGER ALL; ALTER TABLE audit_events DISABLE TRIGGER ALL")
    await sql(db, "TRUNCATE audit_chain, audit_events")
    assert verify(db.url).returncode == 0
    done = verify(db.url, "--log", service.log)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ytdl: The chain ends with link 0; link ")


async def test_what_is_broken_is_one_sentence(db: DB) -> None:
    await record_many(db, 5)
    await link_all(db)
    await as_owner(db, "DELETE FROM audit_chain WHERE seq = 3")
    done = verify(db.url)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ytdl: Link 3 is missing.\n")


async def test_a_head_from_before_shows_that_the_end_was_cut_off(db: DB) -> None:
    await record_many(db, 10)
    await link_all(db)
    head = verify(db.url).stdout.split()[-1]
    await cut(db)
    assert verify(db.url).returncode == 0
    assert (
        verify(db.url, "--head", head).stderr == "ytdl: The chain ends with link 8; link 10 was there and is missing.\n"
    )


async def test_a_backup_may_end_with_events_without_links(db: DB) -> None:
    await record_many(db, 1)
    await as_owner(db, "UPDATE audit_events SET at = at - interval '1 hour'")
    assert "nobody makes them" in verify(db.url).stderr
    assert verify(db.url, "--at-rest").stdout.startswith("0 events in the database ")


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--head", "12"), 2), (("--head", "1:" + "0" * 64, "--head", "1:" + "1" * 64), 1), (("--log", "not-there"), 1)],
    ids=["no head", "two that differ", "no log"],
)
def test_what_cannot_be_held_against_is_refused(database_url: str, options: tuple[str, ...], code: int) -> None:
    done = verify(database_url, *options)
    assert (done.returncode, done.stdout) == (code, "")


def test_a_database_without_a_chain_is_not_called_whole(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP TABLE audit_chain CASCADE")
    done = verify(database_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ytdl: The database has no audit chain; `ytdl migrate` makes the tables.\n"
