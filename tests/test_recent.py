"""What was read a moment ago is believed only while nothing can have changed unheard."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Person, Service, running
from tests.following import ask, look
from ytdl import downloads, recent
from ytdl.api.keys import DB, DOWNLOADS, EVENTS
from ytdl.events import Events
from ytdl.kv import KV
from ytdl.recent import Recent
from ytdl.sql import Query

URL = "https://youtu.be/dQw4w9WgXcQ"
USER, ID = uuid4(), uuid4()


@pytest.fixture
async def events(kv: KV) -> AsyncIterator[Events]:
    events = Events(kv)
    await events.start()
    async with asyncio.timeout(30):
        while not events.live:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)
    yield events
    await events.stop()


def watching(events: Events, seconds: float = 60.0) -> Recent[UUID, Any]:
    known: Recent[UUID, Any] = Recent(events, seconds=seconds)
    events.watch(known.forget)
    return known


async def test_a_value_is_believed_for_a_while(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(recent, "time", SimpleNamespace(monotonic=lambda: now[0]))
    known = watching(events)
    known.keep(ID, "a", known.changes)
    now[0] += 59.9
    assert known.find(ID) == "a"
    now[0] += 0.2
    assert known.find(ID) is None


async def test_an_event_ends_it_before_it_is_even_sent(events: Events) -> None:
    known = watching(events)
    known.keep(ID, "a", known.changes)
    telling = asyncio.create_task(events.publish(USER, ID, "status", {}))
    await asyncio.sleep(0)
    assert known.find(ID) is None
    await telling


async def test_a_value_that_was_read_while_something_changed_is_not_kept(events: Events) -> None:
    known = watching(events)
    before = known.changes
    await events.publish(USER, uuid4(), "status", {})
    known.keep(ID, "old", before)
    assert known.find(ID) is None


async def test_nothing_is_believed_while_events_are_down(events: Events) -> None:
    known = watching(events)
    known.keep(ID, "a", known.changes)
    events.live = False
    assert known.find(ID) is None


async def test_what_was_read_while_events_were_down_is_not_kept(events: Events) -> None:
    known = watching(events)
    events.live = False
    known.keep(ID, "a", known.changes)
    events.live = True
    assert known.find(ID) is None


async def test_no_more_is_kept_than_the_limit(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "LIMIT", 2)
    known = watching(events)
    ids = [uuid4() for _ in range(3)]
    for n, id in enumerate(ids):
        known.keep(id, n, known.changes)
    assert [known.find(id) for id in ids] == [None, 1, 2]


async def test_a_look_is_answered_from_memory_but_never_to_others(alice: Person, bob: Person, service: Service) -> None:
    believed = service.app[DOWNLOADS]._recent
    believed._seconds = 60.0
    id = (await ask(alice, URL))["id"]
    await look(alice, id)
    unheard = Query("test.unheard", "exec", "", b"UPDATE downloads SET title = 'unheard of' WHERE id = %(id)s")
    await service.app[DB].exec(unheard, id=id)
    assert (await look(alice, id))["title"] is None
    assert (await bob.get(f"/downloads/{id}")).status == 404
    believed._seconds = 0.0
    assert (await look(alice, id))["title"] == "unheard of"


async def test_a_change_in_another_process_is_seen_as_soon_as_it_is_told(
    service: Service, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "BELIEVED_SECONDS", 60.0)
    id = (await ask(alice, URL))["id"]
    other = dataclasses.replace(service.config, data_dir=service.config.data_dir / "other")
    async with running(other) as second:
        second.client.headers["Authorization"] = f"Bearer {alice.token}"
        there = dataclasses.replace(alice, session=second.client)
        assert (await look(there, id))["status"] == "queued"
        heard = asyncio.Event()
        second.app[EVENTS].watch(lambda _: heard.set())
        await alice.post(f"/downloads/{id}/cancel")
        await asyncio.wait_for(heard.wait(), 20)
        assert (await look(there, id))["status"] == "cancelled"
