"""Password hashes, access tokens, opaque secrets and the signing key; no rule of the product and no SQL.

`Hasher(cost=...)` keeps bcrypt off the event loop; tests pass a low cost. `AccessTokens` signs and verifies
JWTs, `digest` is the form in which an opaque secret is stored, `signing_key` keeps the embedded key.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import os
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import bcrypt
import jwt
import msgspec

from ytdl import errors, metrics

T = TypeVar("T")

BCRYPT_COST = 12
HASH_THREADS = 2
HASH_WAITING = 64
# bcrypt reads no further than this.
BCRYPT_BYTES = 72

ISSUER = AUDIENCE = "ytdl"
TOKEN_TYPE = "at+jwt"
MOMENTS = ("exp", "iat", "nbf")
REQUIRED_CLAIMS = [*MOMENTS, "iss", "aud", "sub", "jti", "sid"]
# How far the clocks of two machines may be apart for `iat` and `nbf`; `exp` gets no such mercy.
SKEW_SECONDS = 10
TOKEN_LENGTH = 2048
TOKENS_REMEMBERED = 4096
BUSY = "Too many people sign in at once; try again in a moment."
NOT_VALID = "The access token is missing, expired or not valid; sign in again."


class Hasher:
    """bcrypt in threads of its own, with a bounded waiting room: hashing is the cheapest way to overload us.

    Beyond `threads` + `waiting` requests at once, `hash` and `verify` raise `errors.Unavailable` at once.
    """

    def __init__(self, cost: int = BCRYPT_COST, *, threads: int = HASH_THREADS, waiting: int = HASH_WAITING) -> None:
        self._cost = cost
        self._room = threading.BoundedSemaphore(threads + waiting)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="bcrypt", initializer=_give_way)
        # A hash in form, of no password: verifying against it takes as long as against a real one.
        self.nobody = bcrypt.gensalt(cost).decode() + "." * 31

    def turn_away(self) -> None:
        """Raises `errors.Unavailable` while the waiting room is full; for whoever would do work before it hashes."""
        if not self._room.acquire(blocking=False):
            metrics.auth_hashes_refused.inc()
            raise errors.Unavailable(BUSY, retry_after=10)
        self._room.release()

    def outdated(self, hashed: str) -> bool:
        """Whether a hash was made at another cost than new ones are."""
        return not hashed.startswith(f"$2b${self._cost:02}$")

    async def hash(self, password: str) -> str:
        hashed = await self._run(lambda: bcrypt.hashpw(_prepare(password), bcrypt.gensalt(self._cost)))
        return hashed.decode()

    async def verify(self, password: str, hashed: str) -> bool:
        return await self._run(lambda: bcrypt.checkpw(_prepare(password), hashed.encode()))

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            metrics.auth_hashes_refused.inc()
            raise errors.Unavailable(BUSY, retry_after=10)
        future = self._threads.submit(work)
        # Not when the caller stops waiting: a request that was given up still holds its thread.
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)


def _give_way() -> None:
    """Lowers this thread's priority below the event loop's, where threads have priorities (Linux)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)


def same_password(one: str, other: str) -> bool:
    """Whether two texts are one password, however the keyboard composed them."""
    return _prepare(one) == _prepare(other)


def _prepare(password: str) -> bytes:
    """The same bytes however the keyboard composed them, and no more than bcrypt reads: none is cut off."""
    text = unicodedata.normalize("NFKC", password).encode()
    return text if len(text) <= BCRYPT_BYTES else base64.b64encode(hashlib.sha256(text).digest())


class Claims(msgspec.Struct, frozen=True):
    """What an access token says; `expires` is in seconds since 1970."""

    user_id: UUID
    session_id: UUID
    expires: int


class AccessTokens:
    """Access tokens of one algorithm. A verified token is remembered, a refused one never is.

    All are signed with `key`; those of a `previous` one are still believed. Which of the two it is a token has no say
    in: everything in its head but the kind and the algorithm, which are fixed, is passed over.
    """

    def __init__(self, key: bytes, algorithm: str, *, previous: bytes = b"") -> None:
        self._key = key
        self._previous = previous
        self._algorithm = algorithm
        self._decoded = functools.lru_cache(TOKENS_REMEMBERED)(self._decode)

    def issue(self, user_id: UUID, session_id: UUID, *, seconds: int) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, self._key, self._algorithm, headers={"typ": TOKEN_TYPE})

    def verify(self, token: str) -> Claims:
        """Raises `errors.Unauthorized` for everything but a live access token of ours, as an offence where somebody
        has made a token without the key."""
        if len(token) > TOKEN_LENGTH or not token.isascii():
            raise errors.Unauthorized(NOT_VALID)
        try:
            claims = self._decoded(token)
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as e:
            raise errors.Unauthorized(NOT_VALID, offence="forgery", evidence=digest(token)) from e
        except (jwt.PyJWTError, ValueError, TypeError) as e:
            raise errors.Unauthorized(NOT_VALID) from e
        if claims.expires <= time.time():
            raise errors.Unauthorized(NOT_VALID)
        return claims

    def _decode(self, token: str) -> Claims:
        try:
            return self._signed(token, self._key)
        except jwt.InvalidSignatureError:
            if not self._previous:
                raise
            return self._signed(token, self._previous)

    def _signed(self, token: str, key: bytes) -> Claims:
        decoded = jwt.decode_complete(
            token,
            key,
            algorithms=[self._algorithm],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=SKEW_SECONDS,
            options={"require": REQUIRED_CLAIMS},
        )
        if decoded["header"].get("typ") != TOKEN_TYPE:
            raise ValueError("a token of another kind")
        payload = decoded["payload"]
        # The library takes a text of digits, and a boolean, for a number.
        if any(type(payload[name]) not in (int, float) for name in MOMENTS):
            raise ValueError("a moment that is no number")
        return Claims(UUID(str(payload["sub"])), UUID(str(payload["sid"])), int(payload["exp"]))


def new_secret() -> str:
    """256 bits at random, as text that is safe in a URL."""
    return secrets.token_urlsafe(32)


def derived(key: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose, which tells nothing of the others."""
    return hmac.digest(key, f"ytdl: {purpose}".encode(), "sha256")


def successor(key: bytes, secret: str) -> str:
    """The one secret that follows another; whoever lacks the key can make it neither from that nor from its digest."""
    made = hmac.digest(key, secret.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def digest(secret: str) -> bytes:
    """What is stored of an opaque secret. It needs no salt and no slow hash: it was not made by a person.

    Takes any text, for what comes in a query string may hold surrogates.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def signing_key(path: Path, *, size: int = 64) -> bytes:
    """The key in this file, made when it is not there: `size` bytes as hexadecimal text, for its owner only.

    Of several processes that start at once, one makes it and all read the same. Blocks; for use at the start.
    Raises `ValueError` when the file holds less than a key, rather than sign with something weak.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _write_once(path, secrets.token_hex(size))
    key = path.read_bytes().strip()
    if len(key) < 32:
        raise ValueError(f"{path} holds less than a signing key; remove it, and a new one is made.")
    return key


def _write_once(path: Path, text: str) -> None:
    """Complete or not at all, and never over another process's file: written beside, then linked."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
