"""One database for the tests of a file, emptied before each, and keys of a test's own."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest

from tests.servers import Servers
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.queue import Queue


@pytest.fixture(scope="module")
def cloned(servers: Servers) -> Iterator[str]:
    url = servers.clone()
    yield url
    servers.drop(url)


@pytest.fixture
def database_url(cloned: str) -> str:
    """One database for all tests here, emptied before each: a clone a test would cost more than the tests."""
    with psycopg.connect(cloned, autocommit=True) as connection:
        connection.execute("DELETE FROM jobs")
    return cloned


@pytest.fixture
async def kv(redis_url: str) -> AsyncIterator[KV]:
    """Keys of this test only, because keys are counted."""
    client = KV(redis_url, f"queue-{uuid4()}")
    yield client
    await client.close()


@pytest.fixture
def jobs(db: DB, kv: KV) -> Queue:
    return Queue(db, kv, lease_seconds=30, user_cap=100, base_backoff=0.1)
