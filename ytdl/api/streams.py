"""Live progress: server-sent events and their WebSocket twins.

A stream begins with a snapshot, unless the reader names the last event it saw and everything since is still known.
Each reader has a bounded mailbox; one who reads too slowly skips to the latest state. Once in a quarter of a minute,
and whenever a word may have been lost, a stream asks the database whether the session or API key that opened it is
still good, and ends with it; a stream of one download then reads its state too, where nothing was told.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from ytdl import crypto, errors, metrics
from ytdl.api import origins
from ytdl.api.downloads import asker
from ytdl.api.http import client_ip, path_uuid
from ytdl.api.http import who as identity
from ytdl.api.keys import AUTH, BLOCKS, CHALLENGE, CONFIG, DOWNLOADS, EVENTS
from ytdl.events import Event, Mailbox, Reader, order
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


@dataclass(frozen=True)
class Watched:
    """One download, or without it all of the owner's."""

    owner: UUID
    only: UUID | None = None


class Stream:
    """What one reader is told of what is watched, from a mailbox of its own."""

    def __init__(self, request: web.Request, watched: Watched, box: Mailbox) -> None:
        self._downloads = request.app[DOWNLOADS]
        self._events = request.app[EVENTS]
        self._auth = request.app[AUTH]
        self._blocks = request.app[BLOCKS].list
        self._identity = identity(request)
        self._asker = asker(request)
        self._owner = watched.owner
        self._only = watched.only
        self._box = box
        # When it is next looked whether the reader may go on; before the first message that was done already.
        self._due = time.monotonic() + HEARTBEAT_SECONDS
        self._status: str | None = None
        self._seen = ""
        # What was said last of each download, so that late looks do not say it again.
        self._said: OrderedDict[UUID, Download] = OrderedDict()
        # Events run ahead of the rows, which are written once a second.
        self._progress: dict[UUID, dict[str, Any]] = {}

    @property
    def over(self) -> bool:
        """Told to its end, or ended from outside. A block that came before the mailbox was there has closed none."""
        return self._told_all or self._box.closed or bool(self._blocks.seconds_left(self._box.address))

    @property
    def _told_all(self) -> bool:
        return self._only is not None and self._status in ENDED | {"deleted"}

    async def begin(self, last_id: str | None) -> list[Message]:
        """What was missed since `last_id`, or a snapshot. An id counts in its user's own stream; an admin who looks at
        another's download starts afresh."""
        own = self._owner == self._asker.user_id
        missed = await self._events.since(self._owner, last_id) if last_id and own else None
        if missed is None:
            return await self._snapshot()
        messages = [message for event in missed for message in await self._told(event)]
        return messages + (await self._check() if not self._told_all else [])

    async def next(self) -> list[Message]:
        """Waits for news; empty after a silence in which nothing changed, and for a reader who may read no more."""
        box = self._box
        events = await box.take(max(0.0, self._due - time.monotonic()))
        if not box.closed and not await self._may_go_on():
            box.close()
        if box.closed:
            return []
        if box.lagged:
            box.lagged = False
            return await self._snapshot()
        if not events:
            return await self._check()
        return [message for event in events for message in await self._told(event)]

    def lose(self) -> None:
        """What was taken from the mailbox could not be told."""
        self._box.lagged = True

    async def _may_go_on(self) -> bool:
        """Looks once in a heartbeat, and where the word that would have ended the stream may have been lost."""
        lagged = self._box.lagged
        if not lagged and time.monotonic() < self._due:
            return True
        try:
            return await self._auth.is_live(self._identity)
        except errors.Unavailable:
            if lagged:
                raise
            # Nobody can be shut out either while the database is away.
            return True
        finally:
            # From its end on, as what was taken meanwhile is told before the next.
            self._due = time.monotonic() + HEARTBEAT_SECONDS

    async def _snapshot(self) -> list[Message]:
        if self._only is None:
            items = await self._downloads.open_of(self._asker.user_id)
            return [Message("snapshot", {"items": [self._caught_up(item) for item in items]})]
        download = await self._look(self._only)
        if download is None:
            return self._gone(self._only)
        self._status = download.status
        download = self._caught_up(download)
        return [Message("snapshot", download)] + ([Message("done", download)] if self._told_all else [])

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
        if repeated or self._told_all or self._only not in (None, event.download):
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


