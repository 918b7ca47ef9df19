"""The hash chain over the audit trail, against a real PostgreSQL: whatever the owner of the tables changes is found."""

import asyncio
import hashlib
import logging
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.queueing import sql
from ytdl import audit, chain, log, metrics
from ytdl.chain import Broken, Head, Linker
from ytdl.db import DB

# Every column with another value than the events of `trail` have, in text as SQL reads it.
OTHERS = {
    "id": "'019b0000-0000-7000-8000-000000000001'",
    "at": "at + interval '1 microsecond'",
    "type": "'authn_login_success'",
    "severity": "'info'",
    "result": "'failed'",
    "user_id": "NULL",
    "credential_id": "'019b0000-0000-7000-8000-000000000001'",
    "object_kind": "'session'",
    "object_id": "object_id || ' '",
    "ip": "'192.0.2.0/24'",
    "request_id": "''",
    "detail": "detail || '{\"failures\": 4}'",
}


async def as_owner(db: DB, statement: str, *args: Any) -> None:
    """What whoever owns the tables can do, triggers and keys or not."""
    tables = ("audit_events", "audit_chain")
    off = "".join(f"ALTER TABLE {table} DISABLE TRIGGER ALL;" for table in tables)
    on = "".join(f"ALTER TABLE {table} ENABLE TRIGGER ALL;" for table in tables)
    await sql(db, off)
    assert await sql(db, f"{statement} RETURNING 1", *args), "nothing was changed"
    await sql(db, on)


async def record_many(db: DB, count: int) -> None:
    log.client_ip.set("192.0.2.7")
    log.credential_id.set(str(uuid4()))
    async with db.transaction() as tx:
        for n in range(count):
            log.request_id.set(f"r-{n}")
            await audit.record(tx, "user_deleted", user_id=uuid4(), object=("user", uuid4()), failures=n, why=None)


async def link_all(db: DB) -> None:
    while await chain.extend(db):
        pass


async def whole(db: DB, heads: dict[int, bytes] | None = None) -> Head:
    return await chain.verify(db, heads or {})


@pytest.fixture
async def trail(db: DB) -> Head:
    """Ten linked events; its head."""
    await record_many(db, 10)
    await link_all(db)
    return await whole(db)


async def event_at(db: DB, seq: int) -> UUID:
    [(id,)] = await sql(db, "SELECT event_id FROM audit_chain WHERE seq = %s", seq)
    assert isinstance(id, UUID)
    return id


async def test_an_empty_trail_is_whole(db: DB) -> None:
    assert await whole(db) == chain.START


async def test_each_event_gets_one_link_in_the_order_of_their_ids(db: DB, trail: Head) -> None:
    assert trail.seq == 10
    linked = await sql(db, "SELECT event_id FROM audit_chain ORDER BY seq")
    assert linked == await sql(db, "SELECT id FROM audit_events ORDER BY id")
    assert await sql(db, "SELECT FROM audit_pending") == []


async def test_a_link_is_what_the_description_says(db: DB, trail: Head) -> None:
    """Made over again without a line of the code that makes it."""
    [row] = await sql(
        db, "SELECT id::text, extract(epoch FROM at)::text, user_id::text, credential_id::text, object_id, detail::text"
        " FROM audit_events ORDER BY id LIMIT 1",
    )  # fmt: skip
    id, at, user, credential, object, detail = row
    columns = {"id": id, "at": at, "type": "user_deleted", "severity": "warning", "result": "ok", "user_id": user,
               "credential_id": credential, "object_kind": "user", "object_id": object, "ip": "192.0.2.7/32",
               "request_id": "r-0", "detail": detail}  # fmt: skip
    text = "".join(f"{len(part)}:{part}," for item in columns.items() for part in item)
    expected = hashlib.sha256(hashlib.sha256(b"ytdl audit chain").digest() + text.encode()).digest()
    assert await sql(db, "SELECT hash FROM audit_chain WHERE seq = 1") == [(expected,)]


async def test_a_link_covers_every_column_of_the_table(db: DB) -> None:
    rows = await sql(db, "SELECT column_name FROM information_schema.columns WHERE table_name = 'audit_events'")
    assert {name for (name,) in rows} == set(chain.COLUMNS) == set(OTHERS)


@pytest.mark.parametrize("column", OTHERS)
async def test_one_changed_column_is_found(db: DB, trail: Head, column: str) -> None:
    id = await event_at(db, 4)
    await as_owner(db, f"UPDATE audit_events SET {column} = {OTHERS[column]} WHERE id = %s", id)
    said = "is missing" if column == "id" else "was changed"
    with pytest.raises(Broken, match=rf"^Link 4: the event {id}.* {said}"):
        await whole(db)


async def test_a_text_that_moves_to_the_next_column_is_found(db: DB, trail: Head) -> None:
    """Nothing at all and nothing but a blank are not the same, nor is a text cut elsewhere."""
    set = "object_kind = 'use', object_id = 'r' || object_id"
    await as_owner(db, f"UPDATE audit_events SET {set} WHERE id = %s", await event_at(db, 10))
    with pytest.raises(Broken, match=r"Link 10: .* was changed"):
        await whole(db)


