"""Two processes of the service with one database, one Redis and one data folder, and people who know both.

A `Somebody` has one access token and asks process `a` or process `b` with it; `at_work` tells which of them runs a
download, for a job goes to whichever process was quicker.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import aiohttp
import psutil
import psycopg

from tests import instance
from tests.conftest import PASSWORD, SECRET, Person
from tests.fakes.youtube import YouTube
from tests.following import ask, until
from tests.instance import Instance
from tests.servers import Servers, named
from ytdl import users
from ytdl.crypto import Hasher
from ytdl.db import DB

LEASE_SECONDS = "3"
_numbers = itertools.count()


@dataclass(frozen=True)
class Pair:
    """`a` and `b` differ in nothing but the port."""

    a: Instance
    b: Instance
    data: Path
    database_url: str
    redis_url: str
    redis_prefix: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Somebody:
    """The same person with the same token, asking `a` and asking `b`."""

    user_id: UUID
    token: str
    a: Person
    b: Person


@contextmanager
def empty_database(servers: Servers) -> Iterator[str]:
    """A database that nobody has migrated yet; the URL of it."""
    url = named(servers.postgres_url, f"empty{os.getpid()}_{next(_numbers)}")
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {url.rpartition('?')[0].rpartition('/')[2]}".encode())
    yield url
    servers.drop(url)


@asynccontextmanager
async def two(folder: Path, servers: Servers, database_url: str, youtube: YouTube, **more: str) -> AsyncIterator[Pair]:
    """Both processes, started in the same moment; `more` are settings of both."""
    prefix, data = f"pair{os.getpid()}-{next(_numbers)}", folder / "data"
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": servers.redis_url,
        "REDIS_PREFIX": prefix,
        "DATA_DIR": str(data),
        "JWT_SECRET_KEY": SECRET,
        "OUTBOUND_PROXY": youtube.proxy_url,
        "OUTBOUND_CA_FILE": str(youtube.ca_file),
        "YTDLP_EXTRACTOR_ARGS": youtube.extractor_args,
        "DOWNLOAD_BACKOFF_SECONDS": "0.2",
        "DOWNLOAD_LEASE_SECONDS": LEASE_SECONDS,
    } | more
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as starting:
        tasks = [starting.create_task(_start(stack, folder / name, settings)) for name in "ab"]
        a, b = [await task for task in tasks]
        yield Pair(a, b, data, database_url, servers.redis_url, prefix, settings)


async def _start(stack: AsyncExitStack, folder: Path, settings: dict[str, str]) -> Instance:
    folder.mkdir(parents=True)
    return await stack.enter_async_context(instance.serving(folder, **settings))


@asynccontextmanager
async def somebody(pair: Pair) -> AsyncIterator[Somebody]:
    """A new account, signed in at `a`."""
    name = f"user{next(_numbers)}"
    user_id = await _account(pair, name)
    async with aiohttp.ClientSession(pair.a.url) as a, aiohttp.ClientSession(pair.b.url) as b:
        async with a.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD}) as answer:
            tokens = await answer.json()
        for session in (a, b):
            session.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        at = [Person(user_id, tokens["access_token"], tokens["refresh_token"], session) for session in (a, b)]
        yield Somebody(user_id, tokens["access_token"], *at)


async def _account(pair: Pair, name: str) -> UUID:
    db, hasher = DB(pair.database_url, size=1), Hasher(cost=4)
    await db.open()
    try:
        email = f"{name}@example.org"
        user = await users.create(db, hasher, username=name, email=email, password=PASSWORD, full_name=name)
        return user.id
    finally:
        hasher.close()
        await db.close()


def at_work(running: Instance) -> list[psutil.Process]:
    """The downloads' processes below this process: the children of its fork server, and theirs."""
    zygotes = psutil.Process(running.pid).children()
    return [process for zygote in zygotes for process in zygote.children(recursive=True)]


@dataclass(frozen=True)
class Begun:
    """A download under way: where it runs, which process that is, and how its user reaches either."""

    id: str
    runner: Instance
    at_runner: Person
    at_other: Person


async def begun(pair: Pair, who: Somebody, url: str, least_bytes: int = 0) -> Begun:
    """Asks `a` for a download, and waits until it has `least_bytes` and more."""
    id = (await ask(who.a, url, quality="360p"))["id"]
    await until(who.b, id, lambda d: d["progress"]["downloaded_bytes"] > least_bytes)
    if at_work(pair.a):
        return Begun(id, pair.a, who.a, who.b)
    return Begun(id, pair.b, who.b, who.a)


async def soon(holds: Callable[[], bool], seconds: float) -> None:
    """Waits for something outside; TimeoutError when it does not come true."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it waits for is in another process
            await asyncio.sleep(0.02)
