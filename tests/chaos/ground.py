"""What the services stand on: a Postgres, a Redis, the stand-in, a disk of limited size and a copy of the source.

All of it is the run's own and lies in one temporary folder. The servers are the embedded ones, which are started again
by themselves when they die; this module knows how to make them die.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import aiohttp
import psycopg
import redis.asyncio as redis
from psycopg.rows import dict_row

from tests.instance import ROOT, standing_in
from ytdl import embedded
from ytdl.embedded import Server

DISK_BYTES = 6 * 2**30
PREFIX = "chaos"
DUMP_ALL = """
local found = {}
for _, name in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('DUMP', name)
end
return found"""


@dataclass
class Ground:
    """`source` is what the services run from; `disk_is_own` says whether it can be filled without harm."""

    folder: Path
    source: Path
    data: Path
    postgres: Server
    memory: Server
    upstream: dict[str, str]
    control_url: str
    disk_is_own: bool
    client: aiohttp.ClientSession
    keys: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def postgres_socket(self) -> str:
        return unquote(self.postgres.url.partition("host=")[2]) + "/.s.PGSQL.5432"

    @property
    def redis_socket(self) -> str:
        return unquote(self.memory.url.removeprefix("unix://"))

    @property
    def upstream_port(self) -> int:
        return int(self.upstream["OUTBOUND_PROXY"].rsplit(":", 1)[1])

    # looking

    @asynccontextmanager
    async def database(self) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        """A connection that no fault touches but the server's own death."""
        connecting = psycopg.AsyncConnection.connect(
            self.postgres.url, autocommit=True, row_factory=dict_row, connect_timeout=10, application_name="checker"
        )
        async with await connecting as connection:
            yield connection

    @asynccontextmanager
    async def index(self) -> AsyncIterator[redis.Redis]:
        client = redis.Redis.from_url(self.memory.url, socket_timeout=10)
        try:
            yield client
        finally:
            await client.aclose()

    # Postgres

    def crash_postgres(self) -> None:
        """What `pg_ctl stop -m immediate` does; the server starts again and recovers."""
        if self.postgres.pid:
            os.kill(self.postgres.pid, signal.SIGQUIT)

    async def end_backends(self) -> None:
        async with self.database() as db:
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name <> 'checker'"
            )

    # Redis

    async def flush_redis(self) -> None:
        async with self.index() as index:
            await index.flushall()

    def kill_redis(self, *, empty: bool) -> None:
        """It starts again with what its file has, or with nothing."""
        if not self.memory.pid:
            return
        if empty:
            # The server still writes to the files that are gone.
            shutil.rmtree(self.folder / "servers" / "redis" / "appendonlydir", ignore_errors=True)
        os.kill(self.memory.pid, signal.SIGKILL)

    async def keep_redis(self) -> None:
        """Remembers all it holds at this one moment, for `roll_back_redis`."""
        async with self.index() as index:
            flat: list[bytes] = await cast("Awaitable[list[bytes]]", index.eval(DUMP_ALL, 0))
        self.keys = dict(zip(flat[::2], flat[1::2], strict=True))

    async def roll_back_redis(self) -> None:
        """As if it had come back from an older file: everything is as it was when it was kept."""
        async with self.index() as index, index.pipeline(transaction=True) as work:
            work.flushall()
            for name, dump in self.keys.items():
                work.restore(name, 0, dump)
            await work.execute()

    # upstream and disk

    async def misbehave(self, **fault: Any) -> None:
        async with self.client.post(f"{self.control_url}/control", json=fault) as answer:
            answer.raise_for_status()

    async def behave(self) -> None:
        async with self.client.delete(f"{self.control_url}/control"):
            pass

    async def forget(self) -> None:
        """The stand-in is as usual and knows of no request."""
        await self.behave()
        async with self.client.delete(f"{self.control_url}/requests"):
            pass

    async def media_asked_for(self) -> bool:
        """Whether anybody has asked the stand-in for a film, as opposed to what is said about it."""
        async with self.client.get(f"{self.control_url}/requests") as answer:
            return any(seen["path"] == "/videoplayback" for seen in await answer.json())

    def fill_disk(self, leave: int = 0) -> None:
        """Takes all room but so many bytes."""
        self.free_disk()
        # What others write meanwhile makes it fail, and then it takes nothing.
        for spare in (0, 2**20, 2 * 2**20, 4 * 2**20):
            with contextlib.suppress(OSError), (self.data / "ballast").open("wb") as file:
                size = shutil.disk_usage(self.data).free - leave - spare
                os.posix_fallocate(file.fileno(), 0, max(1, size))
                return
        raise OSError(errno.ENOSPC, "others are always faster")

    def free_disk(self) -> None:
        (self.data / "ballast").unlink(missing_ok=True)


def copy_source(folder: Path, origin: Path = ROOT) -> Path:
    """The product as it is now, so that what is edited meanwhile does not reach a service that starts again."""
    for part in ("ytdl", "sql"):
        shutil.copytree(origin / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def own_disk(folder: Path) -> bool:
    """A file system of limited size at `folder`; only root can have one, and it must be able to vanish by itself."""
    folder.mkdir()
    if not os.environ.get("CHAOS_OWN_MOUNTS"):
        return False
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    return subprocess.run(mount, check=False, capture_output=True).returncode == 0


@asynccontextmanager
async def prepared(folder: Path, source: Path) -> AsyncIterator[Ground]:
    async with contextlib.AsyncExitStack() as stack:
        if own := own_disk(folder / "data"):
            stack.callback(subprocess.run, ["umount", "-l", str(folder / "data")], check=True)
        upstream = await stack.enter_async_context(standing_in(folder))
        claim = await embedded.claim(folder / "servers")
        stack.callback(claim.release)
        postgres, memory = await embedded.start_both(claim)
        stack.push_async_callback(memory.stop)
        stack.push_async_callback(postgres.stop)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Ground(
            folder,
            source,
            folder / "data",
            postgres,
            memory,
            upstream.settings,
            upstream.control_url,
            own,
            client,
        )


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a service's log; what is no JSON (a traceback of the interpreter) counts as an event of its own."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            line = {"event": "unreadable", "text": text}
        if isinstance(line, dict):
            lines.append(line)
    return lines
