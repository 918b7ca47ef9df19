"""Once a service has ended nothing of it goes on, whatever its clients did last."""

import asyncio
import dataclasses
import time

import pytest
from aiohttp import web
from redis.asyncio import Redis

from tests.conftest import Person, Service, running
from tests.fetching import until
from tests.following import told
from tests.redises import OwnRedis
from ytdl import health, kv
from ytdl.api import http, serving
from ytdl.api.keys import CONFIG, EVENTS, HEALTH
from ytdl.config import Config


@pytest.fixture(autouse=True)
def looking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks how the service is has it look."""
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)


def names(tasks: set[asyncio.Task[object]]) -> list[str]:
    return sorted(str(task.get_coro()) for task in tasks)


async def connections(redis: OwnRedis) -> int:
    """How many others are connected; it sees that one has gone a little later."""
    async with Redis.from_url(redis.url) as client:
        for _ in range(500):
            if (number := len(await client.client_list()) - 1) == 0:
                break
            await asyncio.sleep(0.02)
    return number


async def hang_up_streams(service: Service, person: Person) -> None:
    """Opens streams of both kinds and leaves them without a word."""
    answers = [await person.get("/downloads/events") for _ in range(4)]
    sockets = [await person.session.ws_connect("/api/v1/ws") for _ in range(4)]
    for answer in answers:
        await anext(told(answer))
    assert service.app[EVENTS].open_streams(person.user_id) == 8
    for answer in answers:
        answer.close()
    for socket in sockets:
        connection = socket._response.connection
        assert connection and connection.transport
        connection.transport.abort()


@pytest.mark.parametrize("moment", [0.0, 0.05])
async def test_no_task_and_no_connection_is_left(config: Config, own_redis: OwnRedis, moment: float) -> None:
    before = asyncio.all_tasks()
    async with running(dataclasses.replace(config, redis_url=own_redis.url)) as service:
        async with service.person("ann") as ann:
            await hang_up_streams(service, ann)
        # Nobody waits for these answers either.
        asking = [asyncio.create_task(service.client.get("/readyz")) for _ in range(20)]
        await asyncio.sleep(moment)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert (names(asyncio.all_tasks() - before), await connections(own_redis)) == ([], 0)


async def test_a_question_that_hangs_ends_with_the_service(config: Config, own_redis: OwnRedis) -> None:
    before = asyncio.all_tasks()
    quick = dataclasses.replace(config, redis_url=own_redis.url, metrics_collection_interval=1)
    async with running(quick) as service:
        own_redis.hang()
        asking = asyncio.create_task(service.client.get("/readyz"))
        await asyncio.sleep(0.1)
        asking.cancel()
    assert names(asyncio.all_tasks() - before - {asking}) == []


async def test_what_handlers_use_goes_after_them(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SHUTDOWN_SECONDS", 0.1)
    told: list[str] = []

    async def sleep(request: web.Request) -> None:
        """Sleep."""
        told.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            told.append("ended")

    async def go(app: web.Application) -> None:
        told.append("gone")

    app = http.application()
    app[CONFIG] = config
    app.on_cleanup.append(go)
    http.register(app, (http.Route("GET", "/sleep", sleep, "anyone", status=204),))
    runner = serving.Runner(app)
    await runner.setup()
    await serving.listen(runner, "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*runner.addresses[0])
    client.write(b"GET /api/v1/sleep HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: told == ["begun"], 20)
    client.close()
    await client.wait_closed()
    await asyncio.sleep(0.05)
    await runner.cleanup()
    assert told == ["begun", "ended", "gone"]


async def test_questions_end_when_nobody_waits_for_them(
    config: Config, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "TIMEOUT_SECONDS", 30.0)
    async with running(dataclasses.replace(config, redis_url=own_redis.url)) as service:
        own_redis.hang()
        looker = service.app[HEALTH]
        asking = asyncio.create_task(looker.readiness())
        await until(lambda: "health redis" in [task.get_name() for task in asyncio.all_tasks()], 20)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        begun = time.monotonic()
        await looker.close()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("health ")]
        # A question that swallows the word to end is told again after a second, and Redis would be waited for longer.
        assert time.monotonic() - begun < 10
        own_redis.kill()
