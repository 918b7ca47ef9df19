"""Answers that are a file: ranges, validators and a name that any client can save under.

aiohttp's own file answer takes its ETag from the clock and applies a range even when `If-Range` names another
representation, which lets a resumed transfer glue two files together; here the tag is the content's hash.
"""

import asyncio
import logging
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from aiohttp import hdrs, web

from ytdl import errors, metrics
from ytdl.api import etags
from ytdl.record import File

# A client that takes less than some 8 KiB a second is let go: it can come back for the rest with a range.
PIECE_BYTES = 2**20
PIECE_SECONDS = 120.0
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
# Also what quoting allows but clients' parsers stumble over.
_ASCII_NAME = re.compile(r'[^\x20-\x7e]|["\\%;,]')


log = logging.getLogger("ytdl.files")


class Unsatisfiable(Exception):
    """No byte of the file lies in the range that was asked for."""


def span(range_header: str | None, if_range: str | None, tag: str, size: int) -> tuple[int, int] | None:
    """First byte and count for a single range, `None` for the whole file (RFC 9110, sections 13.1.5 and 14.2).

    A range out of its grammar, several ranges, or an `If-Range` that names anything but `tag` mean the whole file.
    Raises `Unsatisfiable`.
    """
    match = _RANGE.fullmatch(range_header or "")
    if not match or match[0] == "bytes=-" or (if_range is not None and if_range.strip() != tag):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start, end = size - length, size
    else:
        start, end = int(first), min(int(last or size) + 1, size)
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise Unsatisfiable
    return start, end - start


def disposition(name: str) -> str:
    """`Content-Disposition` for any title: plain ASCII for old clients, the full name in UTF-8 (RFC 6266, RFC 8187)."""
    return f"attachment; filename=\"{_ASCII_NAME.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


class FileAnswer(web.StreamResponse):
    """One immutable file, sent by `send`: what is at `path`, as it was when it was finished."""

    def __init__(self, path: Path, file: File) -> None:
        super().__init__()
        self._path = path
        self._size = file.size_bytes
        self._tag = f'"{file.sha256}"'
        self.content_type = file.content_type
        self.headers[hdrs.ETAG] = self._tag
        self.headers[hdrs.ACCEPT_RANGES] = "bytes"
        self.headers[hdrs.CONTENT_DISPOSITION] = disposition(file.name)
        self.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
        self.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; base-uri 'none'; frame-ancestors 'none'"

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Everything, body included. Raises `errors.Gone`, before anything was sent, when there is no file any more."""
        try:
            file = await asyncio.to_thread(self._path.open, "rb")
        except FileNotFoundError:
            raise errors.Gone("The file is no longer kept.") from None
        try:
            await self._send(request, file)
        finally:
            await asyncio.to_thread(file.close)
        return self

    async def _send(self, request: web.Request, file: BinaryIO) -> None:
        size = await asyncio.to_thread(file.seek, 0, 2)
        if size != self._size:
            log.error("downloads.file_damaged", extra={"file": self._path.name, "bytes": size, "expected": self._size})
            raise errors.Gone("The file was damaged on the server and is no longer handed out.")
        if etags.matches(request.headers.get(hdrs.IF_NONE_MATCH), self._tag):
            self.set_status(304)
            await self.prepare(request)
            return
        part = self._part(request, size)
        offset, count = part or (0, size)
        if part:
            self.set_status(206)
            self.headers[hdrs.CONTENT_RANGE] = f"bytes {offset}-{offset + count - 1}/{size}"
        self.content_length = count
        await self.prepare(request)
        if request.method != hdrs.METH_HEAD:
            await self._transfer(request, file, offset, count)

    def _part(self, request: web.Request, size: int) -> tuple[int, int] | None:
        try:
            return span(request.headers.get(hdrs.RANGE), request.headers.get(hdrs.IF_RANGE), self._tag, size)
        except Unsatisfiable:
            raise web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"}) from None

    async def _transfer(self, request: web.Request, file: BinaryIO, offset: int, count: int) -> None:
        if request.transport is None:
            raise ConnectionResetError("The client went away.")
        end = offset + count
        for start in range(offset, end, PIECE_BYTES):
            await self._send_piece(request.transport, file, start, min(PIECE_BYTES, end - start))
        await self.write_eof()

    async def _send_piece(self, transport: asyncio.Transport, file: BinaryIO, offset: int, count: int) -> None:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                await asyncio.get_running_loop().sendfile(transport, file, offset, count)
        except TimeoutError:
            metrics.http_too_slow.labels("file").inc()
            transport.abort()
            raise ConnectionResetError("The client takes less than may be waited for.") from None
