"""Media of the YouTube stand-in on the wire: ranges, throttling and everything that can go wrong with a body.

Owns which file belongs to a format (`Films`) and the answers of /videoplayback. Media faults are done here.
"""

import asyncio
import contextlib
import gzip
import re
import time
from dataclasses import dataclass, replace
from email.utils import formatdate

from aiohttp import web

from tests.fakes.youtube_faults import Change, Fault
from tests.fakes.youtube_log import Seen
from tests.fakes.youtube_media import READ, Cupboard, Media, Recipe, lengthened, padded
from tests.fakes.youtube_replies import UPLOADED_MICROSECONDS, Stream
from tests.fakes.youtube_videos import Format, Video

UPLOADED = UPLOADED_MICROSECONDS / 1_000_000
DRIP_SECONDS = 0.25
GROWTH = 65_536
ENDLESS = bytes(READ)
PACKED = gzip.compress(ENDLESS)


class Films:
    """The file of every format of every video, as it is or as it has changed, once each in memory."""

    def __init__(self, cupboard: Cupboard, contents: dict[Recipe, bytes]) -> None:
        self._cupboard = cupboard
        self._contents = contents
        self._media: dict[tuple[Recipe, int, Change], Media] = {}

    def picture(self, recipe: Recipe) -> bytes:
        return self._contents[recipe]

    async def media(self, video: Video, form: Format, change: Change = "") -> Media:
        recipe = form.recipe(video.portrait, take=int(change == "file"))
        if video.more_bytes:
            # Too many to keep them all.
            return lengthened(self._contents[recipe], recipe.suffix, video.more_bytes)
        megabytes = video.megabytes if form.short else video.megabytes / 8
        key = (recipe, int(megabytes * 1_000_000), change)
        if key not in self._media:
            self._media[key] = await self._build(*key)
        return self._media[key]

    async def streams(self, video: Video, change: Change = "") -> list[Stream]:
        return [Stream(form, await self.media(video, form, change)) for form in video.formats()]

    async def _build(self, recipe: Recipe, size: int, change: Change) -> Media:
        if recipe not in self._contents:
            self._contents[recipe] = await asyncio.to_thread(self._cupboard.get, recipe)
        content = self._contents[recipe]
        if change == "length":
            size = max(size, len(content)) + GROWTH
        elif change == "short":
            size //= 8
        media = padded(content, recipe.suffix, size)
        return replace(media, version=change and f"-{change}", twisted=change == "bytes")


@dataclass(frozen=True)
class Span:
    """The part of a file that was asked for: first byte, the byte after the last, and how it was asked."""

    start: int
    stop: int
    status: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def find_span(request: web.BaseRequest, media: Media, fault: Fault) -> Span | None:
    """What `Range`, or `range=` in the address (answered with 200), asks for. None when it can't be had."""
    header, query = request.headers.get("Range"), request.query.get("range")
    condition = media.etag if fault.media_ignores == "if_range" else request.headers.get("If-Range", media.etag)
    if condition != media.etag or fault.media_ignores == "range":
        header = None
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header) if header else None
    status = 206 if match else 200
    match = match or re.fullmatch(r"(\d+)-(\d*)", query or "")
    if match is None:
        return Span(0, media.size, 200)
    start, stop = int(match[1]), min(int(match[2] or media.size - 1) + 1, media.size)
    return Span(start, stop, status) if start < stop else None


def open_answer(media: Media, span: Span, mime: str, fault: Fault) -> web.StreamResponse:
    """The head of an answer, with the lies about its length that `fault` asks for."""
    answer = web.StreamResponse(status=200 if fault.media_endless else span.status)
    answer.content_type = mime
    answer.headers.update({"Accept-Ranges": "bytes", **_validators(media, fault)})
    if fault.media_bomb:
        answer.headers["Content-Encoding"] = "gzip"
    if fault.media_endless or fault.media_bomb:
        answer.enable_chunked_encoding()
        return answer
    answer.content_length = max(0, span.length + fault.media_length_off)
    if span.status == 206:
        answer.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{media.size}"
    return answer


def _validators(media: Media, fault: Fault) -> dict[str, str]:
    """By what clients tell versions of a file apart, as far as this server gives it away."""
    if fault.media_validators == "none":
        return {}
    modified = {"Last-Modified": formatdate(UPLOADED + 3600 * bool(media.version), usegmt=True)}
    return modified if fault.media_validators == "modified" else {"ETag": media.etag, **modified}


class Sender:
    """Sends one body. `seen.sent` grows as it goes, so that the log tells the truth however it ends."""

    def __init__(self, answer: web.StreamResponse, fault: Fault, seen: Seen) -> None:
        self.answer = answer
        self.fault = fault
        self.seen = seen
        self.began = time.monotonic()

    async def send(self, media: Media, span: Span) -> None:
        """Returns when the body is out, the fault has cut it, or the client has gone."""
        if self.fault.media_cut_after or self.fault.media_length_off:
            self.answer.force_close()
        with contextlib.suppress(ConnectionError):
            if self.fault.media_bomb:
                await self._explode()
            while length := self._next_length(span):
                at = span.start + self.seen.sent
                await self._write(ENDLESS[:length] if at >= span.stop else media.read(at, length))
        if self.fault.media_stall_after and self.seen.sent >= self.fault.media_stall_after:
            # Silence on an open connection; the handler is cancelled when the client leaves.
            await asyncio.Event().wait()

    async def _explode(self) -> None:
        while True:
            await self._write(PACKED)

    def _next_length(self, span: Span) -> int:
        """How much may go out now: none at the end and where the fault wants a break."""
        left = READ if self.fault.media_endless else span.length - self.seen.sent
        if self.fault.media_throttle:
            left = min(left, max(1024, self.fault.media_throttle // 10))
        if self.fault.media_drip_after and self.seen.sent >= self.fault.media_drip_after:
            return min(1, left)
        fault = self.fault
        breaks = [at for at in (fault.media_stall_after, fault.media_cut_after, fault.media_drip_after) if at]
        return min([READ, left, *(max(0, at - self.seen.sent) for at in breaks)])

    async def _write(self, piece: bytes) -> None:
        await self.answer.write(piece)
        self.seen.sent += len(piece)
        # Always gives way: a write to a client that has gone returns at once, and only the loop can tell us.
        await asyncio.sleep(self._ahead())

    def _ahead(self) -> float:
        """Seconds by which a throttled or dripping body is early."""
        if self.fault.media_drip_after and self.seen.sent >= self.fault.media_drip_after:
            return DRIP_SECONDS
        if not self.fault.media_throttle:
            return 0
        return max(0, self.began + self.seen.sent / self.fault.media_throttle - time.monotonic())
