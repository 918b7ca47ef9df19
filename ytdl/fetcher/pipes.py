"""The three pipes of a job on the service's side: its frames, the end of its stderr, and what it is told."""

import asyncio
import os

from ytdl.child.frames import MAX_FRAME_BYTES, Frame, decode_frame, unpack_length

TAIL_BYTES = 4096


class FrameReader:
    """Reads length-prefixed frames from a pipe."""

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self._stream = stream
        self._transport = transport

    @classmethod
    async def open(cls, fd: int) -> "FrameReader":
        """Takes over the reading end of a pipe."""
        stream = asyncio.StreamReader(limit=MAX_FRAME_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
        )
        return cls(stream, transport)

    async def read(self) -> Frame | None:
        """The next frame, None at the end; ValueError or msgspec.DecodeError when it is not one."""
        try:
            length = unpack_length(await self._stream.readexactly(4))
            frame: Frame = decode_frame(await self._stream.readexactly(length))
        except asyncio.IncompleteReadError:
            return None
        return frame

    async def closed(self) -> None:
        """Returns when every process that could write is gone."""
        while await self._stream.read(64 * 1024):
            pass

    def close(self) -> None:
        """Give the descriptor back."""
        self._transport.close()


class Tail(asyncio.Protocol):
    """Keeps the last 4 KiB of what comes, and nothing more."""

    def __init__(self) -> None:
        self._kept = b""
        self._over = asyncio.Event()
        self._transport: asyncio.ReadTransport | None = None

    @classmethod
    async def open(cls, fd: int) -> "Tail":
        """Takes over the reading end of a pipe."""
        loop = asyncio.get_running_loop()
        transport, tail = await loop.connect_read_pipe(cls, os.fdopen(fd, "rb", buffering=0))
        tail._transport = transport
        return tail

    def data_received(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()

    async def closed(self) -> None:
        """Returns when every process that could write is gone."""
        await self._over.wait()

    def text(self) -> str:
        """What was kept."""
        return self._kept.decode(errors="replace")

    def close(self) -> None:
        """Give the descriptor back."""
        if self._transport:
            self._transport.close()


class Voice:
    """Tells the job something: whatever its size, the loop does not wait until it is read."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport

    @classmethod
    async def open(cls, fd: int) -> "Voice":
        """Takes over the writing end of a pipe."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(fd, "wb", buffering=0))
        return cls(transport)

    def tell(self, data: bytes) -> None:
        """Nothing happens when the job has died meanwhile, which its frames' end will say."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Give the descriptor back; what was not read yet is dropped."""
        if not self._transport.is_closing():
            self._transport.abort()
