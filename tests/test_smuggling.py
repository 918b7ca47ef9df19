"""Requests of which two readers may see different ends: one hidden in another's body must never be served.

Each stands once before the service itself and once before nginx, which is one more reader. What is not understood in
one way only is refused (RFC 9112, sections 6.3 and 11.2).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from tests.front import fronting, needs_nginx
from ytdl import config
from ytdl.api import http, serving
from ytdl.api.http import Route
from ytdl.api.keys import CONFIG

# Two digits in the place of NN tell which case a request belongs to, so that all are sent at once.
HIDDEN = b"GET /api/v1/hidden/NN HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"0\r\n\r\n"
LINE = b"POST /api/v1/open/NN"
SECONDS = 2.0
LATE_SECONDS = 20.0


def post(
    *headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1", line: bytes = b"POST /api/v1/open/NN"
) -> bytes:
    return b"\r\n".join([line + b" " + version, b"Host: a", *headers]) + b"\r\n\r\n" + body


def length(n: int) -> bytes:
    return b"Content-Length: %d" % n


ALL, FRAMED = len(CHUNKED + HIDDEN), CHUNKED + HIDDEN
TRANSFER = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
BREAK = b"?a=%0d%0a%0d%0aGET%20/api/v1/hidden/NN%20HTTP/1.1"
CORPUS = {
    "both, length first": post(length(ALL), TRANSFER, body=FRAMED),
    "both, chunked first": post(TRANSFER, length(ALL), body=FRAMED),
    "both, the length short": post(length(4), TRANSFER, body=b"29\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    "two lengths that differ": post(length(0), length(len(HIDDEN)), body=HIDDEN),
    "two lengths in one": post(b"Content-Length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "a length with a sign": post(b"Content-Length: +%d" % len(HIDDEN), body=HIDDEN),
    "a negative length": post(b"Content-Length: -1", body=HIDDEN),
    "a length with a fraction": post(b"Content-Length: 0.0", body=HIDDEN),
    "a length in hexadecimal": post(b"Content-Length: 0x0", body=HIDDEN),
    "a length with an underscore": post(b"Content-Length: 4_2", body=HIDDEN),
    "a length in other digits": post("Content-Length: ٤٢".encode(), body=HIDDEN),
    "a length beyond 64 bits": post(b"Content-Length: 18446744073709551616", body=HIDDEN),
    "an empty length": post(b"Content-Length:", body=HIDDEN),
    "a space before the colon": post(b"Content-Length : %d" % len(HIDDEN), length(0), body=HIDDEN),
    "a space before the colon of chunked": post(length(0), b"Transfer-Encoding : chunked", body=FRAMED),
    "a tab before chunked": post(length(ALL), b"Transfer-Encoding:\tchunked", body=FRAMED),
    "a vertical tab before chunked": post(length(ALL), b"Transfer-Encoding:\x0bchunked", body=FRAMED),
    "a NUL in chunked": post(length(ALL), b"Transfer-Encoding: chun\0ked", body=FRAMED),
    "chunked misspelt": post(length(ALL), b"Transfer-Encoding: xchunked", body=FRAMED),
    "chunked in quotes": post(length(ALL), b'Transfer-Encoding: "chunked"', body=FRAMED),
    "chunked, then another": post(length(ALL), b"Transfer-Encoding: chunked, identity", body=FRAMED),
    "another, then chunked": post(length(ALL), b"Transfer-Encoding: gzip, chunked", body=FRAMED),
    "chunked twice": post(TRANSFER, TRANSFER, body=FRAMED),
    "chunked and identity": post(TRANSFER, b"Transfer-Encoding: identity", length(ALL), body=FRAMED),
    "chunked on a folded line": post(length(ALL), b"Transfer-Encoding:\r\n chunked", body=FRAMED),
    "a header on a folded line": post(b"X-Long: a\r\n Content-Length: 0", length(ALL), TRANSFER, body=FRAMED),
    "chunked behind a bare LF": post(length(ALL), b"X: y\nTransfer-Encoding: chunked", body=FRAMED),
    "chunked behind a bare CR": post(length(ALL), b"X: y\rTransfer-Encoding: chunked", body=FRAMED),
    "an underscore for a dash": post(b"Content_Length: 0", length(ALL), TRANSFER, body=FRAMED),
    "a name with a space": post(b"X Y: z", length(ALL), TRANSFER, body=FRAMED),
    "a line without a colon": post(b"Content-Length 0", length(ALL), TRANSFER, body=FRAMED),
    "a header before the host": b"POST /api/v1/open/NN HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n"
    + length(ALL) + b"\r\n\r\n" + FRAMED,
    "chunked in HTTP/1.0": post(TRANSFER, length(ALL), b"Connection: keep-alive", body=FRAMED, version=b"HTTP/1.0"),
    "HTTP/0.9": b"GET /api/v1/open/NN\r\n" + HIDDEN,
    "a version of its own": post(length(ALL), TRANSFER, body=FRAMED, version=b"HTTP/1.10"),
    "two hosts": post(b"Host: b", length(ALL), TRANSFER, body=FRAMED),
    "a chunk with a sign": post(TRANSFER, body=b"+0\r\n\r\n" + HIDDEN),
    "a negative chunk": post(TRANSFER, body=b"-1\r\n\r\n" + HIDDEN),
    "a chunk in 0x": post(TRANSFER, body=b"0x0\r\n\r\n" + HIDDEN),
    "a chunk with an underscore": post(TRANSFER, body=b"0_0\r\n\r\n" + HIDDEN),
    "a chunk beyond 64 bits": post(TRANSFER, body=b"10000000000000000\r\n\r\n" + HIDDEN),
    "a chunk longer than it says": post(TRANSFER, body=b"1\r\nabc\r\n0\r\n\r\n" + HIDDEN),
    "a chunk without its end": post(TRANSFER, body=b"3\r\nabc0\r\n\r\n" + HIDDEN),
    "a chunk that ends in LF": post(TRANSFER, body=b"3\nabc\n0\n\n" + HIDDEN),
    "an extension with a bare CR": post(TRANSFER, body=b"0;a\rb\r\n\r\n" + HIDDEN),
    "an extension with a bare LF": post(TRANSFER, body=b"2;\nxx\r\n0\r\n\r\n" + HIDDEN),
    # CVE-2026-69243 of aiohttp: the body of an upgrade that is declined was read as the next request.
    "an upgrade that nobody makes": post(*UPGRADE, b"Upgrade: websocket", length(len(HIDDEN)), body=HIDDEN),
    "an upgrade to h2c": post(*UPGRADE, b"Upgrade: h2c", length(len(HIDDEN)), body=HIDDEN),
    "the body of a GET": post(length(len(HIDDEN)), body=HIDDEN, line=b"GET /api/v1/open/NN"),
    "the body of a HEAD": post(length(len(HIDDEN)), body=HIDDEN, line=b"HEAD /api/v1/open/NN"),
    "an expectation": post(b"Expect: 100-continue", length(len(HIDDEN)), body=HIDDEN),
    "an expectation of its own": post(b"Expect: 100-continue, x", length(len(HIDDEN)), body=HIDDEN),
    "an absolute address": post(length(len(HIDDEN)), body=HIDDEN, line=b"POST http://a/api/v1/open/NN"),
    "a line break in the address": post(length(0), line=b"POST /api/v1/open/NN" + BREAK),
}  # fmt: skip
# Of these the hidden text is a request of its own by every reader's count: behind an end that both see.
OPEN = {
    "one after another": post(length(2), body=b"ab" + HIDDEN),
    "behind the last chunk": post(TRANSFER, body=FRAMED),
}


@dataclass
class Backend:
    """A service; `seen` has what it was asked for, by case."""

    address: str = ""
    seen: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    found = Backend()

    async def opened(request: web.Request) -> str:
        await request.read()
        found.seen[request.match_info["case"]].append("open")
        return "open"

    async def hidden(request: web.Request) -> str:
        found.seen[request.match_info["case"]].append("hidden")
        return "hidden"

    app = http.application()
    app[CONFIG] = config.Config()
    rows = [Route(method, "/open/{case}", opened, "anyone", returns=str) for method in ("GET", "POST")]
    http.register(app, (*rows, Route("GET", "/hidden/{case}", hidden, "anyone", returns=str)))
    runner = serving.Runner(app)
    await runner.setup()
    found.address = await serving.listen(runner, "127.0.0.1", 0)
    yield found
    await runner.cleanup()


async def send(address: str, request: bytes, got: bytearray) -> None:
    """Adds what comes back, until the connection ends."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError), contextlib.closing(writer):
        writer.write(request)
        while part := await reader.read(65536):
            got += part


