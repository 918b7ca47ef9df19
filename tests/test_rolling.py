"""One of two processes is killed or restarted behind one address; users notice a reconnect and nothing else."""

import asyncio
import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg
import pytest

from tests import instance
from tests.fakes.youtube import YouTube
from tests.following import Told, ended, fetched, told
from tests.front import KIND, Front, answered_by, fronting
from tests.instances import LEASE_SECONDS, Begun, Pair, Somebody, at_work, begun, somebody, soon, two
from tests.servers import Servers

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("kind", [KIND])]
MEGABYTE = 2**20
DRAIN_SECONDS = "1"
READERS, WRITERS = 4, 2
BACK_AFTER_SECONDS = 0.2


@dataclass(frozen=True)
class Scene:
    """The two processes, what stands before them, and somebody who uses them with a client of their own."""

    pair: Pair
    front: Front
    ann: Somebody
    client: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        return await self.front.ask(self.client, "GET", path, headers=headers)

    async def get_from(self, running: instance.Instance, path: str) -> aiohttp.ClientResponse:
        """Asks until it is this process that answers, as is its turn every second time."""
        for _ in range(20):
            answer = await self.get(path)
            if answered_by(answer) == running.url:
                return answer
            answer.close()
        raise AssertionError(f"{running.url} never answered")


@pytest.fixture
async def scene(servers: Servers, database_url: str, youtube: YouTube, tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        two(tmp_path, servers, database_url, youtube, DRAIN_SECONDS=DRAIN_SECONDS) as pair,
        fronting([pair.a.url, pair.b.url]) as front,
        somebody(pair) as ann,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {ann.token}"}) as client,
    ):
        yield Scene(pair, front, ann, client)


@dataclass
class Load:
    """What people got who asked simple things all the while; what is not 2xx is in `trouble`."""

    answers: Counter[str] = field(default_factory=Counter)
    trouble: list[tuple[str, str]] = field(default_factory=list)

    async def keep_asking(self, scene: Scene, method: str, path: str) -> None:
        async with aiohttp.ClientSession(headers=scene.client.headers) as own:
            while True:
                try:
                    async with await scene.front.ask(own, method, path) as answer:
                        await answer.read()
                        outcome = str(answer.status) if answer.status >= 300 else ""
                except aiohttp.ClientError as e:
                    outcome = repr(e)
                self.answers[method] += 1
                if outcome:
                    self.trouble.append((method, outcome))
                await asyncio.sleep(0.005)


