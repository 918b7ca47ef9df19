"""The service and the YouTube stand-in as processes of their own, for whatever shows or measures them.

What they write lies in a folder of the caller's. Each has a session of its own, so that a terminal's Ctrl-C
reaches the caller only, who then ends them in order; a caller that is killed takes them along.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parent.parent
YTDL = Path(sys.executable).parent / "ytdl"
# Made once, in some seconds; `make clean` removes them.
FILMS = ROOT / "build" / "films"
START_SECONDS = 120.0
STOP_SECONDS = 45.0
POLL_SECONDS = 0.02


class NotReady(Exception):
    """A process did not come up; the message has its last words."""


@dataclass(frozen=True)
class Instance:
    """The running service. `log` is everything it printed, `started_seconds` how long it took to be ready."""

    url: str
    pid: int
    log: Path
    password: str
    started_seconds: float


@dataclass(frozen=True)
class StandIn:
    """The running stand-in: what the service needs to know to take it for YouTube, and its remote control."""

    control_url: str
    settings: dict[str, str]
    urls: dict[str, str]


@asynccontextmanager
async def standing_in(folder: Path, *, throttle: int = 0) -> AsyncIterator[StandIn]:
    """The YouTube stand-in; `throttle` is bytes a second for each media connection."""
    ready = folder / "youtube.json"
    options = {"--ready-file": ready, "--throttle": throttle, "--media-dir": FILMS}
    command = [sys.executable, "-m", "tests.fakes.youtube"]
    command += [str(part) for option in options.items() for part in option]
    async with _process(command, folder / "youtube.log", dict(os.environ)) as process:
        await _until(process, folder / "youtube.log", _exists(ready))
        found = json.loads(ready.read_text())
        settings = {
            "OUTBOUND_PROXY": found["proxy_url"],
            "OUTBOUND_CA_FILE": found["ca_file"],
            "YTDLP_EXTRACTOR_ARGS": found["extractor_args"],
        }
        yield StandIn(found["control_url"], settings, found["urls"])


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncIterator[Instance]:
    """`ytdl serve` on a free port, with its own Postgres and Redis unless `settings` name others, or a PORT.

    Nothing of the caller's environment decides about it but the path and the home folder.
    """
    port, password = int(settings.get("PORT") or free_port()), f"Demo-{secrets.token_urlsafe(9)}"
    log = folder / "service.log"
    own = {
        "PORT": str(port),
        "DATA_DIR": str(folder / "data"),
        "ADMIN_PASSWORD": password,
        "DRAIN_SECONDS": "0",
        # What is measured is the service, not the pace it would keep with a real site.
        "EGRESS_STARTS_PER_MINUTE": "60000",
        "EGRESS_BURST": "1000",
        "RATE_LIMIT_PER_MINUTE": "1000000",
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    began = time.monotonic()
    async with _process([str(YTDL), "serve"], log, kept | own | settings) as process:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as client:
            await _until(process, log, _answers(client, f"{url}/readyz"))
        yield Instance(url, process.pid, log, password, time.monotonic() - began)


@asynccontextmanager
async def signed_in(instance: Instance) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with the first admin's access token; its paths begin with `/api/v1`."""
    async with aiohttp.ClientSession(instance.url, raise_for_status=True) as client:
        credentials = {"username": "admin", "password": instance.password}
        async with client.post("/api/v1/auth/login", json=credentials) as answer:
            tokens = await answer.json()
        client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield client


def free_port() -> int:
    """Below those that Linux gives to connections (32768 and up): none takes it before its server does."""
    while True:
        port = secrets.randbelow(20_000) + 12_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def last_words(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@asynccontextmanager
async def _process(
    command: Sequence[str], log: Path, environment: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *leash(), *command, cwd=ROOT, env=environment, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process
    finally:
        await _end(process)


def leash() -> list[str]:
    """What makes a process end with this one; util-linux is there on every Debian."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


async def _end(process: asyncio.subprocess.Process) -> None:
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            return


async def _until(process: asyncio.subprocess.Process, log: Path, holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not await holds():
        if process.returncode is not None:
            raise NotReady(f"It ended with code {process.returncode}:\n{last_words(log)}")
        if time.monotonic() > deadline:
            raise NotReady(f"It was not ready after {START_SECONDS:.0f} s:\n{last_words(log)}")
        await asyncio.sleep(POLL_SECONDS)


def _exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return path.exists()

    return look


def _answers(client: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        try:
            async with client.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    return ask


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Name and data of each server-sent event until the stream ends."""
    name = ""
    async for raw in answer.content:
        field, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
