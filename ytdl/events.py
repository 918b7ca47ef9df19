"""What just happened: published once, heard by every process, fanned out to bounded mailboxes.

One subscription a process serves all its readers. An event's id is its place in the user's Redis stream, so a reader
who comes back to another process is given what was missed. Nothing here is the truth: without Redis events reach the
readers of this process only, and a reader can always ask PostgreSQL for the state.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from ytdl import loops, metrics
from ytdl.kv import KV, Down

log = logging.getLogger("ytdl.events")
KEEP_EVENTS = 1000
KEEP_SECONDS = 3600
MAILBOX_LIMIT = 256
# After this long a silence Redis is asked whether it is still there; after twice as long it is not.
SILENCE_SECONDS = 3.0
# So many values go into one word, some 20 kB of ids.
WORD_VALUES = 500


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """`type` is `progress` or `status`; `id` is empty for one that only this process heard of."""

    user: UUID
    download: UUID
    type: str
    data: dict[str, Any]
    id: str = ""


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """A word from process to process: `kind` says who listens, `value` what it is about, `more` what else."""

    kind: str
    value: str
    more: list[str] = []


_event = msgspec.json.Decoder(Event)
_word = msgspec.json.Decoder(Word)


def order(id: str) -> tuple[int, int]:
    """Stream ids as numbers, so that they compare; raises `ValueError` for anything else."""
    ms, _, seq = id.partition("-")
    return int(ms), int(seq or 0)


@dataclass(frozen=True)
class Reader:
    """Whose stream it is, by which session or API key it was opened, and from where. It may tell of another's."""

    user: UUID
    credential: UUID
    address: str


