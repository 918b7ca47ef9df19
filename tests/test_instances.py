"""Two processes of the service side by side: it does not matter which of them is asked."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import psycopg
import pytest
import pytest_asyncio

from tests.fakes.youtube import YouTube
from tests.following import Told, ask, ended, fetched, look, told, until
from tests.front import KIND, fronting
from tests.instances import Pair, Somebody, at_work, begun, empty_database, somebody, soon, two
from tests.servers import Servers
from ytdl.api.streams import HEARTBEAT_SECONDS
from ytdl.auth import BELIEVED_SECONDS
from ytdl.db import DB
from ytdl.events import order
from ytdl.janitor import Janitor
from ytdl.kv import KV
from ytdl.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
# A big one takes more than a minute, an ordinary one some four seconds.
SLOW, ORDINARY = 100_000, 50_000
USER_CAP = 3


@pytest.fixture(scope="module")
def new_database(servers: Servers) -> Iterator[str]:
    with empty_database(servers) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    servers: Servers, new_database: str, youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    """Everything is new: both processes find an empty database and no data folder, in the same moment."""
    settings = {"ADMIN_PASSWORD": "", "DOWNLOAD_CONCURRENCY": "3", "DOWNLOAD_USER_CONCURRENCY": str(USER_CAP)}
    # With beats this far apart, each sixth of it, it is the word of a cancel that ends a job, and not the next of them.
    settings["DOWNLOAD_LEASE_SECONDS"] = "600"
    folder = tmp_path_factory.mktemp("pair")
    async with two(folder, servers, new_database, youtube_server, **settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def ann(pair: Pair) -> AsyncIterator[Somebody]:
    async with somebody(pair) as person:
        yield person


# starting


async def rows(pair: Pair, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(pair.database_url) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def test_processes_that_start_together_migrate_once_and_make_one_admin(pair: Pair) -> None:
    assert await rows(pair, "SELECT count(*) FROM users WHERE role = 'admin'") == [(1,)]
    told_password = [running.log.read_text().count("its password:") for running in (pair.a, pair.b)]
    assert sorted(told_password) == [0, 1]
    logs = pair.a.log.read_text() + pair.b.log.read_text()
    migrations = [n for (n,) in await rows(pair, "SELECT version FROM schema_migrations")]
    assert logs.count("db.migrated") == len(migrations) > 1


async def test_both_are_ready_and_the_data_folder_is_locked_by_neither(pair: Pair) -> None:
    async with aiohttp.ClientSession() as client:
        for running in (pair.a, pair.b):
            async with asyncio.timeout(30):
                # On a busy machine an answer may come too late for a look.
                while await readiness(client, running.url) != (200, []):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.2)
    assert not (pair.data / "lock").exists() and not (pair.data / "secrets").exists()


async def readiness(client: aiohttp.ClientSession, url: str) -> tuple[int, list[str]]:
    """The status, and what is amiss."""
    async with client.get(f"{url}/readyz") as answer:
        found = await answer.json()
    return answer.status, [check["name"] for check in found["checks"] if not check["ok"]]


async def test_both_fork_servers_share_one_runtime_folder(pair: Pair) -> None:
    names = sorted(path.name for path in (pair.data / "runtime" / "bin").iterdir())
    assert [name for name in names if "slot" not in name] == ["deno", "ffmpeg"]


# streams


async def ids_published(pair: Pair, who: Somebody, after: str = "0") -> list[str]:
    """The ids of all progress that was published to this user after that id, as Redis has them."""
    kv = KV(pair.redis_url, pair.redis_prefix)
    entries: Any = await kv.client.xrange(kv.key("events", str(who.user_id)))
    await kv.close()
    ids = [id for id, fields in entries if json.loads(fields["e"])["type"] == "progress"]
    return [id for id in ids if order(id) > order(after)]


async def test_a_download_is_watched_at_either_process_to_its_end(pair: Pair, ann: Somebody, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_throttle=ORDINARY)
    id = (await ask(ann.a, youtube.url("ordinary"), quality="360p"))["id"]
    async with asyncio.timeout(60):
        seen = await asyncio.gather(*(sse(person.session, id) for person in (ann.a, ann.b)), socket(ann.b.session, id))
    for types, status in seen:
        assert (types[0], types[-1], status) == ("snapshot", "done", "completed")
        assert types.count("progress") > 2


async def sse(session: aiohttp.ClientSession, id: str) -> tuple[list[str], str]:
    async with session.get(f"/api/v1/downloads/{id}/events") as answer:
        events = [event async for event in told(answer)]
    return [event.type for event in events], events[-1].data["status"]


async def socket(session: aiohttp.ClientSession, id: str) -> tuple[list[str], str]:
    async with session.ws_connect(f"/api/v1/downloads/{id}/ws") as connection:
        events = [json.loads(message.data) async for message in connection]
    return [event["type"] for event in events], events[-1]["data"]["status"]


async def some(answer: aiohttp.ClientResponse, progresses: int) -> list[Told]:
    """What a stream tells until so many reports of progress have come; then it is closed."""
    events: list[Told] = []
    async with answer:
        async for event in told(answer):
            events.append(event)
            if [e.type for e in events].count("progress") == progresses:
                break
    return events


async def test_a_stream_of_one_process_is_continued_by_the_other(pair: Pair, ann: Somebody, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_throttle=ORDINARY)
    id = (await ask(ann.a, youtube.url("ordinary"), quality="360p"))["id"]
    first = await some(await ann.a.get(f"/downloads/{id}/events"), 2)
    # Something happens while nobody listens.
    async with asyncio.timeout(30):
        while len(await ids_published(pair, ann, after=first[-1].id)) < 2:  # noqa: ASYNC110 - by another process
            await asyncio.sleep(0.1)
    came_back = await ann.b.get(f"/downloads/{id}/events", headers={"Last-Event-ID": first[-1].id})
    async with asyncio.timeout(60):
        rest = [event async for event in told(came_back)]
    ids = [event.id for event in first + rest if event.type == "progress"]
    published = await ids_published(pair, ann)
    missed = published[published.index(ids[1]) + 1 :][:2]
    assert ids == sorted(set(ids), key=order) and ids[2:4] == missed != []
    assert rest[-1].type == "done" and "snapshot" not in {event.type for event in rest}


@pytest.mark.parametrize("kind", [KIND])
async def test_progress_passes_the_front_while_the_download_runs(
    pair: Pair, ann: Somebody, youtube: YouTube, kind: str
) -> None:
    youtube.misbehave("*", media_throttle=SLOW)
    job = await begun(pair, ann, youtube.url("big008_0005"))
    async with fronting([pair.a.url, pair.b.url]) as front, asyncio.timeout(30):
        path = f"/downloads/{job.id}"
        events = await some(await front.ask(ann.a.session, "GET", f"{path}/events"), 2)
        async with ann.a.session.ws_connect(f"{front.addresses[0]}/api/v1{path}/ws") as connection:
            messages = [(await connection.receive_json())["type"] for _ in range(3)]
    await job.at_other.post(f"/downloads/{job.id}/cancel")
    assert events[0].type == messages[0] == "snapshot" and {events[-1].type, messages[-1]} == {"progress"}


# cancelling, deleting, trying again


async def test_a_cancel_at_one_process_ends_a_job_of_the_other_at_once(
    pair: Pair, ann: Somebody, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=SLOW)
    job = await begun(pair, ann, youtube.url("big008_0001"))
    processes = at_work(job.runner)
    assert (await job.at_other.post(f"/downloads/{job.id}/cancel")).status == 202
    await ended(job.at_other, job.id, 15)
    assert (await look(job.at_runner, job.id))["status"] == "cancelled"
    assert processes and not any(map(psutil.Process.is_running, processes))
    await soon(lambda: not (pair.data / "work" / job.id).exists(), 15)


async def test_what_was_cancelled_at_one_process_is_tried_again_at_the_other(
    pair: Pair, ann: Somebody, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=SLOW)
    job = await begun(pair, ann, youtube.url("big008_0004"))
    await job.at_runner.post(f"/downloads/{job.id}/cancel")
    assert (await ended(job.at_runner, job.id, 15))["status"] == "cancelled"
    youtube.behave()
    assert (await job.at_other.post(f"/downloads/{job.id}/retry")).status == 202
    done = [await ended(person, job.id) for person in (job.at_runner, job.at_other)]
    assert [d["status"] for d in done] == ["completed", "completed"]


async def test_a_delete_at_one_process_ends_the_job_of_the_other_and_its_stream(
    pair: Pair, ann: Somebody, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=SLOW)
    job = await begun(pair, ann, youtube.url("big008_0002"))
    stream = told(await job.at_runner.get(f"/downloads/{job.id}/events"))
    assert (await anext(stream)).type == "snapshot"
    assert (await job.at_other.delete(f"/downloads/{job.id}")).status == 204
    async with asyncio.timeout(HEARTBEAT_SECONDS - 3):
        assert [event async for event in stream][-1].data["status"] == "deleted"
    assert (await job.at_runner.get(f"/downloads/{job.id}")).status == 404
    await soon(lambda: not at_work(job.runner) and not (pair.data / "work" / job.id).exists(), 15)


async def test_a_deleted_file_is_gone_at_both(pair: Pair, ann: Somebody, youtube: YouTube) -> None:
    id = (await fetched(ann.a, youtube.url("ordinary"), quality="144p"))["id"]
    assert (await ann.b.get(f"/downloads/{id}/file")).status == 200
    assert (await ann.a.delete(f"/downloads/{id}")).status == 204
    async with asyncio.timeout(15):
        while await file_statuses(ann, id) != [404, 404]:  # noqa: ASYNC110 - the word of it goes by Redis
            await asyncio.sleep(0.05)


async def file_statuses(who: Somebody, id: str) -> list[int]:
    return [(await person.get(f"/downloads/{id}/file")).status for person in (who.a, who.b)]


async def test_the_janitor_of_another_process_leaves_a_running_jobs_folder(
    pair: Pair, ann: Somebody, youtube: YouTube
) -> None:
    """The test is one more process over the same database and folder."""
    youtube.misbehave("*", media_throttle=SLOW)
    job = await begun(pair, ann, youtube.url("big008_0003"))
    db = DB(pair.database_url, size=2)
    await db.open()
    await Janitor(db, Storage(pair.data)).sweep()
    kept = list((pair.data / "work" / job.id).iterdir())
    await job.at_other.post(f"/downloads/{job.id}/cancel")
    await ended(job.at_other, job.id)
    await db.close()
    assert kept


# files


async def test_a_file_of_one_process_is_handed_out_by_the_other_whole_and_in_parts(
    ann: Somebody, youtube: YouTube
) -> None:
    done = await fetched(ann.a, youtube.url("ordinary"), quality="144p")
    path = f"/downloads/{done['id']}/file"
    at_a = await ann.a.get(path, headers={"Range": "bytes=0-9999"})
    tag, start = at_a.headers["ETag"], await at_a.read()
    at_b = await ann.b.get(path, headers={"Range": "bytes=10000-", "If-Range": tag})
    assert (at_a.status, at_b.status, at_b.headers["ETag"]) == (206, 206, tag)
    assert hashlib.sha256(start + await at_b.read()).hexdigest() == done["file"]["sha256"]
    whole = await (await ann.b.get(path, headers={"Range": "bytes=10000-", "If-Range": '"other"'})).read()
    assert hashlib.sha256(whole).hexdigest() == done["file"]["sha256"]


# sessions


async def test_a_ticket_of_one_process_is_redeemed_once_at_the_other(
    pair: Pair, ann: Somebody, youtube: YouTube
) -> None:
    id = (await fetched(ann.a, youtube.url("ordinary"), quality="144p"))["id"]
    ticket = (await (await ann.a.post("/auth/ticket")).json())["ticket"]
    path = f"/api/v1/downloads/{id}/file?ticket={ticket}"
    async with aiohttp.ClientSession() as nobody:
        answers = [await nobody.get(url + path) for url in (pair.b.url, pair.b.url, pair.a.url)]
    assert [answer.status for answer in answers] == [200, 401, 401]


async def test_a_sign_out_at_one_process_counts_at_the_other_within_a_second(pair: Pair) -> None:
    """Without being told it would not be noticed before. Up to three times, as a machine may stand still meanwhile."""
    for _ in range(3):
        async with somebody(pair) as one:
            if await seconds_to_sign_out(one) < BELIEVED_SECONDS:
                return
    pytest.fail("it was noticed no sooner than without a word")


async def seconds_to_sign_out(who: Somebody) -> float:
    """From when one process has seen the session until it knows that the other one has ended it."""
    begun = time.monotonic()
    assert (await who.b.get("/auth/profile")).status == 200
    stream = await who.b.get("/downloads/events")
    assert (await who.a.post("/auth/logout")).status == 204
    async with asyncio.timeout(30):
        while (await who.b.get("/auth/profile")).status != 401:  # noqa: ASYNC110 - it is told by Redis
            await asyncio.sleep(0.02)
    seconds = time.monotonic() - begun
    async with asyncio.timeout(HEARTBEAT_SECONDS - 3):
        assert [event.type async for event in told(stream)] == ["snapshot"]
    return seconds


# limits


async def test_a_users_limit_holds_over_both_processes(pair: Pair, ann: Somebody, youtube: YouTube) -> None:
    youtube.misbehave("*", media_throttle=SLOW)
    ids = [(await ask(ann.a, youtube.url(f"big008_01{n:02}"), quality="360p"))["id"] for n in range(2 * USER_CAP)]
    await until(ann.b, ids[0], lambda d: d["status"] == "downloading")
    async with asyncio.timeout(20):
        while await running(ann, ids) < USER_CAP:  # noqa: ASYNC110 - they begin one after the other
            await asyncio.sleep(0.1)
    counts = []
    for _ in range(10):
        counts.append(await running(ann, ids))
        await asyncio.sleep(0.1)
    for id in ids:
        await ann.b.post(f"/downloads/{id}/cancel")
    assert max(counts) == USER_CAP


async def running(who: Somebody, ids: list[str]) -> int:
    page = await (await who.b.get("/downloads", params={"limit": "50"})).json()
    return sum(d["status"] in ("downloading", "processing") for d in page["items"] if d["id"] in ids)


async def test_both_processes_take_jobs_and_none_twice(pair: Pair, ann: Somebody, youtube: YouTube) -> None:
    async with somebody(pair) as ben:
        youtube.misbehave("*", media_throttle=SLOW)
        ids = [(await ask(ben.a, youtube.url(f"big008_02{n:02}"), quality="360p"))["id"] for n in range(USER_CAP)]
        more = [(await ask(ann.b, youtube.url(f"big008_03{n:02}"), quality="360p"))["id"] for n in range(USER_CAP)]
        await soon(lambda: bool(at_work(pair.a) and at_work(pair.b)), 30)
        await soon(lambda: len(work_folders(pair, ids + more)) == 2 * USER_CAP, 30)
        attempts = [len(folder) for folder in work_folders(pair, ids + more)]
        for person, id in [(ben.b, id) for id in ids] + [(ann.a, id) for id in more]:
            await person.post(f"/downloads/{id}/cancel")
        assert attempts == [1] * 2 * USER_CAP


def work_folders(pair: Pair, ids: list[str]) -> list[list[Path]]:
    folders = [pair.data / "work" / id for id in ids]
    return [list(folder.iterdir()) for folder in folders if folder.exists()]
