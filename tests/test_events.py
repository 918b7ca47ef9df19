"""Events from process to process and to their readers, with a Redis that comes and goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import unquote
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.fakes.gate import Gate
from ytdl import events as module
from ytdl import metrics
from ytdl.events import Event, Events, Mailbox, Word, order
from ytdl.kv import KV

ANN, BEN = uuid4(), uuid4()


@contextlib.asynccontextmanager
async def process(kv: KV) -> AsyncIterator[Events]:
    """The events of one process, listening."""
    events = Events(kv)
    await events.start()
    try:
        await until(lambda: events.live)
        yield events
    finally:
        await events.stop()


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < deadline, "It did not come true."
        await asyncio.sleep(0.01)


async def taken(box: Mailbox, number: int, seconds: float = 20.0) -> list[Event]:
    got: list[Event] = []
    async with asyncio.timeout(seconds):
        while len(got) < number:
            got += await box.take(seconds)
    return got


@pytest.fixture
async def events(kv: KV) -> AsyncIterator[Events]:
    async with process(kv) as events:
        yield events


@pytest.fixture
async def other(kv: KV) -> AsyncIterator[Events]:
    """Another process at the same Redis."""
    async with process(kv) as events:
        yield events


def progress(download: UUID, percent: int = 1) -> Event:
    return Event(ANN, download, "progress", {"percent": percent})


# from process to process


async def test_readers_of_every_process_get_an_event_once(events: Events, other: Events) -> None:
    id = uuid4()
    with events.subscribe(ANN) as here, events.subscribe(ANN) as here_too, other.subscribe(ANN) as there:
        await events.publish(ANN, id, "status", {"status": "queued", "id": id})
        for box in (here, here_too, there):
            (event,) = await taken(box, 1)
            assert (event.user, event.download, event.type) == (ANN, id, "status")
            assert event.data == {"status": "queued", "id": str(id)}
        assert [await box.take(0.05) for box in (here, here_too, there)] == [[], [], []]


async def test_bob_does_not_hear_of_anns_downloads(events: Events) -> None:
    with events.subscribe(BEN) as box:
        await events.publish(ANN, uuid4(), "status", {})
        assert await box.take(0.1) == []


async def test_ids_increase(events: Events) -> None:
    with events.subscribe(ANN) as box:
        for _ in range(50):
            await events.publish(ANN, uuid4(), "status", {})
        ids = [order(event.id) for event in await taken(box, 50)]
    assert ids == sorted(set(ids))


async def test_a_word_is_heard_in_every_process_and_by_its_kind_only(events: Events, other: Events) -> None:
    heard: list[tuple[str, str]] = []
    events.hear("cancel", lambda value: heard.append(("here", value)))
    other.hear("cancel", lambda value: heard.append(("there", value)))
    other.hear("wake", lambda value: heard.append(("wrong", value)))
    await events.tell("cancel", "7")
    assert heard[0] == ("here", "7")
    await until(lambda: ("there", "7") in heard)
    assert ("wrong", "7") not in heard


def words_sent() -> float:
    return metrics.REGISTRY.get_sample_value("ytdl_kv_call_seconds_count", {"call": "tell"}) or 0.0


async def test_many_values_go_in_a_few_words_and_each_is_heard(events: Events, other: Events) -> None:
    values = [str(uuid4()) for _ in range(2 * module.WORD_VALUES + 1)]
    here, there = list[str](), list[str]()
    events.hear("revoked", here.append)
    other.hear("revoked", there.append)
    before = words_sent()
    await events.tell_all("revoked", values)
    assert (here[: len(values)], words_sent() - before) == (values, 3)
    await until(lambda: there == values)
    await events.tell_all("revoked", [])
    assert words_sent() - before == 3


async def test_a_word_of_one_value_is_what_it_always_was() -> None:
    assert msgspec.json.encode(Word("wake", "7")) == b'{"kind":"wake","value":"7"}'
    assert msgspec.json.encode(Word("wake", "7", ["8"])) == b'{"kind":"wake","value":"7","more":["8"]}'


# mailboxes


async def test_an_unread_progress_gives_way_to_a_later_one_of_the_same_download() -> None:
    box, one, two = Mailbox(), uuid4(), uuid4()
    for event in (progress(one, 1), progress(two, 1), Event(ANN, one, "status", {}), progress(one, 2)):
        box.put(event)
    got = [(e.download, e.type, e.data.get("percent")) for e in await box.take(0)]
    assert got == [(two, "progress", 1), (one, "status", None), (one, "progress", 2)]


async def test_a_reader_who_reads_too_slowly_loses_all_and_is_told() -> None:
    box = Mailbox()
    for _ in range(module.MAILBOX_LIMIT):
        box.put(Event(ANN, uuid4(), "status", {}))
    assert (box.lagged, len(await box.take(0))) == (False, module.MAILBOX_LIMIT)
    for _ in range(module.MAILBOX_LIMIT + 1):
        box.put(Event(ANN, uuid4(), "status", {}))
    assert (box.lagged, await box.take(0)) == (True, [])


async def test_a_reader_waits_no_longer_than_asked() -> None:
    async with asyncio.timeout(10):
        assert await Mailbox().take(0.01) == []


async def test_the_end_of_the_service_wakes_every_reader_and_takes_no_new_one(events: Events) -> None:
    with events.subscribe(ANN) as box:
        waiting = asyncio.create_task(box.take(60))
        await asyncio.sleep(0)
        events.close_streams()
        assert await asyncio.wait_for(waiting, 10) == []
        assert box.closed
    with events.subscribe(ANN) as late:
        assert late.closed


async def test_nothing_is_kept_for_users_without_readers(events: Events) -> None:
    for _ in range(20):
        user = uuid4()
        with events.subscribe(user), events.subscribe(user):
            pass
        await events.publish(user, uuid4(), "status", {})
    assert events._mailboxes == {}


# coming back


async def test_a_reader_who_comes_back_gets_what_was_missed(events: Events, other: Events) -> None:
    with events.subscribe(ANN) as box:
        for n in range(5):
            await events.publish(ANN, uuid4(), "status", {"n": n})
        seen = await taken(box, 5)
    missed = await other.since(ANN, seen[1].id)
    assert missed == seen[2:]
    assert await other.since(ANN, seen[-1].id) == []


@pytest.mark.parametrize(
    "id",
    ["", "x", "5", "-", "+", "5-x", "-5-1", "1_0-0", "9" * 30, "9" * 5000, "\u0665-\u0660", "5-5-5", "1-1\n", "0-0"],
)
async def test_an_id_that_is_none_of_ours_cannot_be_gone_on_from(events: Events, id: str) -> None:
    await events.publish(ANN, uuid4(), "status", {})
    assert await events.since(ANN, id) is None


async def test_another_users_id_cannot_be_gone_on_from(events: Events) -> None:
    with events.subscribe(BEN) as box:
        await events.publish(BEN, uuid4(), "status", {})
        (event,) = await taken(box, 1)
    assert await events.since(ANN, event.id) is None


async def test_what_was_trimmed_or_flushed_cannot_be_gone_on_from(events: Events, kv: KV) -> None:
    with events.subscribe(ANN) as box:
        for _ in range(3):
            await events.publish(ANN, uuid4(), "status", {})
        first, second, _ = await taken(box, 3)
    await kv.client.xdel(events._stream(ANN), first.id)
    assert await events.since(ANN, first.id) is None
    assert len(await events.since(ANN, second.id) or []) == 1
    await kv.client.delete(events._stream(ANN))
    assert await events.since(ANN, second.id) is None


async def test_the_history_is_bounded_and_goes_away(events: Events, kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_EVENTS", 10)
    for _ in range(300):
        await events.publish(ANN, uuid4(), "status", {})
    assert await kv.client.xlen(events._stream(ANN)) <= 110
    assert 0 < await kv.client.ttl(events._stream(ANN)) <= module.KEEP_SECONDS


# without Redis


async def test_without_redis_the_readers_of_this_process_still_hear() -> None:
    nobody = KV("redis://127.0.0.1:1", "nobody")
    events, heard = Events(nobody), list[str]()
    events.hear("wake", heard.append)
    await events.start()
    with events.subscribe(ANN) as box:
        await events.publish(ANN, uuid4(), "status", {})
        await events.tell("wake", "now")
        assert [event.id for event in await taken(box, 1)] == [""]
    assert heard == ["now"]
    assert not events.live
    assert await events.since(ANN, "1-1") is None
    await events.stop()
    await nobody.close()


async def test_a_broken_subscription_comes_back_and_readers_are_told(events: Events, kv: KV) -> None:
    subscribed: list[bool] = []
    confirmed = events._subscribed

    def noted(channel: str) -> None:
        confirmed(channel)
        subscribed.append(events.live)

    events._subscribed = noted  # type: ignore[method-assign]
    with events.subscribe(ANN) as box:
        await kill_subscribers(kv)
        await until(lambda: subscribed == [False, True])
        assert box.lagged, "something may have been missed"
        await box.take(0)
        await events.publish(ANN, uuid4(), "status", {})
        assert len(await taken(box, 1)) == 1


async def kill_subscribers(kv: KV) -> None:
    """Those of this test; others share the server."""
    for client in await kv.client.client_list(_type="pubsub"):
        await kv.client.client_kill_filter(_id=client["id"])


async def test_a_message_that_is_not_understood_does_not_end_the_listening(
    events: Events, kv: KV, caplog: pytest.LogCaptureFixture
) -> None:
    await kv.client.publish(kv.key("words"), "not json")
    await until(lambda: not events.live)
    assert "events.message_not_understood" in [record.message for record in caplog.records]
    await until(lambda: events.live)


@pytest.fixture
async def gate(redis_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    async with Gate(tmp_path / "gate", Path(unquote(redis_url.removeprefix("unix://")))) as gate:
        yield gate


@pytest.fixture
async def behind(gate: Gate) -> AsyncIterator[Events]:
    """A process that reaches Redis through the gate."""
    kv = KV(f"unix://{gate.path}", f"behind-{uuid4()}")
    async with process(kv) as events:
        yield events
    await kv.close()


async def test_live_is_false_while_redis_is_away(behind: Events, gate: Gate) -> None:
    await gate.shut()
    await until(lambda: not behind.live)
    with behind.subscribe(ANN) as box:
        await behind.publish(ANN, uuid4(), "status", {})
        assert len(await taken(box, 1)) == 1
        await gate.open()
        await until(lambda: behind.live)
        assert box.lagged


async def test_a_redis_that_says_nothing_is_noticed(
    behind: Events, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.3)
    for _ in range(23):
        await asyncio.sleep(0.1)
        assert behind.live, "nothing happens, but Redis answers when asked"
    gate.stall()
    await until(lambda: not behind.live)
    await gate.open()
    await until(lambda: behind.live)


async def test_stopping_ends_the_subscription(kv: KV, redis_url: str) -> None:
    async with process(kv):
        assert await subscribers(kv) == 1
    async with asyncio.timeout(20):
        while await subscribers(kv):  # noqa: ASYNC110 - Redis sees it a little later
            await asyncio.sleep(0.02)


async def subscribers(kv: KV) -> int:
    ((_, number),) = await kv.client.pubsub_numsub(kv.key("words"))
    return number