class Mailbox:
    """One reader's events. A later progress of the same download takes the place of an unread one, so a slow reader
    sees the latest state; a reader who leaves even so many unread that they pass the limit loses them all and is told
    by `lagged` to look at the state afresh."""

    def __init__(self, address: str = "") -> None:
        self.address = address
        self._unread: OrderedDict[Any, Event] = OrderedDict()
        self._arrived = asyncio.Event()
        self.lagged = False
        self.closed = False

    def put(self, event: Event) -> None:
        key = ("progress", event.download) if event.type == "progress" else object()
        if self._unread.pop(key, None):
            metrics.streams_dropped.inc()
        self._unread[key] = event
        if len(self._unread) > MAILBOX_LIMIT:
            metrics.streams_dropped.inc(len(self._unread))
            self.lose()
        self._arrived.set()

    def lose(self) -> None:
        """The events are not whole any more; the reader wakes to be told so."""
        self._unread.clear()
        self.lagged = True
        self._arrived.set()

    def close(self) -> None:
        self.closed = True
        self._arrived.set()

    async def take(self, seconds: float) -> list[Event]:
        """Everything unread, in order; empty after that long a silence or when closed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)
        self._arrived.clear()
        events = list(self._unread.values())
        self._unread.clear()
        return events


class Events:
    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._channel = kv.key("events")
        self._words = kv.key("words")
        # By whose events they are, who reads them, and the session or key that was used for it.
        self._mailboxes: dict[object, set[Mailbox]] = {}
        self._of_readers: dict[object, set[Mailbox]] = {}
        self._of_credentials: dict[object, set[Mailbox]] = {}
        self._listeners: dict[str, list[Callable[[str], None]]] = {}
        self._watchers: list[Callable[[UUID], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.live = False
        self.hear("revoked", self._end_credential)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="events")

    async def stop(self) -> None:
        self.close_streams()
        if self._task:
            await loops.stop([self._task])
            self._task = None

    def close_streams(self) -> None:
        """Ends every reader and takes no new one; the service is going down."""
        self._closing = True
        for box in [box for boxes in self._mailboxes.values() for box in boxes]:
            box.close()

    def _end_credential(self, id: str) -> None:
        for box in self._of_credentials.get(id, ()):
            box.close()

    def end_addresses(self, refused: Callable[[str], bool]) -> None:
        """Ends the readers of this process whose client's address is refused."""
        for box in [box for boxes in self._mailboxes.values() for box in boxes if box.address]:
            if refused(box.address):
                box.close()

    def hear(self, kind: str, callback: Callable[[str], None]) -> None:
        """Calls back on the loop for each word of this kind, from any process; it must not block."""
        self._listeners.setdefault(kind, []).append(callback)

    def watch(self, callback: Callable[[UUID], None]) -> None:
        """Calls back with the download's id for each event of any process, and at once for those of this one."""
        self._watchers.append(callback)

    async def tell(self, kind: str, value: str) -> None:
        """To this process at once, to the others as far as Redis is there."""
        await self.tell_all(kind, [value])

    async def tell_all(self, kind: str, values: Iterable[str]) -> None:
        """As `tell`, of each value: in as few words as they fit into, one after the other."""
        given = list(values)
        firsts = range(0, len(given), WORD_VALUES)
        words = [Word(kind, given[at], given[at + 1 : at + WORD_VALUES]) for at in firsts]
        for word in words:
            self._dispatch(word)
            if word.more:
                await asyncio.sleep(0)
        with contextlib.suppress(Down):
            for word in words:
                await self._kv.call("tell", self._kv.client.publish(self._words, msgspec.json.encode(word)))

    async def publish(self, user: UUID, download: UUID, type: str, data: dict[str, Any]) -> None:
        self._touched(download)
        event = Event(user, download, type, data)
        text = msgspec.json.encode(event).decode()
        keys = [self._stream(user), self._channel]
        try:
            id = await self._kv.script("publish", keys, [text, KEEP_EVENTS, KEEP_SECONDS])
        except Down:
            metrics.events_published.labels("local").inc()
            self._deliver(event)
            return
        metrics.events_published.labels("ok").inc()
        if not self.live:
            self._deliver(msgspec.structs.replace(event, id=id))

    @contextlib.contextmanager
    def subscribe(self, user: UUID, reader: Reader | None = None) -> Iterator[Mailbox]:
        """The user's events from now on, until what the reader came with is revoked or the address blocked."""
        box = Mailbox(reader.address if reader else "")
        places: list[tuple[dict[object, set[Mailbox]], object]] = [(self._mailboxes, user)]
        if reader:
            places += [(self._of_readers, reader.user), (self._of_credentials, str(reader.credential))]
        for boxes, key in places:
            boxes.setdefault(key, set()).add(box)
        if self._closing:
            box.close()
        try:
            yield box
        finally:
            for boxes, key in places:
                boxes[key].discard(box)
                if not boxes[key]:
                    del boxes[key]

    def open_streams(self, reader: UUID) -> int:
        """How many streams this user has open in this process, of whosever events."""
        return len(self._of_readers.get(reader, ()))

    async def since(self, user: UUID, id: str) -> list[Event] | None:
        """What came after `id`; `None` when that cannot be told any more, or `id` is none of ours."""
        try:
            order(id)
            entries = await self._kv.call("since", self._kv.client.xrange(self._stream(user), min=id, max="+"))
        except (ValueError, Down):
            return None
        if not entries or entries[0][0] != id:
            return None
        return [msgspec.structs.replace(_event.decode(fields["e"]), id=at) for at, fields in entries[1:]]

    def _stream(self, user: UUID) -> str:
        return self._kv.key("events", str(user))

    def _touched(self, download: UUID) -> None:
        for callback in self._watchers:
            callback(download)

    def _deliver(self, event: Event) -> None:
        self._touched(event.download)
        for box in self._mailboxes.get(event.user, ()):
            box.put(event)

    def _dispatch(self, word: Word) -> None:
        listeners = self._listeners.get(word.kind, ())
        for value in (word.value, *word.more):
            for callback in listeners:
                callback(value)

    async def _listen(self) -> None:
        """Holds the subscription for ever. Words may be missed while it is down, so caches must ask `live`."""
        while True:
            try:
                await self._hold()
            except (RedisError, OSError) as e:
                metrics.worker_loop_errors.labels("listen").inc()
                log.warning("events.subscription_lost", extra={"error": type(e).__name__})
            except Exception:
                metrics.worker_loop_errors.labels("listen").inc()
                log.exception("events.message_not_understood")
            finally:
                self.live = False
            await asyncio.sleep(0.5)

    async def _hold(self) -> None:
        async with self._kv.client.pubsub(ignore_subscribe_messages=False) as pubsub:
            await pubsub.subscribe(self._channel, self._words)
            heard, asked = time.monotonic(), False
            while True:
                message = await pubsub.get_message(timeout=1.0)
                silence = time.monotonic() - heard
                if message:
                    heard, asked = time.monotonic(), False
                    self._received(message)
                elif silence > SILENCE_SECONDS and not asked:
                    await pubsub.ping()
                    asked = True
                elif silence > 2 * SILENCE_SECONDS:
                    raise ConnectionError("Redis says nothing.")
                metrics.worker_loop_last_success.labels("listen").set(time.time())

    def _received(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "subscribe", "channel": channel}:
                self._subscribed(channel)
            case {"type": "message", "channel": self._words, "data": data}:
                self._dispatch(_word.decode(data))
            case {"type": "message", "data": data}:
                id, _, text = data.partition(" ")
                self._deliver(msgspec.structs.replace(_event.decode(text), id=id))

    def _subscribed(self, channel: str) -> None:
        """Both channels are confirmed once the second answer is here. The client library comes back by itself after a
        short break, which shows here only; whoever reads may have missed something then."""
        self.live = channel == self._words
        if self.live:
            for box in [box for boxes in self._mailboxes.values() for box in boxes]:
                box.lose()
