"""Password hashing, access tokens and the signing key, without a server."""

import asyncio
import base64
import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest

from ytdl import crypto, errors
from ytdl.crypto import AccessTokens, Hasher

KEY = b"a key of the tests, which is long enough for every algorithm there is"


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher(cost=4)
    yield hasher
    hasher.close()


@pytest.fixture
def tokens() -> AccessTokens:
    return AccessTokens(KEY, "HS256")


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a good token; None leaves one out."""
    now = int(time.time())
    good = {"iss": "ytdl", "aud": "ytdl", "iat": now, "nbf": now, "exp": now + 60}
    ids = {"sub": str(uuid4()), "sid": str(uuid4()), "jti": "1"}
    return {name: value for name, value in (good | ids | changed).items() if value is not None}


def signed(key: bytes = KEY, algorithm: str = "HS256", typ: str = "at+jwt", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={"typ": typ})


def raw(header: dict[str, Any], payload: dict[str, Any]) -> str:
    """A token without a signature."""
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload))
    return b".".join(parts).decode() + "."


async def worst_lag(work: "asyncio.Future[Any]") -> float:
    """How late the event loop was at worst while this work ran, in seconds."""
    worst = 0.0
    while not work.done():
        begun = time.perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - begun - 0.005)
    await work
    return worst


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


def test_the_cost_is_twelve_where_nothing_else_is_said() -> None:
    hasher = Hasher()
    assert hasher.nobody.startswith("$2b$12$")
    hasher.close()


async def test_a_full_waiting_room_turns_away_at_once() -> None:
    hasher = Hasher(cost=10, threads=1, waiting=2)
    hashed = await hasher.hash("a")
    waiting = [asyncio.create_task(hasher.verify("a", hashed)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(errors.Unavailable) as refused:
        await hasher.verify("a", hashed)
    assert refused.value.retry_after
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
        await asyncio.sleep(0.2)
    assert await hasher.verify("a", hashed)
    hasher.close()


async def test_hashing_leaves_the_event_loop_free() -> None:
    hasher = Hasher()
    # Another process may hold both cores for a moment; hashing on the loop would fail every round.
    for _ in range(3):
        lag = await worst_lag(asyncio.gather(*(hasher.verify("a", hasher.nobody) for _ in range(4))))
        if lag < 0.05:
            break
    assert lag < 0.05
    hasher.close()


def test_a_token_says_whose_it_is(tokens: AccessTokens) -> None:
    user, session = uuid4(), uuid4()
    token = tokens.issue(user, session, seconds=60)
    said = tokens.verify(token)
    assert (said.user_id, said.session_id) == (user, session)
    assert said == tokens.verify(token)
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_algorithm_verifies_its_own_tokens(algorithm: str) -> None:
    tokens = AccessTokens(KEY, algorithm)
    assert tokens.verify(tokens.issue(uuid4(), uuid4(), seconds=60))


def test_the_vectors_start_from_a_token_that_is_good(tokens: AccessTokens) -> None:
    assert tokens.verify(signed())


REFUSED: dict[str, Callable[[bytes], str]] = {
    "unsigned": lambda _: raw({"alg": "none", "typ": "at+jwt"}, claims()),
    "unsigned, spelled otherwise": lambda _: raw({"alg": "nOnE", "typ": "at+jwt"}, claims()),
    "signature cut off": lambda key: signed(key).rpartition(".")[0] + ".",
    "signed with another key": lambda key: signed(key[::-1]),
    "signed with an empty key": lambda _: raw({"alg": "HS256", "typ": "at+jwt"}, claims()) + "AAAA",
    # HMAC fills a key up with zeros, so this is the right key in the length that the algorithm wants.
    "another algorithm": lambda key: signed(key.ljust(64, b"\0"), "HS512"),
    "another kind": lambda key: signed(key, typ="JWT"),
    "critical extension": lambda key: jwt.encode(
        claims(), key, "HS256", headers={"typ": "at+jwt", "crit": ["b64"], "b64": False}
    ),
    "expired": lambda key: signed(key, exp=int(time.time()) - 1),
    "not valid yet": lambda key: signed(key, nbf=int(time.time()) + 60),
    "issued in the future": lambda key: signed(key, iat=int(time.time()) + 60),
    "expiry is no number": lambda key: signed(key, exp="tomorrow"),
    "expiry is infinite": lambda key: signed(key, exp=float("inf")),
    "for another service": lambda key: signed(key, aud="grafana"),
    "from another service": lambda key: signed(key, iss="grafana"),
    "user is no id": lambda key: signed(key, sub="1"),
    "session is no id": lambda key: signed(key, sid="1"),
    "session is a number": lambda key: signed(key, sid=1),
    "huge": lambda key: signed(key, extra="x" * 100_000),
    "deeply nested header": lambda _: raw({}, {}).replace(
        "e30", base64.urlsafe_b64encode(b"[" * 1400).decode().rstrip("="), 1
    ),
    "a refresh token": lambda _: crypto.new_secret(),
    "empty": lambda _: "",
    "two dots": lambda _: "..",
    "not ASCII": lambda _: "ä.ö.ü",
    "half a surrogate": lambda _: "\ud800.a.b",
}


@pytest.mark.parametrize("vector", REFUSED)
def test_a_bad_token_is_refused(tokens: AccessTokens, vector: str) -> None:
    with pytest.raises(errors.Unauthorized):
        tokens.verify(REFUSED[vector](KEY))


@pytest.mark.parametrize("name", crypto.REQUIRED_CLAIMS)
def test_no_claim_may_be_missing(tokens: AccessTokens, name: str) -> None:
    without: dict[str, Any] = {name: None}
    with pytest.raises(errors.Unauthorized):
        tokens.verify(signed(**without))


def test_a_changed_token_is_refused(tokens: AccessTokens) -> None:
    head, payload, signature = signed().split(".")
    other = signed().split(".")[1]
    for token in (f"{head}.{other}.{signature}", f"{head}.{payload}.{signature[:-2]}AA"):
        with pytest.raises(errors.Unauthorized):
            tokens.verify(token)


def test_a_token_that_was_good_once_expires(tokens: AccessTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tokens.issue(uuid4(), uuid4(), seconds=60)
    tokens.verify(token)
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(errors.Unauthorized):
        tokens.verify(token)


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
