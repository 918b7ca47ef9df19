"""A link between a service and one thing that it needs, on which things can go wrong.

It listens on a port of this machine and carries to a Unix socket or another port. Its toxics hold for what is open
and for what comes: latency, slices, a rate, a black hole, a shut door; `reset` hits what is open now. A listener may
look at every piece that was carried.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Self

Direction = Literal["up", "down"]
Opener = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
# Which connection, which way, what.
Listener = Callable[[int, Direction, bytes], None]
READ = 65536
# Closing with nothing to linger for sends a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


@dataclass
class Toxics:
    """Zero and False mean "as usual". Latency and jitter are seconds a piece, slices bytes, the rate bytes a second."""

    latency: float = 0.0
    jitter: float = 0.0
    slice: int = 0
    rate: int = 0
    hole: bool = False
    shut: bool = False


def unix(path: str) -> Opener:
    return lambda: asyncio.open_unix_connection(path)


def tcp(port: int) -> Opener:
    return lambda: asyncio.open_connection("127.0.0.1", port)


@dataclass(eq=False)
class _Pair:
    """One connection: the service's side and the server's."""

    number: int
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    lost: int = 0
    task: asyncio.Task[None] | None = None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            near: socket.socket | None = self.near.get_extra_info("socket")
            if near:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        for writer in (self.near, self.far):
            if writer:
                writer.transport.abort()


@dataclass(eq=False)
class Link:
    open_far: Opener
    listener: Listener | None = None
    toxics: Toxics = field(default_factory=Toxics)
    port: int = 0

    def __post_init__(self) -> None:
        self._pairs: set[_Pair] = set()
        self._count = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        tasks = [pair.task for pair in self._pairs if pair.task]
        self.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reset(self, chance: float = 1.0) -> int:
        """Resets what is open, each with that chance; how many were hit."""
        hit = [pair for pair in self._pairs if random.random() < chance]
        for pair in hit:
            pair.abort()
        return len(hit)

    def heal(self) -> None:
        """As usual again. A connection of which something was swallowed can only be ended."""
        self.toxics = Toxics()
        for pair in self._pairs:
            if pair.lost:
                pair.abort()

    def shut(self) -> None:
        """Ends what is open and lets nobody in until it is healed."""
        self.toxics.shut = True
        self.reset()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        pair = _Pair(self._count, writer, task=asyncio.current_task())
        self._pairs.add(pair)
        try:
            if not self.toxics.shut:
                inner, pair.far = await self.open_far()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._carry(pair, "up", reader, pair.far))
                    both.create_task(self._carry(pair, "down", inner, writer))
        except* OSError:
            pass
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _carry(
        self, pair: _Pair, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(READ):
            if self.toxics.latency:
                await asyncio.sleep(self.toxics.latency + random.uniform(0, self.toxics.jitter))
            if self.toxics.hole:
                pair.lost += len(data)
                continue
            if self.listener:
                self.listener(pair.number, way, data)
            await self._pass_on(data, writer)
        # Half an end is none for those who speak here: both sides of the connection go.
        raise ConnectionResetError

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        step = self.toxics.slice or len(data)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            writer.write(piece)
            await writer.drain()
            if self.toxics.slice:
                await asyncio.sleep(0)
            if self.toxics.rate:
                await asyncio.sleep(len(piece) / self.toxics.rate)
