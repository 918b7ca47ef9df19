"""The services under test: each a real `ytdl serve` behind links of its own, started again when it dies."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from tests.chaos.causes import Life
from tests.chaos.checker import MAX_TRIES
from tests.chaos.ground import PREFIX, Ground
from tests.chaos.proxy import Link, tcp, unix
from tests.chaos.wire import Ear, Said
from tests.instance import NotReady, free_port, last_words

LEASE_SECONDS = 3.0
SLOTS = 6
READY_SECONDS = 60.0
END_SECONDS = 30.0
SECRET = "only-this-run-knows-this-key-0123456789"
# Starts that are not paced, and a pause after a refusal that is over within the run.
UNHURRIED = {"EGRESS_STARTS_PER_MINUTE": "60000", "EGRESS_BURST": "1000", "EGRESS_PAUSE_SECONDS": "1"}


@dataclass(eq=False)
class Member:
    """One service through all its lives. `boots` are seconds from a start until it was ready."""

    number: int
    ground: Ground
    said: list[Said]
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    lives: list[Life] = field(default_factory=list)
    stopped: bool = False
    wanted: bool = True
    boots: list[float] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        ground = self.ground
        self.postgres = Link(unix(ground.postgres_socket), Ear(self.name, self.said.append, "postgres").hear)
        self.redis = Link(unix(ground.redis_socket), Ear(self.name, self.said.append, "redis").hear)
        self.upstream = Link(tcp(ground.upstream_port))
        self.url = f"http://127.0.0.1:{self.port}"

    def name(self) -> str:
        return f"{self.number}.{len(self.lives)}"

    @property
    def log(self) -> Path:
        return self.ground.folder / f"service-{self.number}.log"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def up(self) -> bool:
        """At work: neither on its way up nor stopped."""
        return self.alive and not self.stopped and self.lives[-1].ready

    @property
    def links(self) -> dict[str, Link]:
        return {"postgres": self.postgres, "redis": self.redis, "upstream": self.upstream}

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        options = "sslmode=disable&gssencmode=disable"
        own = {
            "PORT": str(self.port),
            "DATA_DIR": str(self.ground.data),
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{self.postgres.port}/ytdl?{options}",
            "DATABASE_POOL_SIZE": "6",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis.port}",
            "REDIS_PREFIX": PREFIX,
            "JWT_SECRET_KEY": SECRET,
            "ADMIN_PASSWORD": "Only-this-run-9",
            "DOWNLOAD_CONCURRENCY": str(SLOTS),
            "DOWNLOAD_LEASE_SECONDS": str(LEASE_SECONDS),
            "DOWNLOAD_MAX_ATTEMPTS": str(MAX_TRIES),
            "DOWNLOAD_BACKOFF_SECONDS": "0.1",
            "DOWNLOAD_STALL_SECONDS": "8",
            "DOWNLOAD_MIN_FREE_BYTES": str(8 * 2**20),
            "DRAIN_SECONDS": "1",
            "RATE_LIMIT_PER_MINUTE": "1000000",
        }
        upstream = self.ground.upstream | {"OUTBOUND_PROXY": f"http://127.0.0.1:{self.upstream.port}"}
        return kept | own | upstream | self.settings

    # a life

    async def start(self) -> None:
        """Starts it and waits until it is ready; raises `NotReady`."""
        self.lives.append(life := Life(f"{self.number}.{len(self.lives) + 1}", time.time()))
        began = time.monotonic()
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "ytdl", "serve"), cwd=self.ground.source,
                env=self.environment(), start_new_session=True, stdin=asyncio.subprocess.DEVNULL, stdout=out,
                stderr=out,
            )  # fmt: skip
        await self._until_ready(began + READY_SECONDS)
        life.ready = True
        self.boots.append(time.monotonic() - began)

    async def _until_ready(self, deadline: float) -> None:
        while not await self.answers():
            if not self.alive:
                raise NotReady(f"service {self.number} ended:\n{last_words(self.log)}")
            if time.monotonic() > deadline:
                self.lives[-1].late = True
                raise NotReady(f"service {self.number} was not ready in time:\n{last_words(self.log)}")
            await asyncio.sleep(0.05)

    async def answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            limit = aiohttp.ClientTimeout(total=2)
            async with self.ground.client.get(f"{self.url}/readyz", timeout=limit) as answer:
                return answer.status == 200
        return False

    async def keep_alive(self) -> None:
        """Starts it again whenever it has ended, until it is to end for good."""
        while True:
            if self.process:
                await self._over(self.process)
                self.stopped = False
                await asyncio.sleep(random.uniform(0.05, 0.5))
            if not self.wanted:
                return
            with contextlib.suppress(NotReady):
                await self.start()
            if self.alive:
                continue
            await asyncio.sleep(0.5)

    async def _over(self, process: asyncio.subprocess.Process) -> int:
        """Waits for the end and writes it down; the exit code."""
        life = self.lives[-1]
        code = await process.wait()
        if life.ended is None:
            life.ended, life.code = time.time(), code
        return code

    async def until_up(self) -> bool:
        """Whether it is ready, sooner or later."""
        deadline = time.monotonic() + READY_SECONDS
        while not (self.alive and self.lives[-1].ready and await self.answers()):
            if time.monotonic() > deadline:
                self.lives[-1].late = True
                return False
            await asyncio.sleep(0.1)
        return True

    def signal(self, number: signal.Signals) -> bool:
        """To the service alone, not to its children; False where it is not running."""
        if not self.alive or self.process is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.lives[-1].signals.append(number)
            self.stopped = number == signal.SIGSTOP or (self.stopped and number != signal.SIGCONT)
            return True
        return False

    def fork_server(self) -> psutil.Process | None:
        return next((p for p in self._children() if any("ytdl.child" in part for part in _command(p))), None)

    def job_child(self) -> psutil.Process | None:
        server = self.fork_server()
        with contextlib.suppress(psutil.Error):
            jobs = server.children() if server else []
            return random.choice(jobs) if jobs else None
        return None

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            if self.process and self.alive:
                return psutil.Process(self.process.pid).children()
        return []

    async def end(self) -> int | None:
        """An orderly stop, for good; the exit code, None where it had to be killed."""
        self.wanted = False
        if self.process is None or not self.alive:
            return None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._over(self.process), END_SECONDS)
        # Not written down as sent, so that nothing explains this end.
        self.process.kill()
        await self._over(self.process)
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@asynccontextmanager
async def gathered(
    ground: Ground, count: int, said: list[Said], settings: dict[str, str] | None = None
) -> AsyncIterator[list[Member]]:
    """So many services, started and ready, each kept alive until the end."""
    async with AsyncExitStack() as stack:
        members = [Member(n, ground, said, UNHURRIED | (settings or {})) for n in range(count)]
        for member in members:
            for link in member.links.values():
                await stack.enter_async_context(link)
        # One makes the tables, the others find them.
        for member in members:
            stack.push_async_callback(member.end)
            await member.start()
        keepers = [asyncio.create_task(member.keep_alive(), name=f"keeper {member.number}") for member in members]
        stack.push_async_callback(_stop, keepers)
        yield members


async def _stop(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
