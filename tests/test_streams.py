"""Live progress over server-sent events and WebSockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import aiohttp
import pytest

from tests.conftest import Person, Service
from tests.fakes.youtube import YouTube
from tests.following import Told, ask, ended, told
from tests.signing_in import listening
from ytdl.api.keys import DB, EVENTS, KV
from ytdl.events import order
from ytdl.sql import Query

SLOW = 150_000


@pytest.fixture
async def service(service: Service) -> Service:
    """It has its subscription: streams that are open when that comes are told everything afresh."""
    await listening(service.app[EVENTS])
    return service


@pytest.fixture
async def downloading(downloading: Service) -> Service:
    await listening(downloading.app[EVENTS])
    return downloading


async def watched(person: Person, path: str, **kwargs: object) -> list[Told]:
    """A stream that ends by itself, read to its end."""
    async with asyncio.timeout(60):
        return [event async for event in told(await person.get(path, **kwargs))]


async def soon(stream: AsyncIterator[Told]) -> Told:
    """What a stream tells next."""
    async with asyncio.timeout(20):
        return await anext(stream)


async def test_a_stream_tells_the_whole_story(ann: Person, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary"), quality="720p"))["id"]
    events = await watched(ann, f"/downloads/{id}/events")
    assert (events[0].type, events[-1].type) == ("snapshot", "done")
    assert events[-1].data["status"] == "completed" and events[-1].data["file"]["size_bytes"] > 0
    assert {"progress", "status"} <= {e.type for e in events}


async def test_progress_rises_and_never_falls(ann: Person, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary"), quality="720p"))["id"]
    events = await watched(ann, f"/downloads/{id}/events")
    percents = [e.data["percent"] if e.type == "progress" else e.data["progress"]["percent"] for e in events]
    assert percents == sorted(percents) and percents[-1] == 100 and len(set(percents)) > 3


async def test_ids_rise_and_a_reader_who_comes_back_misses_nothing(ann: Person, youtube: YouTube) -> None:
    async with await ann.get("/downloads/events") as all_of_it:
        # Opened before there is anything to tell.
        stream = told(all_of_it)
        assert (await soon(stream)).type == "snapshot"
        await ask(ann, youtube.url("ordinary"), quality="144p")
        first = [await soon(stream)]
        while first[-1].type != "done":
            first.append(await soon(stream))
    response = await ann.get("/downloads/events", headers={"Last-Event-ID": first[0].id})
    # The first reader may have skipped progress that a later one took the place of; the second one is given it.
    assert order(first[0].id) < order((await soon(told(response))).id) <= order(first[1].id)
    response.close()


async def test_a_reader_who_comes_back_with_an_unknown_id_gets_a_snapshot(ann: Person, youtube: YouTube) -> None:
    id = (await ask(ann, youtube.url("ordinary"), quality="144p"))["id"]
    await ended(ann, id)
    for last in ("0-0", "nonsense", "99999999999999-0"):
        events = await watched(ann, f"/downloads/{id}/events", headers={"Last-Event-ID": last})
        assert [e.type for e in events] == ["snapshot", "done"]


async def test_a_download_that_ended_is_told_and_the_stream_ends(alice: Person) -> None:
    id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    await alice.post(f"/downloads/{id}/cancel")
    events = await watched(alice, f"/downloads/{id}/events")
    assert [(e.type, e.data["status"]) for e in events] == [("snapshot", "cancelled"), ("done", "cancelled")]


async def test_a_deleted_download_ends_its_stream(alice: Person) -> None:
    id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    stream = told(await alice.get(f"/downloads/{id}/events"))
    assert (await soon(stream)).type == "snapshot"
    await alice.delete(f"/downloads/{id}")
    async with asyncio.timeout(10):
        assert [event async for event in stream][-1].data == {"id": id, "status": "deleted"}


async def test_the_stream_of_all_has_every_own_download_and_nobody_elses(alice: Person, bob: Person) -> None:
    response = await alice.get("/downloads/events")
    stream = told(response)
    assert (await anext(stream)).data == {"items": []}
    await bob_and_alice_cancel(alice, bob)
    event = await soon(stream)
    assert event.data["video_id"] == "alices_vid_"
    response.close()


async def bob_and_alice_cancel(alice: Person, bob: Person) -> None:
    for person, video in ((bob, "bobs_video_"), (alice, "alices_vid_")):
        id = (await ask(person, f"https://youtu.be/{video}"))["id"]
        await person.post(f"/downloads/{id}/cancel")


async def test_a_browser_watches_with_a_ticket(alice: Person, service: Service) -> None:
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    async with service.client.get("/api/v1/downloads/events", params={"ticket": ticket}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert (await anext(told(response))).type == "snapshot"
    async with service.client.get("/api/v1/downloads/events", params={"ticket": ticket}) as response:
        assert response.status == 401


async def test_a_websocket_says_the_same(ann: Person, youtube: YouTube, downloading: Service) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary"), quality="720p"))["id"]
    async with ann.session.ws_connect(f"/api/v1/downloads/{id}/ws") as socket:
        messages = [json.loads(m.data) async for m in socket if m.type == aiohttp.WSMsgType.TEXT]
    assert (messages[0]["type"], messages[-1]["type"]) == ("snapshot", "done")
    assert messages[-1]["data"]["status"] == "completed" and socket.close_code == 1000


async def test_the_websocket_of_all_goes_on(alice: Person) -> None:
    async with alice.session.ws_connect("/api/v1/ws") as socket:
        assert (await socket.receive_json())["data"] == {"items": []}
        id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
        await alice.post(f"/downloads/{id}/cancel")
        assert (await socket.receive_json(timeout=20))["data"]["status"] == "cancelled"


async def test_a_plain_request_to_a_websocket_is_refused(alice: Person) -> None:
    response = await alice.get("/ws")
    assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_a_reader_that_went_away_is_forgotten(alice: Person, service: Service) -> None:
    response = await alice.get("/downloads/events")
    await anext(told(response))
    assert await readers(service, 1)
    response.close()
    id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    await alice.post(f"/downloads/{id}/cancel")
    await alice.post(f"/downloads/{id}/retry")
    assert await readers(service, 0)


async def readers(service: Service, count: int) -> bool:
    """Whether the service has that many readers, within ten seconds: a heartbeat would find out in fifteen."""
    for _ in range(200):
        if sum(len(boxes) for boxes in service.app[EVENTS]._mailboxes.values()) == count:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_stream_survives_a_redis_that_forgot_everything(
    ann: Person, youtube: YouTube, downloading: Service
) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary"), quality="720p"))["id"]
    stream = told(await ann.get(f"/downloads/{id}/events"))
    assert (await anext(stream)).type == "snapshot"
    kv = downloading.app[KV]
    async for key in kv.client.scan_iter(f"{kv.prefix}:*"):
        await kv.client.delete(key)
    assert [event async for event in stream][-1].data["status"] == "completed"


async def test_a_stream_ends_with_the_session_that_opened_it(alice: Person) -> None:
    response = await alice.get("/downloads/events")
    stream = told(response)
    await anext(stream)
    await alice.post("/auth/logout")
    async with asyncio.timeout(10):
        assert [event async for event in stream] == []


async def test_an_end_is_told_once_however_late_one_looks(alice: Person, service: Service) -> None:
    stream = told(response := await alice.get("/downloads/events"))
    await anext(stream)
    ids = [(await ask(alice, f"https://youtu.be/many_00000{n}"))["id"] for n in range(2)]
    await alice.post(f"/downloads/{ids[0]}/cancel")
    for _ in range(3):
        await service.app[EVENTS].publish(alice.user_id, UUID(ids[0]), "status", {})
    await alice.post(f"/downloads/{ids[1]}/cancel")
    events = [(e.type, e.data["id"]) for e in [await soon(stream) for _ in range(4)]]
    assert events == [("status", ids[0]), ("done", ids[0]), ("status", ids[1]), ("done", ids[1])]
    response.close()


async def test_what_a_stream_tells_never_falls_though_rows_are_behind(alice: Person, service: Service) -> None:
    response = await alice.get("/downloads/events")
    stream = told(response)
    await anext(stream)
    id = (await ask(alice, "https://youtu.be/many_000001"))["id"]
    behind = b"UPDATE downloads SET status = 'downloading', stage = 'downloading', percent = 10 WHERE id = %(id)s"
    await service.app[DB].exec(Query("test.behind", "exec", "", behind), id=id)
    ahead = {"id": id, "status": "processing", "stage": "processing", "percent": 95.0, "downloaded_bytes": 9}
    ahead |= {"total_bytes": 9, "speed_bytes_per_second": None, "eta_seconds": None}
    events = service.app[EVENTS]
    await events.publish(alice.user_id, UUID(id), "progress", ahead)
    await events.publish(alice.user_id, UUID(id), "status", {})
    first, second = [await soon(stream) for _ in range(2)]
    assert (first.type, first.data["percent"]) == ("progress", 95.0)
    assert (second.type, second.data["status"], second.data["progress"]["percent"]) == ("status", "processing", 95.0)
    await alice.post(f"/downloads/{id}/cancel")
    await events.publish(alice.user_id, UUID(id), "progress", ahead)
    await events.publish(alice.user_id, uuid4(), "progress", {"of": "another"})
    told_last = [await soon(stream) for _ in range(3)]
    assert [e.type for e in told_last] == ["status", "done", "progress"] and told_last[2].data == {"of": "another"}
    response.close()
