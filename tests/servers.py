"""The real Postgres and Redis of a test run, and the databases cloned from a migrated template."""

import asyncio
import itertools
import os
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import psycopg

from ytdl import db, embedded

TEMPLATE = "template_ytdl"


class Servers:
    """Both servers, in a thread with a loop of its own, because each test has its own loop."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ytdl-servers-", ignore_cleanup_errors=True)
        self._ready: Future[tuple[str, str]] = Future()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="servers")
        self._names = (f"t{os.getpid()}_{n}" for n in itertools.count())

    def __enter__(self) -> Self:
        self._thread.start()
        self.postgres_url, self.redis_url = self._ready.result(timeout=120)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._folder.cleanup()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            claim = await embedded.claim(Path(self._folder.name) / "data")
            postgres, redis = await embedded.start_both(claim)
            await self._make_template(postgres.url)
        except BaseException as e:
            self._ready.set_exception(e)
            raise
        self._ready.set_result((postgres.url, redis.url))
        await self._stop.wait()
        await asyncio.gather(postgres.stop(), redis.stop())
        claim.release()

    async def _make_template(self, url: str) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"CREATE DATABASE {TEMPLATE}".encode())
        await db.migrate(self.database(url, TEMPLATE))

    @staticmethod
    def database(url: str, name: str) -> str:
        """The URL of another database on the same server."""
        return url.replace("/ytdl?", f"/{name}?")

    def clone(self) -> str:
        """A fresh, migrated database; the URL of it."""
        name = next(self._names)
        self._admin(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        return self.database(self.postgres_url, name)

    def drop(self, url: str) -> None:
        name = url.rpartition("?")[0].rpartition("/")[2]
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(statement.encode())
