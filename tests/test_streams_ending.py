"""Streams end with what opened them, also where no word of it comes; and nobody has more than so many open."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import UUID, uuid4

import aiohttp
import pytest

from tests.conftest import Person, Service, running
from tests.fakes.gate import Gate
from tests.following import Told, ask, told
from tests.signing_in import change, listening
from tests.test_apikeys import made, script
from ytdl.api import streams
from ytdl.api.keys import AUTH, EVENTS, KV
from ytdl.config import Config

# What happens behind the back of the service, so that no word of it is told.
ENDS = {
    "ended": "UPDATE sessions SET revoked_at = now()",
    "expired": "UPDATE sessions SET expires_at = now()",
    "inactive": "UPDATE users SET is_active = false WHERE username = 'alice'",
    "another role": "UPDATE users SET role = 'admin' WHERE username = 'alice'",
    "removed": "DELETE FROM sessions",
}
ends = pytest.mark.parametrize("end", ENDS)


async def opened(person: Person, path: str = "/downloads/events") -> AsyncIterator[Told]:
    """A stream that has told its snapshot."""
    response = await person.get(path)
    assert response.status == 200, await response.text()
    stream = told(response)
    assert (await anext(stream)).type == "snapshot"
    return stream


@pytest.fixture
async def service(service: Service) -> Service:
    """It has its subscription: streams that are open when that comes are told everything afresh."""
    await listening(service.app[EVENTS])
    return service


async def rest(stream: AsyncIterator[Told], seconds: float = 10.0) -> list[Told]:
    """What a stream that is about to end still says. Where heartbeats are as usual it would end by one after 15 s."""
    async with asyncio.timeout(seconds):
        return [event async for event in stream]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.4)


@ends
async def test_what_ended_since_it_was_looked_at_opens_no_stream(
    service: Service, alice: Person, database_url: str, end: str
) -> None:
    service.app[AUTH]._known._seconds = 60.0
    assert (await alice.get("/auth/profile")).status == 200
    await change(database_url, ENDS[end])
    assert (await alice.get("/auth/profile")).status == 200, "this is still believed"
    answer = await alice.get("/downloads/events")
    assert answer.status == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await alice.session.ws_connect("/api/v1/ws")


@ends
async def test_a_stream_ends_where_the_word_of_it_was_lost(
    service: Service, alice: Person, database_url: str, end: str
) -> None:
    stream = await opened(alice)
    await change(database_url, ENDS[end])
    kv = service.app[KV]
    for client in await kv.client.client_list(_type="pubsub"):
        await kv.client.client_kill_filter(_id=client["id"])
    assert await rest(stream) == [], "not even a snapshot once the subscription is back"


@pytest.mark.usefixtures("short")
@ends
async def test_a_silent_stream_notices_the_end(alice: Person, database_url: str, end: str) -> None:
    stream = await opened(alice)
    await change(database_url, ENDS[end])
    assert await rest(stream) == []


@pytest.mark.usefixtures("short")
async def test_a_stream_that_tells_all_the_time_notices_the_end(
    service: Service, alice: Person, database_url: str
) -> None:
    stream = await opened(alice)
    telling = asyncio.create_task(keep_telling(service, alice.user_id))
    assert (await anext(stream)).type == "progress"
    await change(database_url, ENDS["ended"])
    assert len(await rest(stream)) < 100
    telling.cancel()


async def keep_telling(service: Service, user: UUID) -> None:
    while True:
        await service.app[EVENTS].publish(user, uuid4(), "progress", {})
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("short")
async def test_a_key_that_expires_ends_its_stream_and_no_other(
    service: Service, alice: Person, database_url: str
) -> None:
    async with script(service, alice, (await made(alice))["key"]) as client:
        own, of_key = await opened(alice), await opened(client)
        await change(database_url, "UPDATE api_keys SET expires_at = now() + interval '0.2 seconds'")
        assert await rest(of_key) == []
    waiting = asyncio.ensure_future(anext(own))
    await asyncio.sleep(1)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_socket_notices_the_end(alice: Person, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pong may take half of it.
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 2.0)
    async with alice.session.ws_connect("/api/v1/ws") as socket:
        assert (await socket.receive_json())["type"] == "snapshot"
        await change(database_url, ENDS["expired"])
        assert (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000


@pytest.mark.slow
@pytest.mark.usefixtures("short")
async def test_a_stream_outlives_an_outage_of_the_database_and_then_looks(
    config: Config, database_url: str, tmp_path: Path
) -> None:
    head, _, folder = database_url.partition("host=")
    async with Gate(tmp_path / ".s.PGSQL.5432", Path(unquote(folder)) / ".s.PGSQL.5432") as gate:
        behind = dataclasses.replace(config, database_url=f"{head}host={quote(str(tmp_path), safe='')}")
        async with running(behind) as service, service.person("carl") as carl:
            await listening(service.app[EVENTS])
            stream = await opened(carl)
            await gate.shut()
            await asyncio.sleep(1)
            await service.app[EVENTS].publish(carl.user_id, uuid4(), "progress", {"percent": 1})
            assert (await asyncio.wait_for(anext(stream), 30)).data == {"percent": 1}
            await change(database_url, ENDS["ended"])
            await gate.open()
            assert await rest(stream, 30) == []


async def test_at_once_too_no_more_streams_are_opened_than_there_may_be(config: Config) -> None:
    few = dataclasses.replace(config, streams_per_user=3)
    async with running(few) as service, service.person("ann") as ann, AsyncExitStack() as stack:
        answers = await asyncio.gather(*(ann.get("/downloads/events") for _ in range(40)))
        for answer in answers:
            stack.callback(answer.close)
        assert sorted(a.status for a in answers) == [200] * 3 + [429] * 37


async def test_a_stream_counts_for_whoever_reads_it(config: Config) -> None:
    few = dataclasses.replace(config, streams_per_user=1)
    async with (
        running(few) as service,
        service.person("ann") as ann,
        service.person("root", role="admin") as root,
    ):
        path = f"/downloads/{(await ask(ann, 'https://youtu.be/dQw4w9WgXcQ'))['id']}/events"
        held = [await root.get(path), await ann.get(path)]
        assert [answer.status for answer in held] == [200, 200]
        assert [(await person.get("/downloads/events")).status for person in (root, ann)] == [429, 429]
        for answer in held:
            answer.close()
