"""Steps of tests about accounts: signing in and refreshing over HTTP, another process, changes behind the back."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import PASSWORD, SECRET, Service
from ytdl.auth import Auth
from ytdl.crypto import Hasher
from ytdl.db import DB, Row
from ytdl.events import Events
from ytdl.kv import KV
from ytdl.sql import Query

TRAIL = Query("test.trail", "many", "", b"SELECT * FROM audit_events ORDER BY at")


async def post(service: Service, path: str, json: Any = None, **kwargs: Any) -> tuple[int, Any]:
    async with service.client.post(f"/api/v1{path}", json=json, **kwargs) as answer:
        return answer.status, await answer.json()


async def login(service: Service, username: str = "alice", password: str = PASSWORD) -> tuple[int, Any]:
    return await post(service, "/auth/login", {"username": username, "password": password})


async def refresh(service: Service, token: str) -> tuple[int, Any]:
    return await post(service, "/security/refresh", {"refresh_token": token})


async def opens(service: Service, token: str) -> bool:
    """Whether this access token is believed; anything but 200 and 401 is an error."""
    headers = {"Authorization": f"Bearer {token}"}
    async with service.client.get("/api/v1/auth/profile", headers=headers) as answer:
        assert answer.status in (200, 401)
        return answer.status == 200


async def change(database_url: str, statement: str) -> None:
    """What somebody does behind the service's back."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(statement.encode())


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that in twenty seconds")


async def listening(events: Events) -> None:
    async def live() -> bool:
        return events.live

    await until(live)


def hearing(events: Events, kind: str) -> asyncio.Future[str]:
    """What the next word of this kind is about."""
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    events.hear(kind, lambda value: None if heard.done() else heard.set_result(value))
    return heard


@asynccontextmanager
async def second_process(service: Service, key: str = SECRET, *, previous: str = "") -> AsyncIterator[Auth]:
    """What another process of the service has: its own connections, caches and subscription."""
    config = dataclasses.replace(service.config, jwt_secret_key=key, jwt_secret_key_previous=previous)
    async with AsyncExitStack() as stack:
        db = DB(config.database_url)
        stack.push_async_callback(db.close)
        await db.open()
        kv = KV(config.redis_url, config.redis_prefix)
        stack.push_async_callback(kv.close)
        events = Events(kv)
        stack.push_async_callback(events.stop)
        await events.start()
        await listening(events)
        other = Auth(db, events, config, key.encode(), hasher=Hasher(cost=4))
        stack.push_async_callback(other.close)
        yield other


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == event]


async def trail(db: DB, *types: str) -> list[Row]:
    """What the audit trail has of these types, oldest first."""
    return [row for row in await db.many(TRAIL) if row["type"] in types]


async def counted(database_url: str, rows: str) -> int:
    """How many rows there are; `rows` is a table and what restricts it."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        found = await (await connection.execute(f"SELECT count(*) FROM {rows}".encode())).fetchone()
    return int(found[0]) if found else 0
