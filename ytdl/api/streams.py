"""Live progress: server-sent events and their WebSocket twins.

A stream begins with a snapshot, unless the reader names the last event it saw and everything since is still known.
Each reader has a bounded mailbox; one who reads too slowly skips to the latest state. In every silence of a quarter
of a minute a stream of one download reads its state from the database, so it ends even when Redis lost the word of
it. A stream ends with the session that opened it.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from ytdl import errors, metrics
from ytdl.api import origins
from ytdl.api.downloads import asker
from ytdl.api.http import client_ip, path_uuid
from ytdl.api.http import who as identity
from ytdl.api.keys import BLOCKS, CONFIG, DOWNLOADS, EVENTS
from ytdl.downloads import Asker, Downloads
from ytdl.events import Event, Events, Mailbox, order
from ytdl.record import ENDED, Download, Progress

HEARTBEAT_SECONDS = 15.0
# A reader whose connection takes nothing for this long is let go.
SEND_SECONDS = 20.0
RECONNECT_MS = 2000
REMEMBERED = 1000
RUNNING = frozenset({"downloading", "processing"})
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Message:
    """`type` is `snapshot`, `progress`, `status` or `done`; `id` is what a reader names when it comes back."""

    type: str
    data: Any
    id: str = ""


class Stream:
    """What one reader is told, of one download or of all of the reader's own."""

    def __init__(self, downloads: Downloads, events: Events, asker: Asker, only: UUID | None) -> None:
        self._downloads = downloads
        self._events = events
        self._asker = asker
        self._only = only
        self._status: str | None = None
        self._seen = ""
        # What was said last of each download, so that late looks do not say it again.
        self._said: OrderedDict[UUID, Download] = OrderedDict()
        # Events run ahead of the rows, which are written once a second.
        self._progress: dict[UUID, dict[str, Any]] = {}

    @property
    def over(self) -> bool:
        return self._only is not None and self._status in ENDED | {"deleted"}

    async def begin(self, last_id: str | None) -> list[Message]:
        """What was missed since `last_id`, or a snapshot."""
        missed = await self._events.since(self._asker.user_id, last_id) if last_id else None
        if missed is None:
            return await self._snapshot()
        messages = [message for event in missed for message in await self._told(event)]
        return messages + (await self._check() if not self.over else [])

    async def next(self, box: Mailbox) -> list[Message]:
        """Waits for news; empty after a silence in which nothing changed."""
        events = await box.take(HEARTBEAT_SECONDS)
        if box.lagged:
            box.lagged = False
            return await self._snapshot()
        if not events and not box.closed:
            return await self._check()
        return [message for event in events for message in await self._told(event)]

    async def _snapshot(self) -> list[Message]:
        if self._only is None:
            items = await self._downloads.open_of(self._asker.user_id)
            return [Message("snapshot", {"items": [self._caught_up(item) for item in items]})]
        download = await self._look(self._only)
        if download is None:
            return self._gone(self._only)
        self._status = download.status
        download = self._caught_up(download)
        return [Message("snapshot", download)] + ([Message("done", download)] if self.over else [])

    async def _check(self) -> list[Message]:
        """Looks whether the download changed without a word."""
        if self._only is None:
            return []
        download = await self._look(self._only)
        if download and download.status == self._status:
            return []
        return self._changed(self._only, download)

    async def _told(self, event: Event) -> list[Message]:
        repeated = event.id and self._seen and order(event.id) <= order(self._seen)
        if repeated or self.over or self._only not in (None, event.download):
            return []
        self._seen = event.id or self._seen
        if event.type == "progress":
            return self._moved(event)
        return self._changed(event.download, await self._look(event.download), event.id)

    def _changed(self, id: UUID, download: Download | None, event_id: str = "") -> list[Message]:
        if download is None:
            return self._gone(id, event_id)
        self._status = download.status
        download = self._caught_up(download)
        if not self._is_news(download):
            return []
        ended = [Message("done", download, event_id)] if download.status in ENDED else []
        return [Message("status", download, event_id), *ended]

    def _moved(self, event: Event) -> list[Message]:
        """A progress that was overtaken by its download's end is told no more."""
        said = self._said.get(event.download)
        if said and said.status in ENDED:
            return []
        self._progress[event.download] = event.data
        return [Message("progress", event.data, event.id)]

    def _caught_up(self, download: Download) -> Download:
        """With the progress that was told already, where the row is behind it: what is told never falls."""
        if download.status not in RUNNING:
            self._progress.pop(download.id, None)
            return download
        told = self._progress.get(download.id)
        if told is None or told["percent"] <= download.progress.percent:
            return download
        progress = msgspec.convert({name: told[name] for name in Progress.__struct_fields__}, Progress)
        return msgspec.structs.replace(download, status=told["status"], progress=progress)

    def _is_news(self, download: Download) -> bool:
        """Whether anything but the progress differs from what was said before. Of several changes that are looked at
        late the first look tells the last state, and the others find nothing new."""
        now = msgspec.structs.replace(download, progress=None, queue_position=None)
        before = self._said.pop(download.id, None)
        self._said[download.id] = now
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        return now != before

    def _gone(self, id: UUID, event_id: str = "") -> list[Message]:
        self._status = "deleted"
        return [Message("done", {"id": id, "status": "deleted"}, event_id)]

    async def _look(self, id: UUID) -> Download | None:
        try:
            return await self._downloads.get(self._asker, id)
        except errors.NotFound:
            return None


