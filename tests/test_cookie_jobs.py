"""Cookies while downloads run: asked for when needed, their user's alone, and nowhere to be found afterwards.

The stand-in locks a video to the account whose SID it is told; what it was sent by whom stands in its log.
"""

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
from tests.cookiefiles import SID, line, signed_in
from tests.fakes.youtube import YouTube
from tests.fetching import order_for, settings_for
from tests.following import Download, ask, ended, until
from tests.queueing import count, sql
from ytdl import metrics, netscape
from ytdl.api.keys import COOKIES, DB, KV, WORKER
from ytdl.config import Config
from ytdl.cookies import NOTHING, Cookies
from ytdl.fetcher import Account, Cookie, Fetcher, FetchFailed, Locked
from ytdl.log import Lines
from ytdl.queue import Claim
from ytdl.vault import Vault

SAPISID = f"sap/{SID}"


def cookies_of(youtube: YouTube, path: str = "/watch") -> list[str]:
    """Whose SID came with each request to a path, `nobody` where none did."""
    sent = [seen.cookie for seen in youtube.requests if seen.path == path]
    return [cookie.partition("SID=")[2].partition(";")[0] if "SID=" in cookie else "nobody" for cookie in sent]


def lock(youtube: YouTube, video: str = "ordinary", *, how: str = "age_restricted", **more: Any) -> None:
    youtube.misbehave(video, player_locked=how, player_account=SID, **more)


# one job


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fetcher(youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fetcher]:
    folder = tmp_path_factory.mktemp("fetcher")
    fetcher = Fetcher(settings_for(youtube_server, folder, extractor_args=youtube_server.account_args))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


@pytest.fixture
def site(youtube: YouTube) -> YouTube:
    youtube.forget()
    return youtube


class Lender:
    """What a job is lent, and what it asked for that with."""

    def __init__(self, text: str = "", missing: Any = "none") -> None:
        cookies = netscape.parse(text, 0.0).cookies if text else []
        self._account = Account(cookies, missing)
        self.asked: list[str | None] = []

    async def __call__(self, locked: Locked) -> Account:
        self.asked.append(locked.code)
        return self._account


async def run(fetcher: Fetcher, site: YouTube, folder: Path, lender: Lender, **order: Any) -> str:
    """`done`, `done as user`, or the code of the failure."""
    seen: list[Any] = []
    try:
        await fetcher.run(order_for(site, folder, quality="360p", **order), seen.append, lend=lender)
    except FetchFailed as e:
        return e.failure.code
    return "done as user" if any(getattr(frame, "signed_in", False) for frame in seen) else "done"


in_module = pytest.mark.asyncio(loop_scope="module")


@in_module
async def test_a_video_for_all_is_fetched_without_cookies(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lender = Lender(signed_in())
    assert await run(fetcher, site, tmp_path, lender) == "done"
    assert (lender.asked, set(cookies_of(site))) == ([], {"nobody"})


@in_module
@pytest.mark.parametrize("how", ["age_restricted", "login_required", "members_only", "private"])
async def test_a_locked_video_is_asked_for_again_as_the_user(
    fetcher: Fetcher, site: YouTube, tmp_path: Path, how: str
) -> None:
    lock(site, how=how)
    lender = Lender(signed_in())
    assert await run(fetcher, site, tmp_path, lender) == "done as user"
    assert lender.asked == [how.replace("private", "video_private")]
    assert cookies_of(site) == ["nobody", SID]


@in_module
async def test_what_is_known_to_be_locked_is_asked_for_as_the_user_at_once(
    fetcher: Fetcher, site: YouTube, tmp_path: Path
) -> None:
    lock(site)
    lender = Lender(signed_in())
    assert await run(fetcher, site, tmp_path, lender, account=True) == "done as user"
    assert (lender.asked, cookies_of(site)) == ([None], [SID])


MISSING = [("none", "age_restricted"), ("expired", "cookies_refused"), ("refused", "cookies_refused")]


@in_module
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("missing", "code"), MISSING)
async def test_without_cookies_the_video_stays_locked(
    fetcher: Fetcher, site: YouTube, tmp_path: Path, missing: str, code: str, known: bool
) -> None:
    lock(site)
    assert await run(fetcher, site, tmp_path, Lender(missing=missing), account=known) == code
    assert cookies_of(site) == ["nobody"]


