"""Kept secrets against a real PostgreSQL: each in its place, and all of them moved to a newer key."""

from uuid import UUID, uuid4

import pytest

from ytdl import sealed
from ytdl.db import DB
from ytdl.sealed import Walk
from ytdl.sql import Query
from ytdl.vault import Unopened, Vault

OLD, NEW = Vault([b"o" * 32]), Vault([b"n" * 32, b"o" * 32])
ADD_USER = Query("test.user", "exec", "", b"INSERT INTO users (id, username, email, full_name, password_hash)"
    b" VALUES (%(id)s, %(id)s, %(id)s, '', '')")  # fmt: skip
COPY = Query("test.copy", "exec", "", b"UPDATE sealed_values SET sealed = s.sealed FROM sealed_values s"
    b" WHERE sealed_values.owner = %(target)s AND s.owner = %(source)s")  # fmt: skip
DROP_USER = Query("test.drop", "exec", "", b"DELETE FROM users WHERE id = %(id)s")
EVENTS = Query("test.events", "many", "", b"SELECT object_id, detail FROM audit_events WHERE type = 'secret_rotated'")


@pytest.fixture
async def alice(db: DB) -> UUID:
    return await user(db)


@pytest.fixture
async def bob(db: DB) -> UUID:
    return await user(db)


async def user(db: DB) -> UUID:
    id = uuid4()
    await db.exec(ADD_USER, id=id)
    return id


async def fill(db: DB, vault: Vault, owner: UUID | None, count: int) -> None:
    for n in range(count):
        await sealed.put(db, vault, "webhook", owner, f"secret {n}".encode(), name=f"hook {n}")


async def rotated(db: DB, vault: Vault) -> Walk:
    walk = Walk()
    async for now in sealed.rotate(db, vault):
        walk = now
    return walk


async def test_a_secret_is_read_back_from_its_place_only(db: DB, alice: UUID, bob: UUID) -> None:
    await sealed.put(db, OLD, "cookies", alice, b"of alice")
    await sealed.put(db, OLD, "cookies", None, b"of the service")
    assert await sealed.read(db, OLD, "cookies", alice) == b"of alice"
    assert await sealed.read(db, OLD, "cookies", None) == b"of the service"
    assert await sealed.read(db, OLD, "cookies", bob) is None
    assert await sealed.read(db, OLD, "webhook", alice) is None
    assert await sealed.read(db, OLD, "cookies", alice, name="other") is None


@pytest.mark.parametrize("own", [True, False])
async def test_a_place_holds_one_secret(db: DB, alice: UUID, own: bool) -> None:
    owner = alice if own else None
    first = await sealed.put(db, OLD, "cookies", owner, b"one")
    assert await sealed.put(db, NEW, "cookies", owner, b"two") == first
    assert await sealed.read(db, NEW, "cookies", owner) == b"two"
    assert await sealed.by_key(db) == {NEW.newest: 1}


async def test_a_removed_secret_is_gone(db: DB, alice: UUID) -> None:
    await sealed.put(db, OLD, "cookies", alice, b"one")
    await sealed.put(db, OLD, "cookies", None, b"not this one")
    assert await sealed.remove(db, "cookies", alice)
    assert not await sealed.remove(db, "cookies", alice)
    assert await sealed.read(db, OLD, "cookies", None)


async def test_secrets_go_with_their_owners_account(db: DB, alice: UUID) -> None:
    await fill(db, OLD, alice, 2)
    await db.exec(DROP_USER, id=alice)
    assert await sealed.by_key(db) == {}


async def test_a_row_that_was_copied_to_another_user_does_not_open(db: DB, alice: UUID, bob: UUID) -> None:
    await sealed.put(db, OLD, "cookies", alice, b"of alice")
    await sealed.put(db, OLD, "cookies", bob, b"of bob")
    await db.exec(COPY, source=alice, target=bob)
    with pytest.raises(Unopened):
        await sealed.read(db, OLD, "cookies", bob)