async def test_a_removed_event_is_found(db: DB, trail: Head) -> None:
    id = await event_at(db, 3)
    await as_owner(db, "DELETE FROM audit_events WHERE id = %s", id)
    with pytest.raises(Broken, match=rf"^Link 3: the event {id} is missing\.$"):
        await whole(db)


@pytest.mark.parametrize("seq", [1, 5])
async def test_a_removed_link_is_found(db: DB, trail: Head, seq: int) -> None:
    await as_owner(db, "DELETE FROM audit_chain WHERE seq = %s", seq)
    with pytest.raises(Broken, match=rf"^Link {seq} is missing\.$"):
        await whole(db)


async def test_two_events_that_changed_places_are_found(db: DB, trail: Head) -> None:
    await sql(db, "ALTER TABLE audit_chain DROP CONSTRAINT audit_chain_event_once")
    two = "CASE seq WHEN 4 THEN %s ELSE %s END::uuid"
    ids = await event_at(db, 6), await event_at(db, 4)
    await as_owner(db, f"UPDATE audit_chain SET event_id = {two} WHERE seq IN (4, 6)", *ids)
    with pytest.raises(Broken, match=r"^Link 4: .* was changed"):
        await whole(db)


async def test_a_changed_hash_is_found(db: DB, trail: Head) -> None:
    await as_owner(db, "UPDATE audit_chain SET hash = sha256(hash) WHERE seq = 7")
    with pytest.raises(Broken, match=r"^Link 7: .* its link, was changed"):
        await whole(db)


@pytest.mark.parametrize("seq", [11, -1])
async def test_a_forged_link_is_found(db: DB, trail: Head, seq: int) -> None:
    await sql(db, "ALTER TABLE audit_chain DROP CONSTRAINT audit_chain_form")
    await record_many(db, 1)
    link = "SELECT %s, event_id, sha256('x') FROM audit_pending"
    await as_owner(db, f"INSERT INTO audit_chain (seq, event_id, hash) {link}", seq)
    with pytest.raises(Broken, match=rf"^Link {seq}(:| is none)"):
        await whole(db)


async def test_links_taken_off_the_end_are_found_while_their_events_are_there(db: DB, trail: Head) -> None:
    await as_owner(db, "DELETE FROM audit_chain WHERE seq > 8")
    with pytest.raises(Broken, match="has no link, and none is to come"):
        await whole(db)


async def cut(db: DB) -> None:
    await as_owner(db, "DELETE FROM audit_events WHERE id IN (SELECT event_id FROM audit_chain WHERE seq > 8)")
    await as_owner(db, "DELETE FROM audit_chain WHERE seq > 8")


async def test_an_end_cut_off_cleanly_is_found_with_a_head_from_before(db: DB, trail: Head) -> None:
    await cut(db)
    assert (await whole(db)).seq == 8
    with pytest.raises(Broken, match=r"ends with link 8; link 10 was there and is missing\.$"):
        await whole(db, {trail.seq: trail.hash})


async def test_an_end_made_anew_is_found_with_a_head_from_before(db: DB, trail: Head) -> None:
    await cut(db)
    await record_many(db, 5)
    await link_all(db)
    assert (await whole(db)).seq == 13
    with pytest.raises(Broken, match=r"^Link 10 is not the one that was there"):
        await whole(db, {trail.seq: trail.hash})


async def test_an_event_whose_link_was_never_to_come_is_found(db: DB, trail: Head) -> None:
    await record_many(db, 1)
    await sql(db, "TRUNCATE audit_pending")
    with pytest.raises(Broken, match="has no link, and none is to come"):
        await whole(db)


async def test_an_event_that_vanished_before_it_was_linked_is_found(db: DB, trail: Head) -> None:
    await record_many(db, 1)
    await as_owner(db, "DELETE FROM audit_events WHERE id IN (SELECT event_id FROM audit_pending)")
    with pytest.raises(Broken, match="was waiting for its link and is missing"):
        await whole(db)


async def test_events_that_nobody_links_are_found_after_a_minute(db: DB, trail: Head) -> None:
    await record_many(db, 1)
    assert await whole(db) == trail
    new = "id IN (SELECT event_id FROM audit_pending)"
    await as_owner(db, f"UPDATE audit_events SET at = at - interval '61 s' WHERE {new}")
    with pytest.raises(Broken, match=r"wait for their links: nobody makes them\.$"):
        await whole(db)
    assert await chain.verify(db, {}, at_rest=True) == trail


