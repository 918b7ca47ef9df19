"""Cookies in the whole service: for their user's downloads alone, and in nothing that is written or shown."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.conftest import Person, Service, running
from tests.cookiefiles import SID, cookies_of, line, lock, signed_in
from tests.fakes.youtube import YouTube
from tests.following import Download, ask, ended, until
from tests.queueing import count, sql
from ytdl import metrics
from ytdl.api.keys import COOKIES, DB, KV, WORKER
from ytdl.config import Config
from ytdl.cookies import NOTHING, Cookies, Loan
from ytdl.fetcher import Account
from ytdl.log import Lines
from ytdl.queue import Claim
from ytdl.vault import Vault

SAPISID = f"sap/{SID}"


@pytest.fixture
def cookie_config(downloading_config: Config, youtube: YouTube) -> Config:
    youtube.forget()
    return dataclasses.replace(downloading_config, ytdlp_extractor_args=youtube.account_args)


@pytest_asyncio.fixture
async def downloading(cookie_config: Config) -> AsyncIterator[Service]:
    async with running(cookie_config) as service:
        yield service


async def upload(person: Person, text: str = "") -> None:
    assert (await person.put("/cookies", {"cookies": text or signed_in()})).status == 200


async def state(person: Person) -> dict[str, Any]:
    body: dict[str, Any] = await (await person.get("/cookies")).json()
    return body


async def outcome(person: Person, youtube: YouTube, video: str = "ordinary") -> str:
    """`completed`, or the code of the failure."""
    return result(await ended(person, (await ask(person, youtube.url(video), quality="360p"))["id"]))


def result(download: Download) -> str:
    return str(download["error"]["code"] if download["error"] else download["status"])


async def test_a_locked_video_is_downloaded_with_its_users_cookies(ann: Person, youtube: YouTube) -> None:
    lock(youtube)
    await upload(ann)
    accepted = count(metrics.cookies_used, outcome="accepted")
    assert await outcome(ann, youtube) == "completed"
    assert cookies_of(youtube) == ["nobody", SID]
    said = await state(ann)
    assert said["status"] == "valid" and said["last_used_at"] > said["uploaded_at"]
    assert count(metrics.cookies_used, outcome="accepted") == accepted + 1


async def test_a_download_of_another_user_never_has_them(ann: Person, ben: Person, youtube: YouTube) -> None:
    """Together, so that they run side by side in one fork server."""
    lock(youtube)
    await upload(ann)
    results = await asyncio.gather(outcome(ben, youtube), outcome(ann, youtube))
    assert list(results) == ["age_restricted", "completed"]
    assert cookies_of(youtube).count(SID) == 1


async def test_with_two_users_each_is_shown_to_the_site_as_itself(ann: Person, ben: Person, youtube: YouTube) -> None:
    lock(youtube)
    youtube.misbehave("second", player_locked="members_only", player_account="sid-of-ben")
    await upload(ann)
    await upload(ben, signed_in("sid-of-ben"))
    results = await asyncio.gather(outcome(ann, youtube), outcome(ben, youtube, "second"))
    assert list(results) == ["completed", "completed"]
    whose = {(seen.video, cookie) for seen, cookie in zip(_watched(youtube), cookies_of(youtube), strict=True)}
    assert whose - {(video, "nobody") for video, _ in whose} == {("ordinary_01", SID), ("ordinary_02", "sid-of-ben")}


def _watched(youtube: YouTube) -> list[Any]:
    return [seen for seen in youtube.requests if seen.path == "/watch"]


async def test_an_upload_lets_a_failed_download_succeed_and_no_request_is_wasted(ann: Person, youtube: YouTube) -> None:
    lock(youtube)
    id = (await ask(ann, youtube.url("ordinary"), quality="360p"))["id"]
    failed = await ended(ann, id)
    assert result(failed) == "age_restricted" and "upload cookies" in failed["error"]["hint"]
    await upload(ann)
    assert (await ann.post(f"/downloads/{id}/retry")).status == 202
    assert result(await ended(ann, id)) == "completed"
    assert cookies_of(youtube) == ["nobody", SID]


async def test_refused_cookies_are_tried_once(ann: Person, youtube: YouTube) -> None:
    lock(youtube)
    await upload(ann, signed_in("of nobody"))
    for _ in range(2):
        assert await outcome(ann, youtube) == "cookies_refused"
    said = await state(ann)
    assert said["status"] == "refused" and said["refused_at"] >= said["last_used_at"]
    assert cookies_of(youtube) == ["nobody", "of nobody", "nobody"]
    await upload(ann)
    assert await outcome(ann, youtube) == "completed"


async def test_cookies_that_are_removed_while_a_download_waits_are_not_used(
    cookie_config: Config, youtube: YouTube
) -> None:
    lock(youtube)
    youtube.misbehave("second", media_throttle=20_000)
    async with (
        running(dataclasses.replace(cookie_config, download_concurrency=1)) as service,
        service.person("ann") as ann,
    ):
        await upload(ann)
        first = (await ask(ann, youtube.url("second")))["id"]
        await until(ann, first, lambda d: d["progress"]["downloaded_bytes"] > 0)
        waiting = (await ask(ann, youtube.url("ordinary")))["id"]
        assert (await ann.delete("/cookies")).status == 204
        await ann.post(f"/downloads/{first}/cancel")
        assert result(await ended(ann, waiting)) == "age_restricted"
    assert set(cookies_of(youtube)) == {"nobody"}


async def test_cookies_reach_a_worker_in_another_process(
    config: Config, cookie_config: Config, youtube: YouTube
) -> None:
    lock(youtube)
    cookie_config = dataclasses.replace(cookie_config, redis_prefix=config.redis_prefix)
    async with running(config) as front, front.person("ann") as ann:
        await upload(ann)
        async with running(cookie_config):
            assert await outcome(ann, youtube) == "completed"
    assert cookies_of(youtube) == ["nobody", SID]


async def test_an_account_that_is_told_to_slow_down_closes_the_way_for_nobody(
    ann: Person, youtube: YouTube, downloading: Service
) -> None:
    lock(youtube)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await ended(ann, id)
    await upload(ann)
    youtube.misbehave("ordinary", player_status=429)
    await ann.post(f"/downloads/{id}/retry")
    waiting = await until(ann, id, lambda d: d["status"] == "queued" and d["error"] is not None)
    assert result(waiting) == "rate_limited" and cookies_of(youtube)[-1] == SID
    lanes = "SELECT state, (SELECT extract(epoch FROM max(run_at) - now()) > 880 FROM jobs) FROM egress_lanes"
    assert await sql(downloading.app[DB], lanes) == [("open", True)]


async def test_an_older_upload_says_nothing_of_a_newer_one(ann: Person, youtube: YouTube) -> None:
    lock(youtube)
    youtube.misbehave("ordinary", page_delay=1.0)
    await upload(ann, signed_in("of nobody"))
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await until_seen(lambda: "of nobody" in cookies_of(youtube))
    await upload(ann)
    assert result(await ended(ann, id)) == "cookies_refused"
    assert (await state(ann))["status"] == "unproven"


async def until_seen(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what it waits for is outside this process
            await asyncio.sleep(0.02)


# where they are not


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a process that has just ended, or a socket
        return b""


def remembers(pid: int, text: str) -> bool:
    """Whether it stands in anything that a process can write to."""
    found = False
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for region in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, _, last = region.split()[0].partition("-")
            if region.split()[1].startswith("rw"):
                memory.seek(int(first, 16))
                with contextlib.suppress(OSError):
                    found = found or text.encode() in memory.read(int(last, 16) - int(first, 16))
    return found


async def tables(service: Service) -> bytes:
    """The text of every row of every table."""
    names = await sql(service.app[DB], "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [await sql(service.app[DB], f"SELECT t::text FROM {name} t") for (name,) in names]
    return str(rows).encode()


async def redis(service: Service) -> bytes:
    """Every key and what is in it."""
    client: Any = service.app[KV].client
    look: dict[str, Callable[[str], Awaitable[Any]]] = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
        "list": lambda key: client.lrange(key, 0, -1),
        "stream": client.xrange,
    }
    keys = [key async for key in client.scan_iter(f"{service.config.redis_prefix}*")]
    return str([(key, await look[await client.type(key)](key)) for key in keys]).encode()


def holds(place: bytes, text: str) -> bool:
    """As it is, or as PostgreSQL shows bytes."""
    return text.encode() in place or text.encode().hex().encode() in place


def processes(service: Service) -> bytes:
    """What anybody may see of the service, its fork server and their children."""
    mother = psutil.Process()
    pids = [mother.pid, *(child.pid for child in mother.children(recursive=True))]
    assert len(pids) > 3
    return b"".join(_read(Path(f"/proc/{pid}/{what}")) for pid in pids for what in ("environ", "cmdline", "comm"))


# The page is asked for by nobody first.
ASKING: dict[str, Any] = {"page_delay": 15.0, "skip": 1}


@pytest.mark.parametrize("fault", [ASKING, {"media_throttle": 20_000}], ids=["asking", "fetching"])
async def test_while_a_job_runs_its_cookies_are_in_its_own_memory_alone(
    ann: Person, youtube: YouTube, downloading: Service, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    lock(youtube)
    youtube.misbehave("ordinary", **fault)
    await upload(ann)
    id = (await ask(ann, youtube.url("ordinary"), quality="360p"))["id"]
    await until_seen(lambda: SID in cookies_of(youtube))
    if "media_throttle" in fault:
        await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    zygote = downloading.app[WORKER]._fetcher.zygote_pid or 0
    files = b"".join(_read(path) for path in downloading.config.data_dir.rglob("*") if path.is_file())
    shown = await (await ann.get(f"/downloads/{id}")).text() + await (await ann.get("//metrics")).text()
    logged = "".join(Lines().format(record) for record in caplog.records)
    places = {
        "files": files, "tables": await tables(downloading), "redis": await redis(downloading),
        "processes": processes(downloading), "answers": shown.encode(),
        "log": logged.encode(),
    }  # fmt: skip
    assert all(places.values()) and [name for name, place in places.items() if holds(place, SID)] == []
    assert not remembers(zygote, SID)
    # It would be found where it is.
    assert "media_throttle" in fault or any(remembers(p.pid, SID) for p in psutil.Process(zygote).children(True))
    await ann.post(f"/downloads/{id}/cancel")
    await ended(ann, id)


async def test_a_failure_that_is_logged_whole_shows_no_cookie(
    ann: Person, youtube: YouTube, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    lock(youtube)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await ended(ann, id)
    await upload(ann)
    youtube.misbehave("ordinary", player_garbage=True)
    await ann.post(f"/downloads/{id}/retry")
    await until(ann, id, lambda d: d["error"] is not None and d["error"]["code"] != "age_restricted")
    assert SID in cookies_of(youtube)
    logged = "".join(Lines().format(record) for record in caplog.records)
    assert "Traceback" in logged and SID not in logged and SAPISID not in logged


# leases and keys


@pytest.fixture
async def leased(ann: Person, youtube: YouTube, downloading: Service) -> Claim:
    """The claim of a job of ann's that runs for as long as the test."""
    youtube.misbehave("second", media_throttle=20_000)
    id = (await ask(ann, youtube.url("second")))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    (run,) = downloading.app[WORKER]._runs.values()
    return run.started.claim