async def _pump(
    request: web.Request,
    only: UUID | None,
    last_id: str | None,
    alive: Callable[[], bool],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Sends until the stream is over, the service stops or the reader is gone."""
    who, downloads, events = asker(request), request.app[DOWNLOADS], request.app[EVENTS]
    owner = await downloads.owner(who, only) if only else who.user_id
    stream = Stream(downloads, events, who, only)
    address, blocked = client_ip(request), request.app[BLOCKS].list
    with events.subscribe(owner, identity(request).credential_id, address) as box:
        # An id counts in its user's own stream; an admin who looks at another's download starts afresh.
        messages = await stream.begin(last_id if owner == who.user_id else None)
        while True:
            for message in messages:
                await send(message)
            # A block that came before the mailbox was there has closed none.
            if stream.over or box.closed or not alive() or blocked.seconds_left(address):
                return
            messages = await _patient(stream, box)


async def _patient(stream: Stream, box: Mailbox) -> list[Message]:
    """With PostgreSQL away for a while a stream stays silent; the next look makes up for it."""
    try:
        return await stream.next(box)
    except errors.Unavailable:
        box.lagged = True
        await asyncio.sleep(1)
        return []


def _check_room(request: web.Request) -> None:
    """Raises `errors.RateLimited` for one stream too many; that is no offence, as browsers come back by themselves."""
    most = request.app[CONFIG].streams_per_user
    if request.app[EVENTS].readers(identity(request).user_id) >= most:
        raise errors.RateLimited(
            f"You have {most} streams open here; close one first.", policies=["streams"], retry_after=15, offence=None
        )


async def _sse(request: web.Request, only: UUID | None) -> web.StreamResponse:
    _check_room(request)
    response = EventSourceResponse(ping_interval=HEARTBEAT_SECONDS, send_timeout=SEND_SECONDS)

    async def send(message: Message) -> None:
        await response.send(_encode(message.data).decode(), event=message.type, id=message.id or None)

    with metrics.streams_open.labels("sse").track_inprogress(), contextlib.suppress(ConnectionError, TimeoutError):
        await response.prepare(request)
        async with response:
            await response.write(f"retry: {RECONNECT_MS}\r\n\r\n".encode())
            await _pump(request, only, request.headers.get("Last-Event-ID"), response.is_connected, send)
    return response


async def _websocket(request: web.Request, only: UUID | None) -> web.StreamResponse:
    """Both directions at once: what the client says is thrown away, but that is how its going is noticed."""
    origins.check_page(request)
    if not web.WebSocketResponse().can_prepare(request):
        raise errors.Malformed("This address is for WebSockets; the request does not ask for one.")
    _check_room(request)
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=4096)
    await socket.prepare(request)

    async def send(message: Message) -> None:
        id = {"id": message.id} if message.id else {}
        async with asyncio.timeout(SEND_SECONDS):
            await socket.send_str(_encode({"type": message.type, "data": message.data} | id).decode())

    async def pump() -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _pump(request, only, request.query.get("last_event_id"), lambda: not socket.closed, send)

    with metrics.streams_open.labels("websocket").track_inprogress():
        both = [asyncio.create_task(pump()), asyncio.create_task(_listen(socket))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            outcomes = await asyncio.gather(*both, return_exceptions=True)
        await socket.close(code=_close_code(outcomes))
    return socket


def _close_code(outcomes: list[Any]) -> int:
    """1011 tells the client that the server failed, 1000 that all is well (RFC 6455, section 7.4.1)."""
    failed = any(isinstance(o, Exception) for o in outcomes)
    return 1011 if failed else 1000


async def _listen(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def events_of_one(request: web.Request) -> web.StreamResponse:
    """Watch one download as server-sent events; the stream ends after `done`."""
    return await _sse(request, await _one(request))


async def events_of_all(request: web.Request) -> web.StreamResponse:
    """Watch all your downloads as server-sent events; the stream does not end."""
    return await _sse(request, None)


async def socket_of_one(request: web.Request) -> web.StreamResponse:
    """Watch one download over a WebSocket; it is closed after `done`."""
    return await _websocket(request, await _one(request))


async def socket_of_all(request: web.Request) -> web.StreamResponse:
    """Watch all your downloads over a WebSocket."""
    return await _websocket(request, None)


async def _one(request: web.Request) -> UUID:
    """Raises `errors.NotFound` before the stream begins, while that can still be said."""
    return (await request.app[DOWNLOADS].get(asker(request), path_uuid(request, "id"))).id
