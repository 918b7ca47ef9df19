"""Clients that dawdle: with a head, a body, an answer or a file. Each is let go, and the others notice nothing."""

import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from ytdl import config, metrics
from ytdl.api import decoding, files, http, serving
from ytdl.api.files import FileAnswer
from ytdl.api.http import Route
from ytdl.api.keys import CONFIG
from ytdl.record import File

SIZE = 48 * 2**20
SECONDS = 0.4


class Text(msgspec.Struct, forbid_unknown_fields=True):
    text: str


async def echo(request: web.Request, body: Text) -> Text:
    return body


async def long(request: web.Request) -> Text:
    return Text("x" * SIZE)


@pytest.fixture
async def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    for module, name in ((serving, "HEAD"), (serving, "ANSWER"), (files, "PIECE"), (decoding, "BODY")):
        monkeypatch.setattr(module, f"{name}_SECONDS", SECONDS)
    content = bytes(SIZE)
    (tmp_path / "film").write_bytes(content)
    kept = File("film.mp4", SIZE, "video/mp4", hashlib.sha256(content).hexdigest(), "/")

    async def film(request: web.Request) -> web.StreamResponse:
        return await FileAnswer(tmp_path / "film", kept).send(request)

    app = http.application()
    app[CONFIG] = config.Config()
    http.register(app, (
        Route("POST", "/echo", echo, "anyone", body=Text, returns=Text),
        Route("GET", "/long", long, "anyone", returns=Text),
        Route("GET", "/film", film, "anyone", media="video/mp4", stream=True),
    ))  # fmt: skip
    runner = serving.Runner(app)
    await runner.setup()
    yield int((await serving.listen(runner, "127.0.0.1", 0)).rpartition(":")[2])
    await runner.cleanup()


def slow(what: str) -> float:
    return float(metrics.http_too_slow.labels(what)._value.get())


async def dawdle(port: int, begin: bytes, piece: bytes = b"") -> tuple[bytes, float]:
    """Sends `begin`, then a byte of `piece` now and then; what came until the server hung up, and after how long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.monotonic()
    writer.write(begin)
    answer = asyncio.create_task(heard(reader))
    for byte in piece:
        done, _ = await asyncio.wait([answer], timeout=SECONDS / 8)
        if done:
            break
        writer.write(bytes([byte]))
    got = await asyncio.wait_for(answer, 20)
    writer.close()
    return got, time.monotonic() - begun


async def heard(reader: asyncio.StreamReader) -> bytes:
    """To the end, also where that is a reset: a byte of ours was under way when the server closed."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := await reader.read(2**16):
            got += part
    return got


def taking_nothing(port: int, path: str) -> socket.socket:
    """A client with little room that asks and then does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET /api/v1{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return connection


def left_of(connection: socket.socket, seconds: float = 0.0) -> int:
    """Bytes that come until the connection ends, taken evenly over so many seconds."""
    got, begun = 0, time.monotonic()
    with connection:
        connection.settimeout(20)
        try:
            while part := connection.recv(2**20):
                got += len(part)
                time.sleep(max(0.0, begun + seconds * got / SIZE - time.monotonic()))
        except ConnectionResetError:
            pass
    return got


async def test_a_head_that_comes_by_the_byte_is_not_waited_for(port: int) -> None:
    before = slow("head")
    got, seconds = await dawdle(port, b"GET /api/v1/long HTTP/1.1\r\n", b"X-Long: " + b"a" * 400)
    assert (got, slow("head")) == (b"", before + 1)
    # All of it would take twenty.
    assert seconds < 10


async def test_a_second_head_is_not_waited_for_either(port: int) -> None:
    head = b"POST /api/v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    before = slow("head")
    got, _ = await dawdle(port, head + b'{"text":"ab"}' + b"GET / HTTP/1.1\r\nX: a", b"a" * 100)
    assert got.startswith(b"HTTP/1.1 200") and slow("head") == before + 1


async def test_a_head_in_pieces_that_comes_in_time_is_answered(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    request = b"GET /api/v1/nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    monkeypatch.setattr(serving, "HEAD_SECONDS", 30.0)
    got, _ = await dawdle(port, request[:-15], request[-15:])
    assert got.startswith(b"HTTP/1.1 404")


async def test_a_body_that_comes_by_the_byte_is_not_waited_for(port: int) -> None:
    before = slow("body")
    head = b"POST /api/v1/echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    got, _ = await dawdle(port, head, b'{"text":"' + b"a" * 100)
    assert got.startswith(b"HTTP/1.1 400") and b"did not arrive within" in got
    assert slow("body") == before + 1


@pytest.mark.parametrize(("path", "what"), [("/long", "answer"), ("/film", "file")])
async def test_an_answer_that_is_not_taken_is_not_held(port: int, path: str, what: str) -> None:
    before = slow(what)
    connection = taking_nothing(port, path)
    async with asyncio.timeout(30):
        while slow(what) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert 0 < await asyncio.to_thread(left_of, connection) < SIZE


async def test_a_file_is_taken_by_a_client_that_reads_slowly_but_steadily(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is limited is a piece of it, of which there are 48."""
    monkeypatch.setattr(files, "PIECE_SECONDS", 2.0)
    before, begun = slow("file"), time.monotonic()
    assert await asyncio.to_thread(left_of, taking_nothing(port, "/film"), 2.5) > SIZE
    assert slow("file") == before and time.monotonic() - begun > files.PIECE_SECONDS


async def test_others_are_answered_while_some_dawdle(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 60.0)
    dawdling = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
    for _, writer in dawdling:
        writer.write(b"GET / HTTP/1.1\r\nX: a")
    got, _ = await dawdle(port, b"GET /api/v1/nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 404") and not any(reader.at_eof() for reader, _ in dawdling)
    for _, writer in dawdling:
        writer.close()
        await writer.wait_closed()