async def test_only_a_running_attempt_is_lent_anything(ann: Person, downloading: Service, leased: Claim) -> None:
    cookies = downloading.app[COOKIES]
    await upload(ann)
    assert (await cookies.lend(leased, needed=False)).account.cookies
    stale = dataclasses.replace(leased, fence=leased.fence - 1)
    assert await cookies.lend(stale, needed=True) == NOTHING
    assert await sql(downloading.app[DB], "SELECT needs_account FROM downloads") == [(False,)]


async def test_whose_cookies_are_lent_is_for_the_database_to_say(
    ann: Person, ben: Person, downloading: Service, leased: Claim
) -> None:
    await upload(ben)
    forged = dataclasses.replace(leased, user_id=ben.user_id)
    assert await downloading.app[COOKIES].lend(forged, needed=False) == NOTHING


async def test_each_loan_is_in_the_audit_trail(ann: Person, downloading: Service, leased: Claim) -> None:
    await upload(ann)
    await downloading.app[COOKIES].lend(leased, needed=False)
    told = "SELECT user_id, object_id, detail->>'job' FROM audit_events WHERE type = 'sensitive_read'"
    assert await sql(downloading.app[DB], told) == [(ann.user_id, str(ann.user_id), str(leased.job))]


async def test_cookies_whose_key_is_lost_keep_no_download_waiting(
    ann: Person, downloading: Service, leased: Claim
) -> None:
    await upload(ann)
    stranger = Cookies(downloading.app[DB], Vault([bytes(32)]))
    assert await stranger.lend(leased, needed=True) == Loan(Account(missing="unreadable"))
    seen = await stranger.state(ann.user_id)
    assert (seen.status, seen.last_used_at) == ("unreadable", None)
    assert await sql(downloading.app[DB], "SELECT 1 FROM audit_events WHERE type = 'sensitive_read'") == []


