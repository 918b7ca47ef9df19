"""The parts that tests stand on: real servers, a database a test, the running service, and three people.

alice and bob are users, root is an admin; what alice has, bob must not see.
"""

import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from tests.fakes.youtube import YouTube
from tests.fetching import settings_for, write_slow_ffmpeg
from tests.redises import OwnRedis
from tests.servers import Servers
from ytdl import app as wiring
from ytdl import users
from ytdl.api import serving
from ytdl.api.keys import AUTH
from ytdl.api.keys import DB as DB_KEY
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB
from ytdl.fetcher import Fetcher
from ytdl.kv import KV

PASSWORD = "Correct-horse-9"
SECRET = "a-key-that-only-tests-know-0123456789"
_prefixes = (f"t{n}" for n in itertools.count())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI=true says that everything is installed, a test without a program that tests/install.sh brings fails."""
    report = yield
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if "tests/install.sh" in reason and os.environ.get("CI") == "true":
        report.outcome, report.longrepr = "failed", reason
    return report


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    url = servers.clone()
    yield url
    servers.drop(url)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[DB]:
    pool = DB(database_url, size=8)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def redis_url(servers: Servers) -> str:
    return str(servers.redis_url)


@pytest.fixture
async def own_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnRedis]:
    """A Redis that a test may kill."""
    redis = OwnRedis(tmp_path_factory.mktemp("redis"))
    await redis.start()
    yield redis
    redis.kill()


@pytest.fixture
async def kv(redis_url: str) -> AsyncIterator[KV]:
    client = KV(redis_url, next(_prefixes))
    yield client
    await client.close()


@pytest.fixture(scope="session")
def youtube_server() -> Iterator[YouTube]:
    with YouTube() as running:
        yield running


@pytest.fixture
def youtube(youtube_server: YouTube) -> Iterator[YouTube]:
    """The stand-in without faults or memories."""
    youtube_server.behave()
    yield youtube_server
    youtube_server.behave()


@pytest.fixture
async def fetcher(youtube: YouTube, tmp_path: Path) -> AsyncIterator[Fetcher]:
    """With ffmpeg, and patient with its sockets."""
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=10.0))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


@pytest.fixture
def slow_ffmpeg(tmp_path: Path) -> str:
    """The path of an ffmpeg that starts and then takes its time."""
    return write_slow_ffmpeg(tmp_path)


@pytest.fixture
def config(database_url: str, redis_url: str, tmp_path: Path) -> Config:
    """An API only; `downloading` has a worker."""
    return Config(
        port=0,
        data_dir=tmp_path / "data",
        database_url=database_url,
        redis_url=redis_url,
        redis_prefix=next(_prefixes),
        jwt_secret_key=SECRET,
        admin_password=PASSWORD,
        download_concurrency=0,
        egress_starts_per_minute=60_000,
        egress_burst=1000,
        egress_pause_seconds=1.0,
        # All tests come from one address.
        rate_limit_per_minute=1_000_000,
    )


@dataclass
class Service:
    """The running service and a client without a token."""

    url: str
    client: aiohttp.ClientSession
    app: web.Application
    config: Config

    @asynccontextmanager
    async def person(self, username: str, role: users.Role = "user") -> AsyncIterator["Person"]:
        """A new account, signed in."""
        created = await users.create(
            self.app[DB_KEY], self.app[AUTH].hasher, username=username, email=f"{username}@example.org",
            password=PASSWORD, full_name=username.title(), role=role,
        )  # fmt: skip
        tokens = await self.app[AUTH].sign_in(username, PASSWORD)
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        async with aiohttp.ClientSession(self.url, headers=headers) as session:
            yield Person(created.id, tokens.access_token, tokens.refresh_token, session)


@dataclass
class Person:
    """Somebody signed in; paths are below /api/v1 unless they begin with a double slash."""

    user_id: UUID
    token: str
    refresh_token: str
    session: aiohttp.ClientSession

    async def request(self, method: str, path: str, **kwargs: Any) -> aiohttp.ClientResponse:
        full = path[1:] if path.startswith("//") else f"/api/v1{path}"
        response = await self.session.request(method, full, **kwargs)
        if response.content_type != "text/event-stream" and method != "HEAD":
            await response.read()
        return response

    async def get(self, path: str, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, json: Any = None, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self.request("POST", path, json=json, **kwargs)

    async def put(self, path: str, json: Any = None, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self.request("PUT", path, json=json, **kwargs)

    async def delete(self, path: str, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self.request("DELETE", path, **kwargs)


@asynccontextmanager
async def running(config: Config, *, cost: int = 4) -> AsyncIterator[Service]:
    """The service as `ytdl serve` runs it, on a free port; `cost` is that of a password's hash."""
    app = await wiring.new(config, hasher=Hasher(cost=cost))
    runner = serving.Runner(app)
    await runner.setup()
    try:
        url = await serving.listen(runner, config.host, config.port)
        async with aiohttp.ClientSession(url) as client:
            yield Service(url, client, app, config)
    finally:
        await runner.cleanup()


@pytest.fixture
async def service(config: Config) -> AsyncIterator[Service]:
    async with running(config) as service:
        yield service


@pytest.fixture
async def alice(service: Service) -> AsyncIterator[Person]:
    async with service.person("alice") as person:
        yield person


@pytest.fixture
async def bob(service: Service) -> AsyncIterator[Person]:
    async with service.person("bob") as person:
        yield person


@pytest.fixture
async def root(service: Service) -> AsyncIterator[Person]:
    async with service.person("root", role="admin") as person:
        yield person


@pytest.fixture
def downloading_config(config: Config, youtube: YouTube) -> Config:
    """With a worker, and the stand-in for everything outside; short times, so that tests are."""
    return dataclasses.replace(
        config,
        download_concurrency=4,
        download_lease_seconds=3.0,
        download_backoff_seconds=0.2,
        download_stall_seconds=8.0,
        drain_seconds=0.0,
        outbound_proxy=youtube.proxy_url,
        outbound_ca_file=str(youtube.ca_file),
        ytdlp_extractor_args=youtube.extractor_args,
    )


@pytest.fixture
async def downloading(downloading_config: Config) -> AsyncIterator[Service]:
    async with running(downloading_config) as service:
        yield service


@pytest.fixture
async def ann(downloading: Service) -> AsyncIterator[Person]:
    """A user of the service that has a worker."""
    async with downloading.person("ann") as person:
        yield person


@pytest.fixture
async def ben(downloading: Service) -> AsyncIterator[Person]:
    """Another one."""
    async with downloading.person("ben") as person:
        yield person
