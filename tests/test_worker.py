"""The worker under all that can happen to a download while it runs."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import Person, Service, running
from tests.fakes.youtube import YouTube
from tests.fetching import names, write_slow_ffmpeg
from tests.following import Download, ask, ended, look, until
from ytdl import queue
from ytdl.api.keys import DB, EVENTS, WORKER
from ytdl.config import Config
from ytdl.sql import Query

SLOW = 20_000


def children(service: Service) -> list[str]:
    """Names of all that the service's fork server has to answer for: jobs, their ffmpeg, orphans of either."""
    return names(psutil.Process(fork_server(service)).children(recursive=True))


def fork_server(service: Service) -> int:
    pid = service.app[WORKER]._fetcher.zygote_pid
    assert pid is not None
    return pid


def leftovers(service: Service) -> list[str]:
    data = service.config.data_dir
    return [str(p) for folder in ("work", "media") for p in (data / folder).iterdir()]


async def in_stage(person: Person, id: str, stage: str) -> Download:
    return await until(person, id, lambda d: d["progress"]["stage"] == stage)


async def cancel_takes(person: Person, id: str) -> float:
    """Seconds from the request to `cancelled`; a fork server that did not kill would be waited for longer than 4."""
    begun = time.monotonic()
    assert (await person.post(f"/downloads/{id}/cancel")).status == 202
    await until(person, id, lambda d: d["status"] == "cancelled")
    return time.monotonic() - begun


async def nothing_is_left(service: Service) -> bool:
    """No process as soon as the end is said; no file a moment later."""
    gone = children(service) == []
    await eventually(lambda: leftovers(service) == [])
    return gone


async def test_cancelling_an_extraction_leaves_nothing(ann: Person, youtube: YouTube, downloading: Service) -> None:
    youtube.misbehave("ordinary", player_delay=20.0)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await in_stage(ann, id, "extracting")
    # It is in this stage from when it is leased, which is before it has a process.
    await eventually(lambda: any(name.startswith("ytdl ") for name in children(downloading)))
    assert await cancel_takes(ann, id) < 4
    assert await nothing_is_left(downloading)


async def test_cancelling_a_transfer_leaves_nothing(ann: Person, youtube: YouTube, downloading: Service) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    assert children(downloading)[0].startswith("ytdl ") and leftovers(downloading)
    assert await cancel_takes(ann, id) < 4
    assert await nothing_is_left(downloading)


