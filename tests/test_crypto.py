"""Password hashing and the signing key, without a server."""

import asyncio
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ytdl import crypto, errors
from ytdl.crypto import Hasher


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher(cost=4)
    yield hasher
    hasher.close()


async def turns_during(work: "asyncio.Future[Any]") -> int:
    """How often the event loop came to do something else while this work ran."""
    turns = 0
    while not work.done():
        await asyncio.sleep(0.005)
        turns += 1
    await work
    return turns


async def test_a_password_is_right_and_another_is_wrong(hasher: Hasher) -> None:
    hashed = await hasher.hash("Tr0ub4dor&3")
    assert await hasher.verify("Tr0ub4dor&3", hashed)
    assert not await hasher.verify("Tr0ub4dor&4", hashed)
    assert not await hasher.verify("Tr0ub4dor&3", hasher.nobody)


async def test_long_passwords_differ_beyond_what_bcrypt_reads(hasher: Hasher) -> None:
    hashed = await hasher.hash("x" * 80 + "a")
    assert await hasher.verify("x" * 80 + "a", hashed)
    assert not await hasher.verify("x" * 80 + "b", hashed)


async def test_multibyte_passwords_differ_beyond_what_bcrypt_reads(hasher: Hasher) -> None:
    hashed = await hasher.hash("ü" * 40 + "a")
    assert not await hasher.verify("ü" * 40 + "b", hashed)


async def test_a_password_is_the_same_however_it_was_composed(hasher: Hasher) -> None:
    assert await hasher.verify("Cafe\u0301-123", await hasher.hash("Caf\u00e9-123"))
    assert crypto.same_password("Cafe\u0301-123", "Caf\u00e9-123")
    assert not crypto.same_password("Cafe\u0301-123", "Cafe-123")


def test_the_cost_is_twelve_where_nothing_else_is_said() -> None:
    hasher = Hasher()
    assert hasher.nobody.startswith("$2b$12$")
    hasher.close()


async def test_a_full_waiting_room_turns_away_at_once() -> None:
    hasher, over = Hasher(cost=4, threads=1, waiting=2), threading.Event()
    hashed = await hasher.hash("a")
    # Nobody's turn comes before this test says so.
    hasher._threads.submit(over.wait, 30)
    waiting = [asyncio.create_task(hasher.verify("a", hashed)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(errors.Unavailable) as refused:
        await hasher.verify("a", hashed)
    assert refused.value.retry_after
    over.set()
    assert await asyncio.gather(*waiting) == [True] * 3
    assert await hasher.verify("a", hashed)
    hasher.close()


async def test_who_stops_waiting_leaves_the_waiting_room() -> None:
    hasher = Hasher(cost=10, threads=1, waiting=1)
    hashed = await hasher.hash("a")
    for _ in range(5):
        task = asyncio.create_task(hasher.verify("a", hashed))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The only thread takes this after what was given up, whose place is free by then.
        assert await hasher.verify("a", hashed)
    hasher.close()


async def test_hashing_leaves_the_event_loop_free() -> None:
    hasher = Hasher()
    # Hashing on the loop would let it come round no more than once for each.
    assert await turns_during(asyncio.gather(*(hasher.verify("a", hasher.nobody) for _ in range(4)))) > 16
    hasher.close()


def test_the_key_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "jwt.key"
    key = crypto.signing_key(path)
    assert crypto.signing_key(path) == key
    assert len(key) == 128
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


async def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    path = tmp_path / "jwt.key"
    keys = await asyncio.gather(*(asyncio.to_thread(crypto.signing_key, path) for _ in range(8)))
    assert len(set(keys)) == 1


def test_a_broken_key_file_is_not_signed_with(tmp_path: Path) -> None:
    path = tmp_path / "jwt.key"
    path.write_text("short\n")
    with pytest.raises(ValueError, match="less than a signing key"):
        crypto.signing_key(path)


def test_a_secret_is_stored_as_its_digest_only() -> None:
    secret = crypto.new_secret()
    assert len(secret) >= 43
    assert len(crypto.digest(secret)) == 32
    assert crypto.digest("\ud800") != crypto.digest("")
