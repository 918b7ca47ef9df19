"""Redis: one client, the key prefix, the Lua scripts and the subscription's connection.

Redis only suggests; whoever calls must be able to go on without it. Every failure shows as `Down`.
"""

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.observability.attributes import DB_CLIENT_CONNECTION_STATE

from ytdl import errors, metrics, tracing

log = logging.getLogger("ytdl.kv")
LUA = Path(__file__).parent / "lua"
# Longer than any command of ours takes, shorter than a user's patience.
TIMEOUT_SECONDS = 2.0


# After a Redis that did not answer nobody waits for it again this long; else a request waits once for each call.
SILENT_SECONDS = 1.0
GONE = "Redis cannot be reached just now; try again in a moment."


class Down(errors.Unavailable):
    """Redis does not answer, or answered with an error."""


class KV:
    def __init__(self, url: str, prefix: str) -> None:
        self.prefix = prefix
        self._silent_until = 0.0
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=32,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # One more try heals a connection that the server closed while it was idle.
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        self.client: redis.Redis = redis.Redis.from_pool(self._pool)
        self._scripts = {path.stem: self.client.register_script(path.read_text()) for path in LUA.glob("*.lua")}
        for name in (*self._scripts, "ping", "info", "get"):
            metrics.kv_call_seconds.labels(name)

    async def close(self) -> None:
        """Takes no more calls, and lets those under way come to their end: cut off, they would connect anew."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * TIMEOUT_SECONDS):
                await self._idle.wait()
        await self.client.aclose()

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    async def script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Runs `ytdl/lua/<name>.lua`; it is sent again by itself after Redis forgot it. Raises `Down`."""
        return await self.call(name, self._scripts[name](keys=keys, args=args))

    async def ping(self) -> None:
        await self.call("ping", cast("Awaitable[Any]", self.client.ping()))

    async def info(self) -> dict[str, Any]:
        """What the server says of itself, under the names of Redis' INFO. Raises `Down`."""
        return cast("dict[str, Any]", await self.call("info", self.client.info()))

    def stats(self) -> dict[str, int]:
        """Connections by state."""
        counts = {of[DB_CLIENT_CONNECTION_STATE]: number for number, of in self._pool.get_connection_count()}
        return {"in_use": counts["used"], "idle": counts["idle"]}

    async def get(self, key: str) -> str | None:
        return cast("str | None", await self.call("get", self.client.get(key)))

    async def call(self, name: str, work: Awaitable[Any]) -> Any:
        """Awaits a command of `client`, bounded and counted. Raises `Down`.

        The bound is over all: the client's own is for each of connecting, greeting, sending and reading, twice.
        """
        if self._closed or time.monotonic() < self._silent_until:
            if inspect.iscoroutine(work):
                work.close()
            raise Down(GONE, retry_after=2)
        begun = time.perf_counter()
        self._under_way += 1
        self._idle.clear()
        try:
            with tracing.step("redis", name):
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    return await work
        except (RedisError, OSError) as e:
            metrics.kv_errors.inc()
            if not isinstance(e, ResponseError):
                self._silent_until = time.monotonic() + SILENT_SECONDS
            raise Down(GONE, retry_after=2) from e
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
            metrics.kv_call_seconds.labels(name).observe(time.perf_counter() - begun)
