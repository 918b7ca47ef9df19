"""The links on which things go wrong, and what is read from the bytes that they carry."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import Direction, Link, Toxics, tcp
from tests.chaos.wire import CONFIRMING, Confirmations, Ear, Names, Said


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    """A link to a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link(tcp(server.sockets[0].getsockname()[1])) as link:
        yield link


@asynccontextmanager
async def talking(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes = b"hello") -> bytes:
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), 30)


async def test_a_link_carries_both_ways_and_tells_its_listener() -> None:
    heard: list[tuple[Direction, bytes]] = []
    async with linked() as link, talking(link) as (reader, writer):
        link.listener = lambda _, way, data: heard.append((way, data))
        assert await echoed(reader, writer) == b"hello"
    assert heard == [("up", b"hello"), ("down", b"hello")]


async def test_latency_slices_and_a_rate_change_no_byte() -> None:
    async with linked() as link, talking(link) as (reader, writer):
        link.toxics = Toxics(latency=0.1, slice=3, rate=1000)
        began = time.monotonic()
        assert await echoed(reader, writer, b"0123456789" * 10) == b"0123456789" * 10
        # Twice the latency, and a hundred bytes each way at a thousand a second.
        assert time.monotonic() - began > 0.35


async def test_a_reset_ends_what_is_open_and_lets_new_ones_in() -> None:
    async with linked() as link, talking(link) as (reader, writer):
        await echoed(reader, writer)
        assert link.reset() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)
        async with talking(link) as (again, anew):
            assert await echoed(again, anew) == b"hello"


async def test_a_shut_link_lets_nobody_in_until_it_is_healed() -> None:
    async with linked() as link:
        link.shut()
        async with talking(link) as (reader, writer):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await echoed(reader, writer)
        link.heal()
        async with talking(link) as (reader, writer):
            assert await echoed(reader, writer) == b"hello"


async def test_a_black_hole_swallows_and_the_connection_does_not_survive_it() -> None:
    async with linked() as link, talking(link) as (reader, writer):
        await echoed(reader, writer)
        link.toxics = Toxics(hole=True)
        writer.write(b"lost")
        async with asyncio.timeout(30):
            while not any(pair.lost for pair in link._pairs):  # noqa: ASYNC110 - what it waits for is the network
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        link.heal()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 30)


async def test_a_connection_that_said_nothing_survives_a_black_hole() -> None:
    async with linked() as link, talking(link) as (reader, writer):
        await echoed(reader, writer)
        link.toxics = Toxics(hole=True)
        link.heal()
        assert await echoed(reader, writer) == b"hello"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


def row(job: bytes) -> bytes:
    return message(b"D", struct.pack(">hi", 4, len(job)) + job + struct.pack(">i", -1) * 3)


def head(names: list[bytes]) -> bytes:
    return message(b"T", struct.pack(">h", len(names)) + b"".join(name + b"\0" + bytes(18) for name in names))


def answers(names: list[bytes], *jobs: bytes) -> bytes:
    return head(names) + b"".join(row(job) for job in jobs) + message(b"C", b"UPDATE\0") + message(b"Z", b"I")


def heard_in_pieces(data: bytes, size: int, kind: type[Confirmations] | type[Names]) -> list[tuple[str, set[int]]]:
    said: list[Said] = []
    listener = kind("0.1", said.append)
    for at in range(0, len(data), size):
        listener.feed(data[at : at + size])
    return [(each.kind, set(each.jobs)) for each in said]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_confirmations_are_read_in_whatever_pieces_they_come(size: int) -> None:
    data = answers(CONFIRMING, b"12", struct.pack(">q", 34)) + answers([b"id"], b"56") + answers(CONFIRMING)
    assert heard_in_pieces(data, size, Confirmations) == [("confirmed", {12, 34}), ("confirmed", set())]


def command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_beats_are_read_in_whatever_pieces_they_come(size: int) -> None:
    beat = command("EVALSHA", "sha", "1", "p:queue", "beat", "7", "10", "3000", "12", "ann", "5", "34", "ben", "6")
    data = command("PING") + beat + command("EVALSHA", "sha", "1", "p:queue", "drop", "7", "10", "12") + beat
    assert heard_in_pieces(data, size, Names) == [("named", {12, 34})] * 2


def test_an_ear_keeps_connections_apart() -> None:
    said: list[Said] = []
    ear = Ear(lambda: "0.1", said.append, "postgres")
    whole = answers(CONFIRMING, b"12")
    for number in (1, 2):
        ear.hear(number, "down", whole[:9])
        ear.hear(number, "up", b"not for these ears")
    for number in (1, 2):
        ear.hear(number, "down", whole[9:])
    assert [set(each.jobs) for each in said] == [{12}, {12}]


@pytest.mark.parametrize(
    ("answer", "done"), [(b":1\r\n", True), (b"$5\r\nEPOCH\r\n", False), (b"-NOSCRIPT\r\n", False)]
)
def test_a_beat_counts_as_done_when_redis_says_so(answer: bytes, done: bool) -> None:
    said: list[Said] = []
    ear = Ear(lambda: "0.1", said.append, "redis")
    beat = command("EVALSHA", "sha", "1", "p:queue", "beat", "7", "10", "3000", "12", "ann", "5")
    for way, data in (("up", beat), ("down", answer), ("up", command("PING")), ("down", b":1\r\n")):
        ear.hear(1, "up" if way == "up" else "down", data)
    assert [each.kind for each in said] == ["named"] + ["done"] * done
