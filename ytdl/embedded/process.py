"""One server process: started, found ready, watched, started again, stopped.

How a server is tied to the service: `setpriv` (util-linux) asks the kernel for a signal at the death of the
parent. The kernel means the *thread* that forked, so servers are started from the main thread only; asyncio
forks in the thread of its loop. Doing it in `setpriv` and not in a `preexec_fn` keeps the cheap vfork.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg

from ytdl import errors

log = logging.getLogger("ytdl.embedded")

POLL_SECONDS = 0.025
LOG_BYTES = 4 << 20  # a server's log is set aside at a start when it is larger


@dataclass(frozen=True)
class Plan:
    """How one server is run, found ready and stopped."""

    name: str
    url: str
    command: list[str]
    log: Path
    probe: Callable[[], Awaitable[None]]  # raises OSError or psycopg.OperationalError until the server answers
    start_s: float  # Postgres replays its log after a crash, and says nothing before it is through
    stop: tuple[tuple[signal.Signals, float], ...]  # each signal and how long it may take


class Server:
    """One running server. It is started again when it dies; `stop()` ends it and may be called twice."""

    def __init__(self, plan: Plan) -> None:
        self.name = plan.name
        self.url = plan.url
        self.restarts = 0
        self._plan = plan
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Of the running process; None while it is down."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def start(self) -> None:
        started = time.monotonic()
        await self._launch()
        log.info("%s is ready after %.2f s.", self.name, time.monotonic() - started)
        self._watcher = asyncio.create_task(self._watch(), name=f"embedded {self.name}")

    async def stop(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None
        await self._end()

    async def _watch(self) -> None:
        delay = 0.5
        while self._process:
            code = await self._process.wait()
            log.error(
                "%s ended by itself (%s); starting it again. Its last words: %s",
                self.name,
                code,
                self._tail(),
            )
            try:
                await self._launch()
            except errors.Unavailable as error:
                log.error("%s Next try in %.1f s.", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 10)
            else:
                self.restarts += 1
                delay = 0.5

    async def _launch(self) -> None:
        """Start and wait until it answers; what a dead predecessor left attached may hold it back."""
        deadline = time.monotonic() + self._plan.start_s
        while True:
            with _log_file(self._plan.log) as out:
                self._log_start = out.tell()
                self._process = await spawn(self._plan.command, out)
            try:
                await self._until_ready(self._process, deadline)
                return
            except BaseException as error:
                await self._end()
                if "still in use" not in str(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def _until_ready(self, process: asyncio.subprocess.Process, deadline: float) -> None:
        while process.returncode is None:
            with contextlib.suppress(OSError, psycopg.OperationalError):
                await self._plan.probe()
                return
            if time.monotonic() > deadline:
                raise errors.Unavailable(
                    f"{self.name} did not answer within {self._plan.start_s:.0f} s: {self._tail()}"
                )
            await asyncio.sleep(POLL_SECONDS)
        raise errors.Unavailable(f"{self.name} did not start ({process.returncode}): {self._tail()}")

    async def _end(self) -> None:
        process, plan = self._process, self._plan
        for number, seconds in (*plan.stop, (signal.SIGKILL, 10.0)):
            if process is None or process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                return
            log.warning("%s did not end within %.0f s of %s.", self.name, seconds, number.name)

    def _tail(self, lines: int = 6) -> str:
        with self._plan.log.open("rb") as file:
            file.seek(max(self._log_start, self._plan.log.stat().st_size - 4096))
            last = file.read().decode(errors="replace").splitlines()[-lines:]
        return " / ".join(line.strip() for line in last) or "(nothing in its log)"


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    with path.open("ab") as file:
        yield file


async def spawn(command: Sequence[str], out: IO[bytes]) -> asyncio.subprocess.Process:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("A server ends with the thread that started it: start it from the main thread.")
    # A session of its own keeps a terminal's Ctrl-C away; the environment is the service's secret.
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        start_new_session=True,
    )


def tied(command: Sequence[str], at_death: str, account: Sequence[str] = ()) -> list[str]:
    """The command, to be sent the signal `at_death` when this process dies.

    The shell in between starts nothing if that happened before the kernel was asked.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise errors.Unavailable("The program setpriv (package util-linux) is missing; the embedded servers need it.")
    gate = ["sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
    return [setpriv, *account, "--pdeathsig", at_death, *gate, *command]


def _uses(pid: int, folder: Path) -> bool:
    """Whether that process is a server on this folder; its number alone may be another program's by now."""
    process = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):
        if os.fsencode(folder) in (process / "cmdline").read_bytes().split(b"\0"):
            return True
        return (process / "cwd").readlink() == folder
    return False


def noted_pid(pid_file: Path) -> int:
    """The number in the file; 0 without one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(pid_file.read_text("ascii").split()[0])
    return 0


async def retire(pid: int, folder: Path, signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """End the server that a killed service left and that is still ending. By the claim, nobody uses it."""
    for number, seconds in (*signals, (signal.SIGKILL, 10.0)):
        if not pid or not _uses(pid, folder):
            return
        log.info("Waiting for process %d, which an earlier service left in %s.", pid, folder)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _uses(pid, folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - another's child has no event
            await asyncio.sleep(POLL_SECONDS)


async def started(plan: Plan) -> Server:
    server = Server(plan)
    await server.start()
    return server


@contextlib.contextmanager
def preparing(name: str) -> Iterator[None]:
    """Turns what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(f"{name} could not be prepared: {error}") from error


def package_folder(name: str) -> Path:
    """Where a package lies, found without importing it: these do at import what is not wanted here."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise errors.Unavailable(f"The package {name} is not installed; install requirements.txt.")
    return Path(spec.submodule_search_locations[0]).resolve()