@asynccontextmanager
async def under_load(scene: Scene) -> AsyncIterator[Load]:
    load = Load()
    tasks = [asyncio.create_task(load.keep_asking(scene, "GET", "/downloads")) for _ in range(READERS)]
    tasks += [asyncio.create_task(load.keep_asking(scene, "POST", "/auth/ticket")) for _ in range(WRITERS)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert load.answers["GET"] > 100 and load.answers["POST"] > 50


@dataclass
class Followed:
    """What an EventSource makes of a stream that breaks off: one line of events."""

    events: list[Told] = field(default_factory=list)
    connections: int = 0

    async def follow(self, scene: Scene, path: str, answer: aiohttp.ClientResponse) -> None:
        """Goes on until `done`, coming back with the last id that was told."""
        while True:
            self.connections += 1
            try:
                async with answer:
                    async for event in told(answer):
                        self.events.append(event)
            except aiohttp.ClientError:
                pass
            if self.events[-1].type == "done":
                return
            await asyncio.sleep(BACK_AFTER_SECONDS)
            answer = await scene.get(path, **{"Last-Event-ID": self.last_id})

    @property
    def last_id(self) -> str:
        """Empty until an event came that has one."""
        return next((event.id for event in reversed(self.events) if event.id), "")


async def resumed(scene: Scene, path: str, answer: aiohttp.ClientResponse, go_on: asyncio.Event) -> tuple[str, int]:
    """Fetches a file and goes on where it broke off: the hash of all, and how many answers it took. After the first
    bytes it waits for `go_on`."""
    tag, size = answer.headers["ETag"], int(answer.headers["Content-Length"])
    content, answers = bytearray(), 0
    while len(content) < size:
        answers += 1
        try:
            async with answer:
                async for piece in answer.content.iter_chunked(2**16):
                    content += piece
                    await go_on.wait()
        except aiohttp.ClientError:
            answer = await scene.get(path, Range=f"bytes={len(content)}-", **{"If-Range": tag})
            assert answer.status == 206
    return hashlib.sha256(content).hexdigest(), answers


async def large_file(scene: Scene, youtube: YouTube) -> tuple[str, str]:
    """A finished download, and the hash of its file, which no connection's buffers can hold."""
    id = str((await fetched(scene.ann.b, youtube.url("ordinary"), quality="144p"))["id"])
    (path,) = (scene.pair.data / "media").iterdir()
    content = os.urandom(MEGABYTE) * 64
    sha256 = hashlib.sha256(content)
    await asyncio.to_thread(path.write_bytes, content)
    async with await psycopg.AsyncConnection.connect(scene.pair.database_url) as connection:
        changed = "UPDATE downloads SET file_bytes = %s, file_sha256 = %s WHERE id = %s"
        await connection.execute(changed, (len(content), sha256.hexdigest(), id))
    return id, sha256.hexdigest()


async def attempts_at(who: Somebody, job: Begun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await (await job.at_other.get(f"/downloads/{job.id}/logs")).json()
    return rows


def media_bytes(youtube: YouTube) -> int:
    return sum(seen.sent for seen in youtube.requests if seen.path == "/videoplayback")


async def test_a_killed_process_costs_its_users_a_reconnect(scene: Scene, youtube: YouTube, kind: str) -> None:
    ann = scene.ann
    large, sha256 = await large_file(scene, youtube)
    youtube.misbehave("*", media_throttle=2 * MEGABYTE)
    # It takes so long that it has not ended before the kill.
    job = await begun(scene.pair, ann, youtube.url("big032_0001"), 3 * MEGABYTE)
    events, file = f"/downloads/{job.id}/events", f"/downloads/{large}/file"
    async with under_load(scene) as load:
        followed, go_on = Followed(), asyncio.Event()
        stream = asyncio.create_task(followed.follow(scene, events, await scene.get_from(job.runner, events)))
        transfer = asyncio.create_task(resumed(scene, file, await scene.get_from(job.runner, file), go_on))
        await soon(lambda: bool(followed.last_id), 20)
        seen = await (await job.at_other.get(f"/downloads/{job.id}")).json()
        os.kill(job.runner.pid, signal.SIGKILL)
        killed = time.time()
        youtube.behave()
        youtube.forget()
        go_on.set()
        done = await ended(job.at_other, job.id, 60)
        async with asyncio.timeout(30):
            await stream
            received = await transfer
    assert done["status"] == "completed"
    lost, completed = await attempts_at(ann, job)
    assert (lost["status"], completed["status"]) == ("lost", "completed")
    # Within the lease, a round of the reaper and the start of the attempt; a reconciliation comes every 15 s.
    assert datetime.fromisoformat(completed["started_at"]).timestamp() - killed < float(LEASE_SECONDS) * 1.2 + 4
    progress = seen["progress"]
    assert media_bytes(youtube) < progress["total_bytes"] - progress["downloaded_bytes"] + MEGABYTE / 4
    ids = [event.id for event in followed.events if event.type == "progress"]
    assert followed.connections == 2 and len(ids) == len(set(ids))
    assert [e.type for e in followed.events].count("snapshot") == 1
    assert received == (sha256, 2)
    # Only what was being asked of that very process may get lost, and only what must not be asked twice.
    assert {method for method, _ in load.trouble} <= {"POST"} and len(load.trouble) <= WRITERS


async def test_a_rolling_restart_refuses_nobody(scene: Scene, youtube: YouTube, tmp_path: Path, kind: str) -> None:
    youtube.misbehave("*", media_throttle=MEGABYTE // 4)
    job = await begun(scene.pair, scene.ann, youtube.url("big032_0002"), MEGABYTE // 8)
    other = scene.pair.b if job.runner is scene.pair.a else scene.pair.a
    events, followed = f"/downloads/{job.id}/events", Followed()
    async with AsyncExitStack() as restarts, under_load(scene) as load:
        stream = asyncio.create_task(followed.follow(scene, events, await scene.get_from(job.runner, events)))
        await terminated(job.runner)
        await restarts.enter_async_context(again(scene, job.runner, tmp_path))
        await continued(other)
        youtube.behave()
        await terminated(other)
        done = await ended(job.at_runner, job.id, 60)
        async with asyncio.timeout(30):
            await stream
        attempts = await (await job.at_runner.get(f"/downloads/{job.id}/logs")).json()
    assert (done["status"], done["attempts"]) == ("completed", 3)
    assert [row["status"] for row in attempts] == ["yielded", "yielded", "completed"]
    assert followed.connections in (2, 3)
    assert load.trouble == [], Counter(load.trouble)


async def terminated(running: instance.Instance) -> None:
    """Ends a process as an operator does; it takes the drain and little more."""
    process = psutil.Process(running.pid)
    process.terminate()
    assert await asyncio.to_thread(process.wait, float(DRAIN_SECONDS) + 20) in (0, None)


async def continued(running: instance.Instance) -> None:
    async with asyncio.timeout(12):
        while not at_work(running):  # noqa: ASYNC110 - what it waits for is in another process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def again(scene: Scene, running: instance.Instance, folder: Path) -> AsyncIterator[instance.Instance]:
    """The same process at the same port, after its end."""
    (folder / "again").mkdir()
    port = running.url.rpartition(":")[2]
    async with instance.serving(folder / "again", **(scene.pair.settings | {"PORT": port})) as restarted:
        yield restarted