@pytest.fixture
async def encoding_slowly(
    downloading_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """A service whose ffmpeg starts and then takes its time."""
    Path(write_slow_ffmpeg(tmp_path)).rename(tmp_path / "ffmpeg")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    async with running(downloading_config) as service:
        yield service


async def test_cancelling_the_processing_leaves_nothing(youtube: YouTube, encoding_slowly: Service) -> None:
    async with encoding_slowly.person("carl") as carl:
        id = (await ask(carl, youtube.url("ordinary"), format="mp3"))["id"]
        await in_stage(carl, id, "processing")
        await eventually(lambda: children(encoding_slowly)[1:] == ["sleep"])
        assert await cancel_takes(carl, id) < 4
    assert await nothing_is_left(encoding_slowly)


async def test_deleting_a_running_download_stops_it(ann: Person, youtube: YouTube, downloading: Service) -> None:
    youtube.misbehave("ordinary", media_throttle=SLOW)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    assert children(downloading) and leftovers(downloading)
    await ann.delete(f"/downloads/{id}")
    await eventually(lambda: not children(downloading) and not leftovers(downloading))


async def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# Faults upstream: name, what the stand-in does, and which code the first attempt shows.
TRANSIENT = {
    "forbidden": ({"media_status": 403}, "upstream_forbidden"),
    "broken": ({"media_status": 503}, "upstream_error"),
    "stalled": ({"media_stall_after": 40_000}, "upstream_stalled"),
    "cut": ({"media_cut_after": 10_000}, "upstream_truncated"),
}


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_passing_fault_is_said_and_tried_again(
    ann: Person, youtube: YouTube, downloading: Service, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Until it is hurried, however slow this test is.
    monkeypatch.setattr(queue, "backoff", lambda *_: 600.0)
    fields, code = TRANSIENT[fault]
    youtube.misbehave("ordinary", **fields)
    id = (await ask(ann, youtube.url("ordinary"), quality="360p"))["id"]
    waiting = await until(ann, id, lambda d: d["error"] is not None, 60)
    assert (waiting["status"], waiting["error"]["code"], waiting["error"]["retryable"]) == (
        "queued",
        code,
        True,
    )
    assert waiting["next_attempt_at"] is not None and waiting["error"]["hint"]
    youtube.behave()
    await hurry(downloading)
    assert (await ended(ann, id))["status"] == "completed"


async def hurry(service: Service) -> None:
    """Makes every waiting retry due now; the reconciler tells the index."""
    due = Query("test.hurry", "exec", "", b"UPDATE jobs SET run_at = now() WHERE state = 'retry_wait'")
    await service.app[DB].exec(due)
    await service.app[WORKER]._queue.index.reconcile()
    await service.app[EVENTS].tell("wake", "")


async def test_a_fault_that_stays_ends_in_failed(ann: Person, youtube: YouTube, downloading: Service) -> None:
    youtube.misbehave("ordinary", player_status=500)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    download = await ended(ann, id, 60)
    assert (download["status"], download["attempts"], download["error"]["code"]) == (
        "failed",
        5,
        "upstream_error",
    )


async def test_a_cancelled_download_is_no_failure(ann: Person, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", player_status=500)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await until(ann, id, lambda d: d["error"] is not None)
    await ann.post(f"/downloads/{id}/cancel")
    assert (await ended(ann, id))["status"] == "cancelled"


async def test_a_lost_lease_stops_the_attempt_and_another_completes(
    ann: Person, youtube: YouTube, downloading: Service
) -> None:
    youtube.misbehave("ordinary", media_throttle=10_000)
    id = (await ask(ann, youtube.url("ordinary"), quality="360p"))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    (old,) = children(downloading)
    lose = Query(
        "test.lose",
        "exec",
        "",
        b"UPDATE jobs SET lease_until = now() - interval '1 s' WHERE state = 'running' AND crashes = 0",
    )
    # A beat that comes in between renews it.
    async with asyncio.timeout(20):
        while await downloading.app[DB].exec(lose):
            await downloading.app[WORKER]._attempts.reap()
    # This process takes the job again itself; the attempt that lost it must not go on beside the new one.
    await eventually(lambda: len(now := children(downloading)) == 1 and old not in now, 20)
    youtube.behave()
    done = await ended(ann, id, 60)
    assert (done["status"], done["attempts"]) == ("completed", 2)
    rows = await (await ann.get(f"/downloads/{id}/logs")).json()
    assert [r["status"] for r in rows] == ["lost", "completed"]
    assert children(downloading) == []


async def test_no_job_starts_on_a_disk_that_is_nearly_full(downloading_config: Config, youtube: YouTube) -> None:
    config = dataclasses.replace(downloading_config, download_min_free_bytes=2**60)
    async with running(config) as service, service.person("carl") as carl:
        id = (await ask(carl, youtube.url("ordinary")))["id"]
        await asyncio.sleep(1.5)
        assert (await look(carl, id))["status"] == "queued"


async def test_one_user_does_not_take_all_places(downloading_config: Config, youtube: YouTube) -> None:
    youtube.misbehave("*", media_throttle=20_000)
    config = dataclasses.replace(downloading_config, download_user_concurrency=2)
    async with running(config) as service, service.person("carl") as carl, service.person("dora") as dora:
        for n in range(4):
            await ask(carl, youtube.url(f"many_{n:06}"))
        late = await ask(dora, youtube.url("many_000009"))
        await until(dora, late["id"], lambda d: d["status"] == "downloading")
        async with asyncio.timeout(20):
            while (found := await statuses(carl)).count("downloading") < 2:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.05)
        assert found == ["downloading", "downloading", "queued", "queued"]


async def statuses(person: Person) -> list[str]:
    items = (await (await person.get("/downloads")).json())["items"]
    return sorted(d["status"] for d in items)


async def test_draining_hands_running_jobs_back_without_blame(downloading_config: Config, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_throttle=2 * SLOW)
    async with running(downloading_config) as service, service.person("carl") as carl:
        id = (await ask(carl, youtube.url("ordinary"), quality="720p"))["id"]
        seen = await until(carl, id, lambda d: d["progress"]["downloaded_bytes"] > 60_000)
        assert len(children(service)) == 1
        await service.app[WORKER].drain()
        assert children(service) == []
        after = await look(carl, id)
        rows = await (await carl.get(f"/downloads/{id}/logs")).json()
        token = carl.token
    assert (after["status"], [r["status"] for r in rows]) == ("queued", ["yielded"])
    youtube.behave()
    async with running(downloading_config) as service:
        carl = Person(carl.user_id, token, "", service.client)
        service.client.headers["Authorization"] = f"Bearer {token}"
        done = await ended(carl, id)
        last = (await (await carl.get(f"/downloads/{id}/logs")).json())[-1]
    assert (done["status"], last["retries"]) == ("completed", 0)
    # What the first attempt had is not fetched again.
    assert last["downloaded_bytes"] <= done["file"]["size_bytes"] - seen["progress"]["downloaded_bytes"] * 0.9


async def test_an_api_only_process_leaves_the_work_to_others(
    service: Service, alice: Person, downloading_config: Config, youtube: YouTube
) -> None:
    id = (await ask(alice, youtube.url("ordinary"), quality="144p"))["id"]
    await asyncio.sleep(0.5)
    assert (await look(alice, id))["status"] == "queued"
    here = service.config
    same = dataclasses.replace(
        downloading_config, database_url=here.database_url, redis_prefix=here.redis_prefix, data_dir=here.data_dir
    )
    async with running(same):
        assert (await ended(alice, id))["status"] == "completed"


async def test_nothing_is_said_of_the_server_in_an_error(ann: Person, youtube: YouTube, downloading: Service) -> None:
    async def message(name: str) -> str:
        return str((await ended(ann, (await ask(ann, youtube.url(name)))["id"]))["error"]["message"])

    look_at: Callable[[str], Awaitable[str]] = message
    for name in ("private", "geo_blocked", "members_only"):
        text = await look_at(name)
        assert str(downloading.config.data_dir) not in text and "Traceback" not in text and "127.0.0.1" not in text
