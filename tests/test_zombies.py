"""A worker that was stopped for longer than its lease and comes back when another has done its work."""

import asyncio
import hashlib
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.conftest import SECRET, Person
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, look, until
from tests.test_crash import family, served

# Longer than a machine stands still.
LEASE = 10


@dataclass
class Pair:
    """What two services share, and how to start one of them."""

    folder: Path
    youtube: YouTube
    settings: dict[str, str]

    @asynccontextmanager
    async def start(self, name: str) -> AsyncIterator[tuple[int, Person]]:
        """Its process id and its admin."""
        (self.folder / name).mkdir()
        async with served(self.folder / name, self.youtube, **self.settings) as (running, admin):
            yield running.pid, admin

    def files(self) -> dict[str, str]:
        """Names of all files of attempts and downloads, with their hashes; looked at anew where one just went."""
        while True:
            with suppress(FileNotFoundError):
                return self._files()

    def _files(self) -> dict[str, str]:
        data = Path(self.settings["DATA_DIR"])
        found = [path for part in ("work", "media") for path in (data / part).rglob("*") if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    async def expire(self) -> None:
        """As if so much time had gone by; whoever is stopped does not renew what he leased."""
        async with await psycopg.AsyncConnection.connect(self.settings["DATABASE_URL"]) as connection:
            await connection.execute(
                "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'"
            )

    async def history(self) -> list[tuple[str, int]]:
        async with await psycopg.AsyncConnection.connect(self.settings["DATABASE_URL"]) as connection:
            return await (await connection.execute("SELECT event, fence FROM job_events ORDER BY seq")).fetchall()


@dataclass(frozen=True)
class UnderWay:
    """`pid` is the first service's, which has the download; each service is known by its admin."""

    pair: Pair
    id: str
    pid: int
    first: Person
    second: Person


@pytest.fixture
def pair(tmp_path: Path, youtube: YouTube, database_url: str, redis_url: str) -> Pair:
    shared = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REDIS_PREFIX": tmp_path.name,
        "DATA_DIR": str(tmp_path / "data"),
        "JWT_SECRET_KEY": SECRET,
        "DOWNLOAD_LEASE_SECONDS": str(LEASE),
    }
    return Pair(tmp_path, youtube, shared)


async def refused(admin: Person) -> float:
    """How many writes its process was refused."""
    text = await (await admin.get("//metrics")).text()
    return sum(float(n) for n in re.findall(r"^ytdl_queue_fenced_total\{.*\} (\S+)$", text, re.MULTILINE))


async def until_refused(admin: Person) -> None:
    async with asyncio.timeout(30):
        while not await refused(admin):  # noqa: ASYNC110 - what it waits for is another process
            await asyncio.sleep(0.05)


def downloads(pid: int) -> list[psutil.Process]:
    """Processes of a service's downloads, which its one child, the fork server, has."""
    (fork_server,) = psutil.Process(pid).children()
    return fork_server.children(recursive=True)


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[Callable[[], None]]:
    """They do nothing until the context ends or what it gives is called."""

    def wake() -> None:
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGCONT)

    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield wake
    finally:
        wake()


@pytest.fixture
async def under_way(pair: Pair) -> AsyncIterator[UnderWay]:
    """A download that the first of two services is at; the second could not take it."""
    pair.youtube.misbehave("*", media_throttle=60_000)
    async with pair.start("second") as (other, second), pair.start("first") as (pid, first):
        with stopped([psutil.Process(other)]):
            id = (await ask(first, pair.youtube.url("ordinary"), quality="720p"))["id"]
            await until(first, id, lambda d: d["progress"]["downloaded_bytes"] > 0, 40)
        yield UnderWay(pair, id, pid, first, second)


@pytest.mark.slow
@pytest.mark.parametrize("how", [family, lambda pid: [psutil.Process(pid)]], ids=["with its downloads", "alone"])
async def test_a_service_that_wakes_after_its_lease_changes_no_row_and_no_file(
    under_way: UnderWay, how: Callable[[int], list[psutil.Process]]
) -> None:
    """Where it is stopped alone, its download goes on meanwhile."""
    w = under_way
    with stopped(how(w.pid)) as wake:
        await w.pair.expire()
        done = await ended(w.second, w.id, 60)
        history, files = await w.pair.history(), w.pair.files()
        wake()
        await until_refused(w.first)
    assert history == [("submit", 0), ("claim", 1), ("reap", 1), ("claim", 2), ("completed", 2)]
    await eventually(lambda: len(w.pair.files()) == 1 and not downloads(w.pid))
    ((name, content),) = w.pair.files().items()
    assert name.split(".")[1] == "2" and content == files[name] == done["file"]["sha256"]
    assert await w.pair.history() == history


@pytest.mark.slow
async def test_a_finished_file_of_a_service_that_lost_its_lease_is_not_taken_while_another_is_at_it(
    under_way: UnderWay,
) -> None:
    w = under_way
    with stopped([psutil.Process(w.pid)]) as wake:
        await eventually(lambda: not downloads(w.pid))
        w.pair.youtube.behave()
        w.pair.youtube.misbehave("*", media_throttle=40_000)
        await w.pair.expire()
        async with asyncio.timeout(40):
            while ("claim", 2) not in await w.pair.history():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        wake()
        await until_refused(w.first)
        assert (await look(w.second, w.id))["status"] == "downloading"
        w.pair.youtube.behave()
        done = await ended(w.second, w.id, 60)
    await eventually(lambda: len(w.pair.files()) == 1)
    ((name, content),) = w.pair.files().items()
    assert name.split(".")[1] == "2" and content == done["file"]["sha256"]
    assert await w.pair.history() == [("submit", 0), ("claim", 1), ("reap", 1), ("claim", 2), ("completed", 2)]


async def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it waits for is another process
            await asyncio.sleep(0.05)
