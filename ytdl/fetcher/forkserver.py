"""The service's end of one fork server: starting it, asking it for jobs, hearing how they ended.

One object is one process; after its death it is of no more use and the fetcher makes another. Requests are
datagrams that the fork server takes at once, so sending never waits for a job.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from ytdl.child.frames import Ended, Kill, Order, Ready, Request, Setup, Start, Started, Try, decode_report, encode

logger = logging.getLogger(__name__)
MAX_REPORT_BYTES = 64 * 1024
SEND_RETRY_SECONDS = 0.01
STOP_SECONDS = 3.0
# Less than whoever tries everything may take, so that this is what it finds.
TRY_SECONDS = 5.0
ROOT = Path(__file__).parent.parent.parent


class ForkServerGone(Exception):
    """The fork server has ended; its jobs ended with it."""


class ForkServer:
    """A running fork server."""

    def __init__(self) -> None:
        self.tools: dict[str, Any] = {}
        self.gone = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: dict[int, asyncio.Future[Ended | None]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._log: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

    async def start(self, setup: Setup, environment: dict[str, str], seconds: float) -> None:
        """Start it and wait until it is warm; ForkServerGone or TimeoutError when it does not come up."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            self._channel = ours
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ytdl.child", str(theirs.fileno()), str(os.getpid())),
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                umask=0o077,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        self._log = asyncio.create_task(self._pass_on_output(), name="fork server output")
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable)
        async with asyncio.timeout(seconds):
            await self._send(setup)
            await self._ready

    async def begin(self, number: int, order: Order, frames: int, stderr: int, go: int) -> asyncio.Future[Ended | None]:
        """Ask for a job. The future gets its end, or None when the fork server died with it."""
        return await self._ask(Start(number, order), [frames, stderr, go])

    async def try_forking(self, number: int) -> bool:
        """Whether it forks a job, and says in time that this has ended; what it says later is nobody's."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                ended = await (await self._ask(Try(number)))
        except (ForkServerGone, TimeoutError):
            return False
        finally:
            self._ended.pop(number, None)
        return ended is not None and ended.status == 0

    async def _ask(self, request: Start | Try, fds: list[int] | None = None) -> asyncio.Future[Ended | None]:
        if self.gone.is_set():
            raise ForkServerGone
        ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self._ended[request.number] = ended
        try:
            await self._send(request, fds)
        except BaseException:
            self._ended.pop(request.number, None)
            raise
        return ended

    async def kill(self, number: int) -> None:
        """Have a job's process group killed; nothing happens when it has ended."""
        if number in self._ended and not self.gone.is_set():
            with contextlib.suppress(ForkServerGone):
                await self._send(Kill(number))

    def give_up(self) -> None:
        """Kill it, and with it all its jobs: it does not do what it is asked."""
        if self._process and self._process.returncode is None:
            logger.error("the fork server does not answer and is killed", extra={"fork_server": self._process.pid})
            self._process.kill()

    async def stop(self) -> None:
        """Close the channel, which ends it and all its jobs; kill it when that takes too long."""
        self._lose()
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._log:
            await self._log

    async def _send(self, request: Request, fds: list[int] | None = None) -> None:
        data = encode(request)
        while True:
            if self._channel is None:
                raise ForkServerGone
            try:
                socket.send_fds(self._channel, [data], fds or [])
                return
            except BlockingIOError:
                await asyncio.sleep(SEND_RETRY_SECONDS)
            except OSError as error:
                self._lose()
                raise ForkServerGone from error

    def _on_readable(self) -> None:
        while self._channel is not None:
            try:
                data = self._channel.recv(MAX_REPORT_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose()
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        report = decode_report(data)
        if isinstance(report, Ready):
            self.tools = report.tools
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(report, Started):
            logger.debug("job started", extra={"child_pid": report.pid})
        elif (ended := self._ended.pop(report.number, None)) and not ended.done():
            ended.set_result(report)

    def _lose(self) -> None:
        """The channel is closed, by either side: nothing of this fork server can be reached any more."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if not self._ready.done():
            self._ready.set_exception(ForkServerGone())
            self._ready.exception()  # also when nobody waits for it any more
        for ended in self._ended.values():
            if not ended.done():
                ended.set_result(None)
        self._ended.clear()
        self.gone.set()

    async def _pass_on_output(self) -> None:
        """What the fork server itself writes is a fault worth reading; a job's own words go elsewhere."""
        output = self._process.stdout if self._process else None
        while output and (line := await _read_line(output)):
            logger.warning("fork server: %s", line.decode(errors="replace").rstrip()[:1000])


async def _read_line(output: asyncio.StreamReader) -> bytes:
    try:
        return await output.readline()
    except ValueError:  # longer than the reader's buffer: what there is of it, in pieces
        return await output.read(4096)