async def test_cookies_that_are_damaged_are_shown_as_such_until_the_next_upload(
    ann: Person, downloading: Service
) -> None:
    await upload(ann)
    await sql(downloading.app[DB], "UPDATE sealed_values SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)")
    assert (await state(ann))["status"] == "unreadable"
    await upload(ann)
    assert (await state(ann))["status"] == "unproven"


async def test_the_gauges_count_cookies_whose_key_is_lost_apart(ann: Person, downloading: Service) -> None:
    await upload(ann)
    await until_measured(Cookies(downloading.app[DB], Vault([bytes(32)])), unproven=0, unreadable=1)
    assert count(metrics.cookies_oldest_uploaded) == 0


async def test_the_gauges_count_users_and_tell_the_age_and_the_end(
    ann: Person, ben: Person, downloading: Service
) -> None:
    cookies, soon = downloading.app[COOKIES], int(time.time()) + 3600
    await upload(ann, signed_in(SID, line("__Secure-1PSID", "x", expires=soon)))
    await upload(ben, signed_in(expires=0))
    await sql(downloading.app[DB], "UPDATE cookies SET refused_at = now() WHERE user_id = %s", ben.user_id)
    await until_measured(cookies, unproven=1, refused=1)
    assert count(metrics.cookies_first_expiry) == soon
    assert abs(count(metrics.cookies_oldest_uploaded) - time.time()) < 60


async def until_measured(cookies: Cookies, **users: int) -> None:
    """The service's own round sets the same gauges, and may have looked before."""
    async with asyncio.timeout(30):
        await cookies.measure()
        while {status: count(metrics.cookies_state, status=status) for status in users} != users:
            await cookies.measure()


async def test_the_age_of_the_operators_file_is_told(cookie_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "operator.txt"
    file.write_text(signed_in())
    os.utime(file, (1_700_000_000, 1_700_000_000))
    async with running(dataclasses.replace(cookie_config, ytdlp_cookies_file=str(file), download_concurrency=0)):
        await until_seen(lambda: count(metrics.cookies_file_modified) == 1_700_000_000)
