"""The state of the service in one word, and a check of everything it needs that writes, reads back and runs.

The looks that `/readyz` takes are `health`'s; here Prometheus and Alertmanager are asked too, which nobody needs for a
download, and a check by hand does for real what those looks only ask about.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Literal

import msgspec
import uuid_utils.compat as uuid

from ytdl import sql
from ytdl.alertmanager import Alertmanager
from ytdl.db import DB
from ytdl.fetcher import Fetcher
from ytdl.health import Ask, Check, Failing, Health
from ytdl.kv import KV
from ytdl.prometheus import Prometheus
from ytdl.storage import Storage

q = sql.load("health")
# A program takes longer to start than a server to answer.
LIMIT_SECONDS = 10.0
PROBE_LIFE_SECONDS = 60
BELIEVED_SECONDS = 1.0

State = Literal["ok", "failing", "off"]


class Finding(msgspec.Struct, frozen=True):
    """`off` is what the operator has not set up; it makes nothing worse."""

    name: str
    status: State
    latency_seconds: float
    detail: str


class Condition(msgspec.Struct, frozen=True):
    """`down` is a service that answers nothing that matters: without PostgreSQL, or about to stop. `degraded` is one
    with any other check failing."""

    status: Literal["ok", "degraded", "down"]
    checks: list[Finding]


class Checkup:
    """`fetcher` is None where this process runs no downloads; what only they need is then not tried."""

    def __init__(
        self, health: Health, db: DB, kv: KV, storage: Storage, fetcher: Fetcher | None,
        prometheus: Prometheus, alertmanager: Alertmanager,
    ) -> None:  # fmt: skip
        self._health = health
        self._db = db
        self._kv = kv
        self._storage = storage
        self._fetcher = fetcher
        self._prometheus = prometheus
        self._alertmanager = alertmanager
        self._trying = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._looked = Condition("ok", [])

    async def look(self) -> Condition:
        """Changes nothing; takes two seconds at most. What was seen a second ago is believed: anybody may ask, and as
        often as they may ask for anything."""
        async with self._looking:
            if time.monotonic() - self._looked_at > BELIEVED_SECONDS:
                self._looked = self._judged(await self._health.ask(self._health.asks | self._watchers()))
                self._looked_at = time.monotonic()
            return self._looked

    async def try_all(self) -> Condition:
        """Writes and reads back, runs programs; takes ten seconds at most, and one at a time."""
        async with self._trying:
            tried: dict[str, Ask] = {
                "postgres": self._try_postgres,
                "redis": self._try_redis,
                "disk": self._try_disk,
            }
            if self._fetcher is not None:
                tried |= {"ytdlp": self._try_ytdlp, "javascript": self._try_javascript, "ffmpeg": self._try_ffmpeg}
            asks = self._health.asks | tried | self._watchers()
            return self._judged(await self._health.ask(asks, seconds=LIMIT_SECONDS))

    def _watchers(self) -> dict[str, Ask]:
        asks: dict[str, Ask] = {}
        if self._prometheus.configured:
            asks["prometheus"] = self._ask_prometheus
        if self._alertmanager.configured:
            asks["alertmanager"] = self._ask_alertmanager
        return asks

    def _judged(self, checks: Iterable[Check]) -> Condition:
        found = [Finding(c.name, "ok" if c.ok else "failing", c.latency_seconds, c.detail) for c in checks]
        failing = {finding.name for finding in found if finding.status == "failing"}
        if not self._prometheus.configured:
            found.append(Finding("prometheus", "off", 0.0, "PROMETHEUS_URL is not set."))
        if not self._alertmanager.configured:
            found.append(Finding("alertmanager", "off", 0.0, "ALERTMANAGER_URL is not set."))
        down = self._health.draining or "postgres" in failing
        return Condition("down" if down else "degraded" if failing else "ok", found)

    async def _try_postgres(self) -> str:
        id = uuid.uuid7()
        await self._db.exec(q.write_probe, id=id)
        found = await self._db.value(q.read_probe, id=id)
        await self._db.exec(q.remove_probe, id=id)
        if found != 1:
            raise Failing("A row that was written was not there.")
        return f"PostgreSQL {await self._db.value(q.server_version)}: written and read back"

    async def _try_redis(self) -> str:
        token = str(uuid.uuid7())
        key = self._kv.key("probe", token)
        await self._kv.call("probe", self._kv.client.set(key, token, ex=PROBE_LIFE_SECONDS))
        found = await self._kv.get(key)
        await self._kv.call("probe", self._kv.client.delete(key))
        if found != token:
            raise Failing("A key that was written was not there.")
        return "written and read back"

    async def _try_disk(self) -> str:
        looked = await self._health.asks["disk"]()
        try:
            if not await self._storage.try_writing():
                raise Failing("A file that was written reads differently.")
        except OSError as e:
            raise Failing(f"A file cannot be written: {e.strerror}.") from e
        return f"written and read back, {looked}"

    async def _try_ytdlp(self) -> str:
        found = await self._health.asks["ytdlp"]()
        if self._fetcher is not None and not await self._fetcher.try_forking():
            raise Failing("The fork server does not start a job when asked.")
        return f"{found}: forked a job"

    async def _try_javascript(self) -> str:
        found = await self._health.asks["javascript"]()
        if self._fetcher is not None and not await self._fetcher.try_deno():
            raise Failing("deno does not run a script.")
        return f"{found}: ran a script"

    async def _try_ffmpeg(self) -> str:
        found = await self._fetcher.try_ffmpeg() if self._fetcher is not None else None
        if found is None:
            raise Failing("ffmpeg does not run.")
        return f"ffmpeg {found}: ran"

    async def _ask_prometheus(self) -> str:
        return f"Prometheus {await self._prometheus.version()}"

    async def _ask_alertmanager(self) -> str:
        await self._alertmanager.ready()
        return "ready"