@pytest.mark.parametrize("table", ["audit_events", "audit_chain"])
@pytest.mark.parametrize("change", ["UPDATE {} SET {} = {} WHERE false", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_database_refuses_changes(db: DB, trail: Head, table: str, change: str) -> None:
    column = {"audit_events": "type", "audit_chain": "hash"}[table]
    for prelude in ("", "SET session_replication_role = replica;"):
        with pytest.raises(Exception, match=rf"table {table} is only ever added to"):
            await sql(db, prelude + change.format(table, column, column))
    assert await whole(db) == trail


async def test_eight_who_link_at_once_make_one_chain(db: DB) -> None:
    # There are more of them than connections, and whoever records many keeps one for long.
    db._pool.timeout = 60.0

    async def busy() -> None:
        for _ in range(12):
            await chain.extend(db)

    await asyncio.gather(*(record_many(db, 100) for _ in range(10)), *(busy() for _ in range(8)))
    await link_all(db)
    assert (await whole(db)).seq == 1000


async def test_a_transaction_that_commits_late_is_linked_late(db: DB) -> None:
    async with db.transaction() as tx:
        await audit.record(tx, "user_created")
        await record_many(db, 2)
        await link_all(db)
        assert (await whole(db)).seq == 2
    await link_all(db)
    assert (await whole(db)).seq == 3


async def test_a_process_that_dies_while_it_links_leaves_the_chain_whole(db: DB, trail: Head) -> None:
    """Killed by the server, at the end of its transaction: after what it wrote and before its commit."""
    await record_many(db, 3)
    kill = "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$"
    await sql(db, kill.format("PERFORM pg_terminate_backend(pg_backend_pid());"))
    late = "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON audit_chain DEFERRABLE INITIALLY DEFERRED"
    await sql(db, f"{late} FOR EACH ROW EXECUTE FUNCTION die()")
    with pytest.raises(Exception, match="database cannot be reached"):
        await chain.extend(db)
    assert await whole(db) == trail
    await sql(db, "DROP TRIGGER late ON audit_chain")
    await link_all(db)
    assert (await whole(db)).seq == 13


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[Any]:
    return [vars(record) for record in caplog.records if record.message == event]


async def test_the_log_tells_the_head_now_and_then(
    db: DB, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "TELL_SECONDS", 600.0)
    monkeypatch.setattr(chain, "LAST_SECONDS", 30.0)
    caplog.set_level(logging.INFO)
    await record_many(db, 3)
    linker = Linker(db)
    for _ in range(4):
        await record_many(db, 1)
        await linker.round()
    first = said(caplog, "audit.sealed")
    await linker.stop()
    assert [line["head"].partition(":")[0] for line in said(caplog, "audit.sealed")] == ["4", "7"]
    assert len(first) == 1 and said(caplog, "audit.sealed")[-1]["head"] == str(await whole(db))


async def test_the_figures_say_how_long_the_chain_is_and_what_waits(db: DB, trail: Head) -> None:
    linker = Linker(db)
    await record_many(db, 250)
    await linker.round()
    assert metrics.audit_pending._value.get() == 250
    await linker.round()
    assert (metrics.audit_pending._value.get(), metrics.audit_chain._value.get()) == (0, 260)


async def test_a_running_service_notices_that_the_end_was_cut_off(
    db: DB, trail: Head, caplog: pytest.LogCaptureFixture
) -> None:
    linker = Linker(db)
    await linker.round()
    await cut(db)
    await record_many(db, 5)
    await link_all(db)
    for _ in range(2):
        await linker.round()
    assert [line["known"] for line in said(caplog, "audit.broken")] == [str(trail)]


async def test_an_event_that_vanished_in_the_second_before_its_link_is_named_in_the_log(
    db: DB, trail: Head, caplog: pytest.LogCaptureFixture
) -> None:
    await record_many(db, 2)
    await as_owner(db, "DELETE FROM audit_events WHERE id = (SELECT max(event_id::text) FROM audit_pending)::uuid")
    await link_all(db)
    assert len(said(caplog, "audit.lost")) == 1
    assert (await whole(db)).seq == 11


async def test_a_head_is_read_as_it_is_told(trail: Head) -> None:
    assert chain.read_head(str(trail)) == trail
    for text in ("", "1", "1:", "1:zz", "x:" + "00" * 32, "-1:" + "00" * 32, "1:" + "00" * 31):
        with pytest.raises(ValueError):
            chain.read_head(text)


async def test_the_form_of_a_row_hangs_on_no_setting_of_a_session(db: DB, trail: Head) -> None:
    settings = {
        "timezone": "Asia/Kathmandu",
        "datestyle": "German",
        "bytea_output": "escape",
        "intervalstyle": "iso_8601",
    }
    ids = [id for (id,) in await sql(db, "SELECT event_id FROM audit_chain")]
    async with await psycopg.AsyncConnection.connect(db.url) as connection:
        for name, value in settings.items():
            await connection.execute(f"SET {name} = '{value}'".encode())
        cursor = await connection.execute(chain.q.as_linked.text, {"ids": ids})
        there = {row[0]: row for row in await cursor.fetchall()}
    here = await db.many(chain.q.as_linked, ids=ids)
    assert len(here) == 10 and {row["event_id"]: tuple(row.values()) for row in here} == there


def test_a_length_counts_bytes_and_what_is_null_is_left_out() -> None:
    event = dict.fromkeys(chain.COLUMNS) | {"id": "a", "detail": '{"ü": 1}'}
    expected = hashlib.sha256(b"\0" * 32 + b"2:id,1:a,6:detail,9:" + '{"ü": 1}'.encode() + b",").digest()
    assert chain.link(b"\0" * 32, event) == expected
