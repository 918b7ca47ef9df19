"""A Redis of one test's own: it can die, hang, and come back empty or with what an older file says."""

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ytdl.embedded.redis import _program

START_SECONDS = 30.0


class OwnRedis:
    """It keeps nothing by itself. Whoever starts it in a folder must `kill` it in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "r"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    async def start(self, file: bytes | None = None) -> None:
        """Answers when this returns; `file` is one that `saved` gave."""
        self._file.unlink(missing_ok=True)
        if file is not None:
            self._file.write_bytes(file)
        self._launch()
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():  # noqa: ASYNC110 - what it waits for is another process
                await asyncio.sleep(0.02)

    def _launch(self) -> None:
        settings = {"port": "0", "unixsocket": str(self._socket), "save": "", "dir": str(self._folder)}
        command = [_program(), *(part for name, value in settings.items() for part in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    async def _answers(self) -> bool:
        with contextlib.suppress(RedisError):
            async with Redis.from_url(self.url) as client:
                return bool(await client.ping())
        return False

    @property
    def _file(self) -> Path:
        return self._folder / "dump.rdb"

    async def saved(self) -> bytes:
        """Its file as of now."""
        async with Redis.from_url(self.url) as client:
            await client.save()
        return self._file.read_bytes()

    async def flush(self) -> None:
        async with Redis.from_url(self.url) as client:
            await client.flushall()

    def hang(self) -> None:
        """It takes connections and says nothing until it is killed."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)
