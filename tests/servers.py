"""The real Postgres and Redis of a test run, and the databases cloned from a migrated template.

They live in a process of their own (`python -m tests.servers FOLDER`), because each test has its own event loop. It
ends, and they with it, when its standard input is closed. Where there is plenty of memory they live in that: on a disk
most of a short test's time would go to the 453 files of its database.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import psutil
import psycopg

from ytdl import db, embedded

TEMPLATE = "template_ytdl"
MEMORY = Path("/dev/shm")
# What is free of it, and of all memory: two processes test, each with its own servers, and some fill a database.
PLENTY_BYTES = 6 * 2**30


class Servers:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ytdl-servers-", dir=_place(), ignore_cleanup_errors=True)
        self._names = (f"t{os.getpid()}_{n}" for n in itertools.count())

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.servers", self._folder.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        ready = json.loads(self._process.stdout.readline() or "{}")
        self.postgres_url, self.redis_url = ready["postgres"], ready["redis"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout
        self._process.communicate(timeout=60)
        self._folder.cleanup()

    def clone(self) -> str:
        """A fresh, migrated database; the URL of it."""
        name = next(self._names)
        self._admin(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        return named(self.postgres_url, name)

    def empty(self) -> str:
        """A fresh database without any table; the URL of it."""
        name = next(self._names)
        self._admin(f"CREATE DATABASE {name} TEMPLATE template0")
        return named(self.postgres_url, name)

    def drop(self, url: str) -> None:
        name = url.rpartition("?")[0].rpartition("/")[2]
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(statement.encode())


def named(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return url.replace("/ytdl?", f"/{name}?")


def _place() -> Path | None:
    if not os.access(MEMORY, os.W_OK):
        return None
    free = min(psutil.disk_usage(str(MEMORY)).free, psutil.virtual_memory().available)
    return MEMORY if free > PLENTY_BYTES else None


async def serve(folder: Path) -> None:
    claim = await embedded.claim(folder / "data")
    postgres, redis = await embedded.start_both(claim)
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {TEMPLATE}".encode())
    await db.migrate(named(postgres.url, TEMPLATE))
    print(json.dumps({"postgres": postgres.url, "redis": redis.url}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(postgres.stop(), redis.stop())
    claim.release()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