async def send_all(
    address: str, cases: dict[str, bytes], complete: Callable[[dict[str, bytearray]], bool], seconds: float = SECONDS
) -> dict[str, bytearray]:
    """What came back for each within `seconds`, or until all connections had ended. Where that is not `complete` yet,
    the machine may have stood still: then it is waited for a while longer."""
    got = {name: bytearray() for name in cases}
    requests = [request.replace(b"NN", b"%02d" % n) for n, request in enumerate(cases.values())]
    tasks = [asyncio.create_task(send(address, *each)) for each in zip(requests, got.values(), strict=True)]
    await asyncio.wait(tasks, timeout=seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LATE_SECONDS):
            while not complete(got):  # noqa: ASYNC110 - several readers and the service bring it about
                await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        assert end is None or isinstance(end, asyncio.CancelledError), end
    return got


def seen(backend: Backend, cases: dict[str, bytes]) -> dict[str, list[str]]:
    return {name: backend.seen[f"{n:02}"] for n, name in enumerate(cases)}


def serves_what_is_open(backend: Backend) -> bool:
    return set(map(tuple, seen(backend, OPEN).values())) == {("open", "hidden")}


async def test_what_follows_an_end_that_all_see_is_served(backend: Backend) -> None:
    await send_all(backend.address, OPEN, lambda got: serves_what_is_open(backend), 0.1)
    assert serves_what_is_open(backend)


async def test_a_hidden_request_is_never_served(backend: Backend) -> None:
    got = await send_all(backend.address, CORPUS, lambda got: True)
    assert {name: got[name] for name, asked in seen(backend, CORPUS).items() if "hidden" in asked} == {}
    assert all(answer.startswith(b"HTTP/1.") or not answer for answer in got.values())


@needs_nginx
async def test_a_service_behind_nginx_is_never_asked_for_what_nginx_did_not_see(backend: Backend) -> None:
    """nginx reads some of them leniently and sends on what it understood; then it also knows of both answers."""

    def unanswered(got: dict[str, bytearray]) -> dict[str, bytearray]:
        asked = seen(backend, OPEN | CORPUS)
        return {name: text for name, text in got.items() if text.count(b"X-Answered-By") < len(asked[name])}

    def complete(got: dict[str, bytearray]) -> bool:
        return serves_what_is_open(backend) and not unanswered(got)

    async with fronting([backend.address]) as front:
        got = await send_all(front.addresses[0], OPEN | CORPUS, complete)
    assert unanswered(got) == {} and serves_what_is_open(backend)
