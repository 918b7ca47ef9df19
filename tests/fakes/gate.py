"""A door before a server on a Unix socket, for tests in which the server is away, comes back, or says nothing.

`Gate(target)` forwards to `target` until it is shut: `shut()` ends what is open and lets nobody in, `stall()` keeps
connections open and carries nothing, and with a `delay` everything comes that many seconds late. The side that listens
is a Unix socket too.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Self


class Gate:
    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self.delay = 0.0
        self._target = target
        self._flowing = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()

    async def open(self) -> None:
        """Lets everybody through, also those whom a stall kept waiting."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._enter, self.path)

    def stall(self) -> None:
        self._flowing.clear()

    async def shut(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        for writer in self._open:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._open.add(writer)
        try:
            inner, outer = await asyncio.open_unix_connection(str(self._target))
            self._open.add(outer)
            await asyncio.gather(self._carry(reader, outer), self._carry(inner, writer))
            self._open.discard(outer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()
