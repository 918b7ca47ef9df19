"""Kept secrets against a real PostgreSQL: each in its place, and all of them moved to a newer key."""

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.conftest import SECRET, Service
from tests.test_cli import settings, ytdl
from ytdl import log, sealed, vault
from ytdl.api.keys import VAULT
from ytdl.db import DB
from ytdl.sealed import Walk
from ytdl.sql import Query
from ytdl.vault import Unopened, Vault

KEY, FORMER = "7d0c" + "5e19ab" * 9 + "f20418", "30b1" + "c48e67" * 9 + "91d5af"
OLD, NEW = Vault([b"o" * 32]), Vault([b"n" * 32, b"o" * 32])
ADD_USER = Query("test.user", "exec", "", b"INSERT INTO users (id, username, email, full_name, password_hash)"
    b" VALUES (%(id)s, %(id)s, %(id)s, '', '')")  # fmt: skip
COPY = Query("test.copy", "exec", "", b"UPDATE sealed_values SET sealed = s.sealed FROM sealed_values s"
    b" WHERE sealed_values.owner = %(target)s AND s.owner = %(source)s")  # fmt: skip
FILL = Query("test.fill", "exec", "", b"INSERT INTO sealed_values (id, kind, owner, name, sealed, key_id)"
    b" SELECT gen_random_uuid(), 'webhook', %(owner)s::uuid, v.name, v.value, %(key_id)s"
    b" FROM unnest(%(names)s::text[], %(values)s::bytea[]) AS v (name, value)")  # fmt: skip
HOLD_LAST = Query("test.hold", "exec", "", b"SELECT id FROM sealed_values ORDER BY id DESC LIMIT 1 FOR UPDATE")
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
    names = [f"hook {n}" for n in range(count)]
    values = [vault.seal(f"secret of {name}".encode(), sealed.about("webhook", owner, name)) for name in names]
    await db.exec(FILL, owner=owner, key_id=vault.newest, names=names, values=values)


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
    assert await sealed.read(db, alone, "webhook", alice, name="hook 104") == b"secret of hook 104"


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
    assert await sealed.read(db, NEW, "webhook", None, name="hook 0") == b"secret of hook 0"


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


async def test_the_service_has_the_vault_of_its_settings(service: Service) -> None:
    assert service.app[VAULT].newest == vault.of(service.config).newest
    assert service.app[VAULT].newest == Vault([vault.from_signing_key(SECRET)]).newest


@pytest.fixture
def env(tmp_path: Path, database_url: str) -> dict[str, str]:
    """Of an operator who has a new key now, and still has the former one."""
    keys = {"ENCRYPTION_KEY": KEY, "ENCRYPTION_KEY_PREVIOUS": FORMER, "JWT_SECRET_KEY": SECRET}
    return settings(tmp_path, DATABASE_URL=database_url, **keys)


async def test_the_command_counts_by_key_and_rotates(db: DB, env: dict[str, str]) -> None:
    newest, former = (Vault([vault.key_of(text)]) for text in (KEY, FORMER))
    await fill(db, former, None, 3)
    checked = await asyncio.to_thread(ytdl, "secrets", "rotate", "--check", env=env)
    assert (checked.returncode, checked.stdout) == (0, f"3 under the former key {former.newest}.\n")
    done = await asyncio.to_thread(ytdl, "secrets", "rotate", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Encrypted 3 anew.\n3 under the newest key {newest.newest}.\n"
    assert await sealed.read(db, newest, "webhook", None, name="hook 2") == b"secret of hook 2"


@pytest.mark.parametrize("more", [(), ("--check",)])
async def test_the_command_fails_for_what_does_not_open(db: DB, env: dict[str, str], more: tuple[str, ...]) -> None:
    await fill(db, OLD, None, 2)
    done = await asyncio.to_thread(ytdl, "secrets", "rotate", *more, env=env)
    assert done.returncode == 1
    assert done.stderr == f"ytdl: 2 cannot be opened, key {OLD.newest}.\n"
    assert f"2 under the missing key {OLD.newest}.\n" in done.stdout


async def test_a_rotation_that_is_killed_leaves_every_value_readable(db: DB, env: dict[str, str]) -> None:
    newest, former = (Vault([vault.key_of(text)]) for text in (KEY, FORMER))
    await fill(db, former, None, 2 * sealed.BATCH + 5)
    async with db.transaction() as tx:
        # It comes as far as the last of three batches.
        await tx.exec(HOLD_LAST)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ytdl", "secrets", "rotate", env=env, stdout=subprocess.DEVNULL
        )
        while (await sealed.by_key(db)).get(newest.newest) != 2 * sealed.BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
    assert await sealed.by_key(db) == {newest.newest: 2 * sealed.BATCH, former.newest: 5}
    assert (await sealed.check(db, Vault([vault.key_of(KEY), vault.key_of(FORMER)]))).unopened == {}
    assert (await asyncio.to_thread(ytdl, "secrets", "rotate", env=env)).returncode == 0
    assert await sealed.by_key(db) == {newest.newest: 2 * sealed.BATCH + 5}


async def test_a_secret_is_in_no_line_of_the_log_and_no_event(
    db: DB, alice: UUID, bob: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await sealed.put(db, OLD, "cookies", alice, b"hush-hush")
    await sealed.put(db, OLD, "cookies", bob, b"hush-hush")
    await db.exec(COPY, source=alice, target=bob)
    await rotated(db, NEW)
    lines = [log.Lines().format(record) for record in caplog.records]
    assert any("secret_rotated" in line for line in lines)
    assert "hush" not in str(lines) + str(await db.many(EVENTS))
