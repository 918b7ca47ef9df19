"""What one job does with cookies: it asks for them when it needs them, and shows them to the site alone.

The stand-in locks a video to the account whose SID it is told; what it was sent stands in its log.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from tests.cookiefiles import SID, cookies_of, line, lock, signed_in
from tests.fakes.youtube import YouTube
from tests.fetching import descendants, is_alive, order_for, settings_for
from ytdl import netscape
from ytdl.child.frames import Fault, pack
from ytdl.fetcher import Account, Cookie, Fetcher, FetchFailed, Locked, Settings
from ytdl.fetcher.pipes import FrameReader, Voice
from ytdl.fetcher.runs import _Job, at_once
from ytdl.fetcher.watch import Watch
from ytdl.log import Lines


def patient_settings(youtube: YouTube, folder: Path, **more: Any) -> Settings:
    """Requests are counted, so that none may be made twice because the stand-in was late."""
    return settings_for(youtube, folder, socket_timeout_seconds=20.0, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fetcher(youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fetcher]:
    folder = tmp_path_factory.mktemp("fetcher")
    fetcher = Fetcher(patient_settings(youtube_server, folder, extractor_args=youtube_server.account_args))
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


MISSING = [
    ("none", "age_restricted"),
    ("expired", "cookies_refused"),
    ("refused", "cookies_refused"),
    ("unreadable", "cookies_refused"),
]


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
    await asyncio.wait_for(waiting.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert not any(map(is_alive, descendants(fetcher)))


async def test_the_operators_cookies_and_the_users_are_never_mixed(youtube: YouTube, tmp_path: Path) -> None:
    youtube.forget()
    lock(youtube)
    file = tmp_path / "operator.txt"
    file.write_text(signed_in("operator", line("OPERATOR", "x")))
    args = youtube.account_args
    fetcher = Fetcher(patient_settings(youtube, tmp_path, extractor_args=args, cookies_file=str(file)))
    await fetcher.start()
    try:
        assert await run(fetcher, youtube, tmp_path, Lender(signed_in())) == "done as user"
    finally:
        await fetcher.stop()
    assert cookies_of(youtube) == ["operator", SID]
    assert {SID in seen.cookie for seen in youtube.requests if "OPERATOR" in seen.cookie} == {False}


async def test_a_bad_line_of_the_operators_file_is_not_logged(
    youtube: YouTube, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """yt-dlp shows the lines that it skips, and the end of what a child says is logged when it fails oddly."""
    youtube.misbehave("ordinary", player_garbage=True)
    file = tmp_path / "operator.txt"
    file.write_text(signed_in("operator") + f".youtube.com\tTRUE\t/\tTRUE\tnever\tTOKEN\t{SID}\n")
    fetcher = Fetcher(patient_settings(youtube, tmp_path, cookies_file=str(file)))
    caplog.set_level("DEBUG")
    await fetcher.start()
    try:
        assert await run(fetcher, youtube, tmp_path, Lender()) == "extractor_broken"
    finally:
        await fetcher.stop()
    logged = "".join(Lines().format(record) for record in caplog.records)
    assert "Traceback" in logged and SID not in logged


async def test_a_child_that_asks_and_asks_gets_no_more() -> None:
    """Ours asks twice at most; one that a page has taken over might fill the audit trail."""
    frames, (answers, voice) = os.pipe(), os.pipe()
    os.write(frames[1], pack(Locked()) * 5)
    os.close(frames[1])
    lender = Lender(signed_in())
    job = _Job(cast(Any, None), 1, await FrameReader.open(frames[0]), cast(Any, None), await Voice.open(voice))
    try:
        fault = await job.follow(lambda _: None, at_once, lender, Watch(Settings(Path())))
    finally:
        job._frames.close()
        job._voice.close()
        os.close(answers)
    assert isinstance(fault, Fault) and len(lender.asked) == 2