async def test_too_large_a_secret_is_a_mistake(db: DB) -> None:
    await sealed.put(db, OLD, "cookies", None, bytes(sealed.LARGEST))
    with pytest.raises(ValueError, match="larger than"):
        await sealed.put(db, OLD, "cookies", None, bytes(sealed.LARGEST + 1))


async def test_rotation_moves_everything_to_the_newest_key(db: DB, alice: UUID) -> None:
    await fill(db, OLD, alice, sealed.BATCH + 5)
    await fill(db, NEW, None, 3)
    walk = await rotated(db, NEW)
    assert (walk.seen, walk.resealed, walk.unopened) == (sealed.BATCH + 8, sealed.BATCH + 5, {})
    alone = Vault([b"n" * 32])
    assert await sealed.by_key(db) == {alone.newest: sealed.BATCH + 8}
    assert await sealed.read(db, alone, "webhook", alice, name="hook 104") == b"secret 104"


async def test_rotation_is_recorded_with_what_it_changed(db: DB) -> None:
    await fill(db, OLD, None, 3)
    await rotated(db, NEW)
    await rotated(db, NEW)
    assert await db.many(EVENTS) == [{"object_id": NEW.newest, "detail": {"values": 3}}]


async def test_a_rotation_that_was_broken_off_is_gone_on_with(db: DB) -> None:
    await fill(db, OLD, None, sealed.BATCH + 5)
    async for walk in sealed.rotate(db, NEW):
        assert walk.resealed == sealed.BATCH
        break
    assert await sealed.by_key(db) == {NEW.newest: sealed.BATCH, OLD.newest: 5}
    assert (await rotated(db, NEW)).resealed == 5


async def test_what_is_written_meanwhile_is_not_overwritten(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(db, OLD, None, 2)
    replace = sealed._replace

    async def after_a_write(db: DB, vault: Vault, opened: list[tuple[dict[str, object], bytes]]) -> int:
        await sealed.put(db, NEW, "webhook", None, b"newer", name="hook 1")
        return await replace(db, vault, opened)

    monkeypatch.setattr(sealed, "_replace", after_a_write)
    walk = await rotated(db, NEW)
    assert (walk.resealed, walk.overtaken) == (1, 1)
    assert await sealed.read(db, NEW, "webhook", None, name="hook 1") == b"newer"
    assert await sealed.read(db, NEW, "webhook", None, name="hook 0") == b"secret 0"


async def test_what_does_not_open_is_counted_by_key_and_left_alone(db: DB) -> None:
    lost = Vault([b"l" * 32])
    await fill(db, lost, None, 2)
    assert (await rotated(db, NEW)).unopened == {lost.newest: 2}
    assert (await sealed.check(db, NEW)).unopened == {lost.newest: 2}
    assert (await sealed.check(db, lost)).unopened == {}
    assert await sealed.by_key(db) == {lost.newest: 2}


async def test_a_check_opens_everything(db: DB, alice: UUID, bob: UUID) -> None:
    await sealed.put(db, NEW, "cookies", alice, b"of alice")
    await sealed.put(db, NEW, "cookies", bob, b"of bob")
    assert (await sealed.check(db, NEW)).seen == 2
    await db.exec(COPY, source=alice, target=bob)
    assert (await sealed.check(db, NEW)).unopened == {NEW.newest: 1}


async def test_a_start_tells_of_keys_that_are_not_there(db: DB, caplog: pytest.LogCaptureFixture) -> None:
    await fill(db, OLD, None, 2)
    await sealed.warn_of_lost_keys(db, NEW)
    assert not caplog.records
    await sealed.warn_of_lost_keys(db, Vault([b"n" * 32]))
    (line,) = caplog.records
    assert (line.message, vars(line)["key_id"], vars(line)["values"]) == ("sealed.key_missing", OLD.newest, 2)
