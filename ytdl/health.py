"""Whether the service can do its work: what each dependency answers, asked side by side and bounded in time.

Only looks. Keeping the dependencies alive is their own adapters' work; what a failure means to a caller is
said by `api/service.py`.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import msgspec

from ytdl import errors, loops, metrics, sql
from ytdl.config import Config
from ytdl.db import DB
from ytdl.fetcher import Fetcher
from ytdl.kv import KV
from ytdl.storage import Storage

log = logging.getLogger("ytdl.health")
q = sql.load("health")
LIMIT_SECONDS = 2.0
# Strangers may ask, without a limit; no more often than this does one of them cost a connection to the database.
BELIEVED_SECONDS = 1.0


class Check(msgspec.Struct, frozen=True):
    """`detail` says what was found, a version or what is wrong; it never holds an address or a secret."""

    name: str
    ok: bool
    latency_seconds: float
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """`draining` is a service that is about to stop: it ends what it has and wants no more."""

    status: Literal["ready", "not_ready", "draining"]
    checks: tuple[Check, ...]


class Failing(Exception):
    """A check's finding, as a sentence that anyone may read."""


Ask = Callable[[], Coroutine[None, None, str]]


class Health:
    """`fetcher` is None where this process runs no downloads; what only they need is then not asked for. `asks` are its
    questions by name. Close it before what it asks."""

    def __init__(self, config: Config, db: DB, kv: KV, storage: Storage, fetcher: Fetcher | None) -> None:
        self.draining = False
        self._config = config
        self._db = db
        self._kv = kv
        self._storage = storage
        self._fetcher = fetcher
        self._asking: set[asyncio.Task[Any]] = set()
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._looked: tuple[Check, ...] = ()
        self.asks: dict[str, Ask] = {
            "postgres": self._ask_postgres,
            "redis": self._ask_redis,
            "disk": self._ask_disk,
        }
        if fetcher is not None:
            self.asks |= {
                "ytdlp": self._ask_ytdlp,
                "javascript": self._ask_javascript,
                "ffmpeg": self._ask_ffmpeg,
            }

    async def close(self) -> None:
        """Ends the questions that nobody waits for any more."""
        await loops.stop(list(self._asking))

    async def readiness(self) -> Readiness:
        """Takes no longer than `LIMIT_SECONDS`, whatever hangs. What was seen a second ago is believed, but that the
        service is about to stop is said at once."""
        checks = await self._look()
        well = all(check.ok for check in checks)
        status: Literal["ready", "not_ready"] = "ready" if well else "not_ready"
        return Readiness("draining" if self.draining else status, checks)

    async def _look(self) -> tuple[Check, ...]:
        """One at a time: whoever comes meanwhile waits for the same answers."""
        async with self._looking:
            if time.monotonic() - self._looked_at > BELIEVED_SECONDS:
                self._looked = tuple(await self.ask(self.asks, seconds=LIMIT_SECONDS))
                self._looked_at = time.monotonic()
                for check in self._looked:
                    metrics.health_ready.labels(check.name).set(check.ok)
            return self._looked

    async def ask(self, asks: Mapping[str, Ask], *, seconds: float = LIMIT_SECONDS) -> list[Check]:
        """Asks all of these side by side; each has found something within that time, or has failed."""
        return await asyncio.gather(*(self._check(name, ask, seconds) for name, ask in asks.items()))

    async def _check(self, name: str, ask: Ask, seconds: float) -> Check:
        begun = time.perf_counter()
        ok, detail = await self._found(name, ask, seconds)
        return Check(name, ok, round(time.perf_counter() - begun, 6), detail)

    async def _found(self, name: str, ask: Ask, seconds: float) -> tuple[bool, str]:
        asking = asyncio.create_task(ask(), name=f"health {name}")
        self._asking.add(asking)
        asking.add_done_callback(self._forget)
        try:
            await asyncio.wait((asking,), timeout=seconds)
        finally:
            # What hangs may take long to be cancelled, too; nobody waits for that before the end of the service.
            asking.cancel()
        if not asking.done():
            return False, f"No answer within {seconds:g} seconds."
        try:
            return True, asking.result()
        except (Failing, errors.Error) as e:
            return False, str(e)
        except Exception:
            log.exception("health.failed", extra={"check": name})
            return False, "The check itself failed; the log says how."

    def _forget(self, asking: asyncio.Task[str]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            # Looked at, so that nothing is said of a failure that came too late for anybody.
            asking.exception()

    async def _ask_postgres(self) -> str:
        return f"PostgreSQL {await self._db.value(q.server_version)}"

    async def _ask_redis(self) -> str:
        await self._kv.ping()
        return "answers"

    async def _ask_disk(self) -> str:
        free, least = await self._storage.free_bytes(), self._config.download_min_free_bytes
        if free < least:
            raise Failing(f"{_mib(free)} are free, and {_mib(least)} are needed.")
        if not os.access(self._config.data_dir, os.W_OK):
            raise Failing("The data folder cannot be written.")
        return f"{_mib(free)} free"

    async def _ask_ytdlp(self) -> str:
        tools = await self._tools()
        if not tools.get("ready"):
            raise Failing("The fork server does not take jobs just now.")
        return f"yt-dlp {tools['yt_dlp']}"

    async def _ask_javascript(self) -> str:
        tools = await self._tools()
        if not tools.get("deno") or not tools.get("ejs"):
            raise Failing("No JavaScript runtime was found: deno and yt-dlp-ejs are needed.")
        if not tools.get("deno_supported"):
            raise Failing(f"deno {tools['deno']} is too old for yt-dlp.")
        return f"deno {tools['deno']}, yt-dlp-ejs {tools['ejs']}"

    async def _ask_ffmpeg(self) -> str:
        version = (await self._tools()).get("ffmpeg")
        if not version:
            raise Failing("No ffmpeg was found that runs.")
        return f"ffmpeg {version}"

    async def _tools(self) -> dict[str, object]:
        return await self._fetcher.probe_tools() if self._fetcher is not None else {}


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
