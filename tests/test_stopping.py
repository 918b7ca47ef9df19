"""How a service stops listening: whoever had reached it is answered."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from yarl import URL

from tests.conftest import Service
from ytdl.api import http, serving
from ytdl.api.keys import CONFIG, HEALTH
from ytdl.config import Config


async def nothing(request: web.Request) -> None:
    """Nothing."""


@pytest.fixture
async def runner(config: Config) -> AsyncIterator[serving.Runner]:
    app = http.application()
    app[CONFIG] = config
    http.register(app, (http.Route("GET", "/nothing", nothing, "anyone", status=204),))
    runner = serving.Runner(app)
    await runner.setup()
    yield runner
    await runner.cleanup()


def knock(url: str) -> socket.socket:
    """A request that the kernel has taken, but nobody has accepted yet."""
    address = URL(url)
    connection = socket.create_connection((address.host, address.port))
    connection.sendall(b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    connection.setblocking(False)
    return connection


@pytest.mark.parametrize("rounds", range(5))
async def test_a_connection_that_was_just_made_is_served(runner: serving.Runner, rounds: int) -> None:
    """It waits to be accepted, is accepted and not yet taken up, or is taken up, as it is so many rounds later."""
    url = await serving.listen(runner, "127.0.0.1", 0)
    with knock(url) as connection:
        for _ in range(rounds):
            await asyncio.sleep(0)
        await runner.stop_listening()
        async with asyncio.timeout(20):
            answer = await asyncio.get_running_loop().sock_recv(connection, 1000)
    assert answer.startswith(b"HTTP/1.1 204")


async def test_whoever_has_connected_may_still_ask_and_nobody_else_is_waited_for(
    runner: serving.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "LAST_REQUESTS_SECONDS", 600.0)
    url = URL(await serving.listen(runner, "127.0.0.1", 0))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    stopping = asyncio.create_task(runner.stop_listening())
    await asyncio.sleep(0.5)
    writer.write(b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 204") and not stopping.done()
    writer.close()
    async with asyncio.timeout(20):
        await stopping


async def test_whoever_comes_later_is_refused(runner: serving.Runner) -> None:
    url = await serving.listen(runner, "127.0.0.1", 0)
    await runner.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        knock(url)


async def test_a_draining_service_lets_go_of_connections(service: Service) -> None:
    async with service.client.get("/healthz") as response:
        assert "Connection" not in response.headers
    service.app[HEALTH].draining = True
    async with service.client.get("/healthz") as response:
        assert response.headers["Connection"] == "close"