@in_module
async def test_cookies_that_the_site_does_not_know_are_refused(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lock(site, how="members_only")
    assert await run(fetcher, site, tmp_path, Lender(signed_in("of nobody"))) == "cookies_refused"


@in_module
async def test_an_account_that_is_known_and_may_not_see_the_video_is_no_bad_account(
    fetcher: Fetcher, site: YouTube, tmp_path: Path
) -> None:
    lock(site, how="members_only", player_closed=True)
    assert await run(fetcher, site, tmp_path, Lender(signed_in())) == "members_only"


@in_module
async def test_media_is_fetched_without_cookies_and_by_our_own_transfer(
    fetcher: Fetcher, site: YouTube, tmp_path: Path
) -> None:
    lock(site)
    assert await run(fetcher, site, tmp_path, Lender(signed_in())) == "done as user"
    media = [seen for seen in site.requests if seen.path == "/videoplayback"]
    assert media and {seen.cookie for seen in media} == {""}
    # yt-dlp's own downloader asks for no part first.
    assert {seen.range.partition("=")[0] for seen in media} == {"bytes"}


@in_module
async def test_cookies_follow_no_redirect_to_another_host(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lock(site, page_moved="https://i.ytimg.com/vi/somewhere/else")
    await run(fetcher, site, tmp_path, Lender(signed_in(SID, line("MORE", "wide"))), account=True)
    away = [seen for seen in site.requests if seen.host == "i.ytimg.com"]
    assert away and {seen.cookie for seen in away} == {""}
    assert SID in cookies_of(site)


@in_module
async def test_a_cookie_of_one_host_is_shown_to_no_other(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lock(site)
    text = signed_in(SID, line("MUSIC", "x", domain="music.youtube.com"))
    assert await run(fetcher, site, tmp_path, Lender(text)) == "done as user"
    assert "MUSIC" not in str([seen.cookie for seen in site.requests])


@in_module
async def test_what_the_site_changes_is_not_kept(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    """Each job begins with what was uploaded; nothing of the one before is in the fork server."""
    lock(site, page_cookie="SIDTS=rotated; Domain=.youtube.com; Path=/; Secure")
    for number in range(2):
        lender = Lender(signed_in())
        assert await run(fetcher, site, tmp_path / str(number), lender, account=True) == "done as user"
    watched = [seen.cookie for seen in site.requests if seen.path == "/watch"]
    assert len(watched) == 2 and "rotated" not in str(watched)


@in_module
async def test_a_job_of_another_begins_without_cookies(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lock(site)
    assert await run(fetcher, site, tmp_path / "a", Lender(signed_in()), account=True) == "done as user"
    assert await run(fetcher, site, tmp_path / "b", Lender(), account=True) == "age_restricted"
    assert cookies_of(site) == [SID, "nobody"]


@in_module
async def test_the_largest_of_files_goes_through_the_pipe(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    """More than a pipe holds at once, so that the service must go on telling while the job reads."""
    lock(site)
    cookie = '"' * 300
    account = Account([*netscape.parse(signed_in(), 0.0).cookies] + [
        Cookie("music.youtube.com", False, "/", True, None, f"c{n}", cookie) for n in range(190)
    ])  # fmt: skip

    async def lend(_: Locked) -> Account:
        return account

    done, _ = await fetcher.run(order_for(site, tmp_path, quality="360p"), lambda _: None, lend=lend)
    assert done.size_bytes


@in_module
async def test_a_job_is_cancelled_while_it_waits_for_cookies(fetcher: Fetcher, site: YouTube, tmp_path: Path) -> None:
    lock(site)
    waiting = asyncio.Event()

    async def lend(_: Locked) -> Account:
        waiting.set()
        await asyncio.sleep(60)
        return Account()

    task = asyncio.create_task(fetcher.run(order_for(site, tmp_path), lambda _: None, lend=lend))
    await asyncio.wait_for(waiting.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert psutil.Process(fetcher.zygote_pid).children(recursive=True) == []


async def test_the_operators_cookies_and_the_users_are_never_mixed(youtube: YouTube, tmp_path: Path) -> None:
    youtube.forget()
    lock(youtube)
    file = tmp_path / "operator.txt"
    file.write_text(signed_in("operator", line("OPERATOR", "x")))
    args = youtube.account_args
    fetcher = Fetcher(settings_for(youtube, tmp_path, extractor_args=args, cookies_file=str(file)))
    await fetcher.start()
    try:
        assert await run(fetcher, youtube, tmp_path, Lender(signed_in())) == "done as user"
    finally:
        await fetcher.stop()
    assert cookies_of(youtube) == ["operator", SID]
    assert {SID in seen.cookie for seen in youtube.requests if "OPERATOR" in seen.cookie} == {False}


# the whole service


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
    youtube.misbehave("second", media_throttle=50_000)
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
    async with asyncio.timeout(15):
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


@pytest.mark.parametrize("fault", [{"page_delay": 2.0}, {"media_throttle": 20_000}], ids=["asking", "fetching"])
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
    youtube.misbehave("second", media_throttle=50_000)
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
    assert await stranger.lend(leased, needed=False) == NOTHING


async def test_the_gauges_count_users_and_tell_the_age_and_the_end(
    ann: Person, ben: Person, downloading: Service
) -> None:
    cookies, soon = downloading.app[COOKIES], int(time.time()) + 3600
    await upload(ann, signed_in(SID, line("__Secure-1PSID", "x", expires=soon)))
    await upload(ben, signed_in(expires=0))
    await sql(downloading.app[DB], "UPDATE cookies SET refused_at = now() WHERE user_id = %s", ben.user_id)
    await cookies.measure()
    assert (count(metrics.cookies_state, status="unproven"), count(metrics.cookies_state, status="refused")) == (1, 1)
    assert count(metrics.cookies_first_expiry) == soon
    assert abs(count(metrics.cookies_oldest_uploaded) - time.time()) < 10


async def test_the_age_of_the_operators_file_is_told(cookie_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "operator.txt"
    file.write_text(signed_in())
    os.utime(file, (1_700_000_000, 1_700_000_000))
    async with running(dataclasses.replace(cookie_config, ytdlp_cookies_file=str(file), download_concurrency=0)):
        await until_seen(lambda: count(metrics.cookies_file_modified) == 1_700_000_000)