@contextlib.asynccontextmanager
async def _opened(request: web.Request, watched: Watched) -> AsyncIterator[Stream]:
    """Raises `errors.RateLimited` for one stream too many, which is no offence, as browsers come back by themselves;
    and `errors.Unauthorized` where the session or key ended before there was a mailbox that could be closed."""
    who, events, most = identity(request), request.app[EVENTS], request.app[CONFIG].streams_per_user
    if events.open_streams(who.user_id) >= most:
        raise errors.RateLimited(
            f"You have {most} streams open here; close one first.", policies=["streams"], retry_after=15, offence=None
        )
    # Nothing else runs between the count and the mailbox that is counted.
    with events.subscribe(watched.owner, Reader(who.user_id, who.credential_id, client_ip(request))) as box:
        if not await request.app[AUTH].is_live(who):
            request[CHALLENGE] = ', error="invalid_token"'
            raise errors.Unauthorized(crypto.NOT_VALID)
        yield Stream(request, watched, box)


async def _pump(
    stream: Stream, last_id: str | None, alive: Callable[[], bool], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Sends until the stream is over, the service stops or the reader is gone."""
    messages = await stream.begin(last_id)
    while True:
        for message in messages:
            await send(message)
        if stream.over or not alive():
            return
        messages = await _patient(stream)


async def _patient(stream: Stream) -> list[Message]:
    """With PostgreSQL away for a while a stream stays silent; the next look makes up for it."""
    try:
        return await stream.next()
    except errors.Unavailable:
        stream.lose()
        await asyncio.sleep(1)
        return []


async def _sse(request: web.Request, watched: Watched) -> web.StreamResponse:
    response = EventSourceResponse(ping_interval=HEARTBEAT_SECONDS, send_timeout=SEND_SECONDS)

    async def send(message: Message) -> None:
        await response.send(_encode(message.data).decode(), event=message.type, id=message.id or None)

    async with _opened(request, watched) as stream:
        with metrics.streams_open.labels("sse").track_inprogress(), contextlib.suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            async with response:
                await response.write(f"retry: {RECONNECT_MS}\r\n\r\n".encode())
                await _pump(stream, request.headers.get("Last-Event-ID"), response.is_connected, send)
    return response


async def _websocket(request: web.Request, watched: Watched) -> web.StreamResponse:
    origins.check_page(request)
    if not web.WebSocketResponse().can_prepare(request):
        raise errors.Malformed("This address is for WebSockets; the request does not ask for one.")
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=4096)
    async with _opened(request, watched) as stream:
        await socket.prepare(request)
        with metrics.streams_open.labels("websocket").track_inprogress():
            code = await _converse(socket, stream, request.query.get("last_event_id"))
    await socket.close(code=code)
    return socket


async def _converse(socket: web.WebSocketResponse, stream: Stream, last_id: str | None) -> int:
    """Both directions at once: what the client says is thrown away, but that is how its going is noticed. Returns the
    code to close with."""

    async def send(message: Message) -> None:
        id = {"id": message.id} if message.id else {}
        async with asyncio.timeout(SEND_SECONDS):
            await socket.send_str(_encode({"type": message.type, "data": message.data} | id).decode())

    async def pump() -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _pump(stream, last_id, lambda: not socket.closed, send)

    both = [asyncio.create_task(pump()), asyncio.create_task(_listen(socket))]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        outcomes = await asyncio.gather(*both, return_exceptions=True)
    return _close_code(outcomes)


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
    return await _sse(request, Watched(identity(request).user_id))


async def socket_of_one(request: web.Request) -> web.StreamResponse:
    """Watch one download over a WebSocket; it is closed after `done`."""
    return await _websocket(request, await _one(request))


async def socket_of_all(request: web.Request) -> web.StreamResponse:
    """Watch all your downloads over a WebSocket."""
    return await _websocket(request, Watched(identity(request).user_id))


async def _one(request: web.Request) -> Watched:
    """Raises `errors.NotFound` before the stream begins, while that can still be said."""
    id = path_uuid(request, "id")
    return Watched(await request.app[DOWNLOADS].owner(asker(request), id), id)
