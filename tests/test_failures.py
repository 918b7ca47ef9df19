"""Every way in which a download fails, and the code, the retry and the sentence that follow."""

import asyncio
import math
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.youtube import YouTube
from tests.fetching import Stages, fail, fetch, order_for, settings_for
from ytdl.child import errors, job
from ytdl.child.errors import by_text, clean
from ytdl.child.formats import Choice
from ytdl.child.frames import Fault, decode_frame, pack
from ytdl.child.progress import size_of
from ytdl.child.values import number, text, whole
from ytdl.fetcher import Fetcher, FetchFailed, Order
from ytdl.fetcher.outcome import explain_death, judge
from ytdl.reasons import REASONS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fetcher(youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fetcher]:
    changes = {"socket_timeout_seconds": 2.0, "stall_seconds": 8.0}
    fetcher = Fetcher(settings_for(youtube_server, tmp_path_factory.mktemp("fetcher"), **changes))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


async def fail_with(youtube: YouTube, folder: Path, order: dict[str, Any], **changes: Any) -> FetchFailed:
    """The failure of one order with a fetcher of other settings."""
    fetcher = Fetcher(settings_for(youtube, folder, **changes))
    await fetcher.start()
    try:
        return await fail(fetcher, order_for(youtube, folder, **order))
    finally:
        await fetcher.stop()


VIDEOS = [
    ("private", "video_private"),
    ("removed", "video_unavailable"),
    ("nosuchvideo", "video_unavailable"),
    ("age_restricted", "age_restricted"),
    ("geo_blocked", "geo_blocked"),
    ("members_only", "members_only"),
    ("bot_check", "bot_check"),
    ("rate_limited", "rate_limited"),
    ("live", "live_now"),
    ("upcoming", "not_yet_available"),
    ("drm", "drm_protected"),
]


@pytest.mark.parametrize(("name", "code"), VIDEOS)
async def test_a_refused_video_says_why(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, name: str, code: str
) -> None:
    youtube.forget()
    failure = (await fail(fetcher, order_for(youtube, tmp_path, name))).failure
    assert (failure.code, failure.retryable) == (code, REASONS[code].retryable)
    assert not re.search(r"https?:|--|ERROR|\[youtube|/tmp|yt-dlp", failure.message)
    assert [seen for seen in youtube.requests if "videoplayback" in seen.path] == []


async def test_a_premiere_is_tried_again_when_it_is_released(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    failure = (await fail(fetcher, order_for(youtube, tmp_path, "upcoming"))).failure
    assert failure.retry_after_seconds is not None and failure.retry_after_seconds > 60


async def test_a_playlist_is_not_taken_for_a_video(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    for url in (
        youtube.url("playlist"),
        ":ytsubs",
        "ytsearch5:cats",
        "http://127.0.0.1:1/x.mp4",
        "file:///etc/passwd",
    ):
        failure = await fail(fetcher, Order("7.2", url, "best", "mp4", str(tmp_path / "attempt")))
        assert failure.failure.code == "unsupported_url"


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"player_status": 403}, "upstream_forbidden"),
    ({"player_status": 429, "retry_after": 777}, "rate_limited"),
    ({"player_status": 500}, "upstream_error"),
    ({"player_garbage": True}, "extractor_broken"),
    ({"player_delay": 30}, "upstream_stalled"),
    ({"media_status": 403}, "upstream_forbidden"),
    ({"media_status": 404}, "upstream_forbidden"),
    ({"media_status": 429, "retry_after": 778}, "rate_limited"),
    ({"media_status": 503}, "upstream_error"),
    ({"media_cut_after": 2000}, "upstream_truncated"),
    ({"media_stall_after": 2000}, "upstream_stalled"),
    ({"media_length_off": -5000}, "upstream_truncated"),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS, ids=str)
async def test_a_misbehaving_site_gets_its_code_and_a_retry(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, fault: dict[str, Any], code: str
) -> None:
    youtube.misbehave(**fault)
    failure = (await fail(fetcher, order_for(youtube, tmp_path))).failure
    assert (failure.code, failure.retryable) == (code, True)
    if "retry_after" in fault:
        assert failure.retry_after_seconds == fault["retry_after"]


async def test_passing_trouble_is_overcome_within_one_attempt(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_status=503, times=1)
    youtube.misbehave(media_cut_after=20_000, times=2, skip=1)
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    assert done.height == 1080


async def test_a_child_that_trickles_nothing_is_stopped_by_the_service(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(media_stall_after=5000)
    failure = await fail_with(youtube, tmp_path, {}, socket_timeout_seconds=60.0, stall_seconds=1.0)
    assert failure.failure.code == "upstream_stalled"


async def test_an_extraction_that_takes_too_long_is_stopped(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(player_delay=30)
    failure = await fail_with(youtube, tmp_path, {}, socket_timeout_seconds=60.0, extract_seconds=0.5)
    assert failure.failure.code == "upstream_stalled"


async def test_the_overall_deadline_ends_a_slow_download(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(media_throttle=20_000)
    # Twenty seconds is what it would take; a slow machine gets more of them to come to the transfer.
    for seconds in (1.0, 4.0, 10.0):
        order = {"work_dir": str(tmp_path / f"{seconds}")}
        failure = await fail_with(youtube, tmp_path, order, total_seconds=seconds)
        assert failure.failure.code == "deadline_exceeded"
        if failure.usage.disk_bytes > 0:
            break
    assert failure.usage.disk_bytes > 0 and failure.usage.peak_memory_bytes > 0


async def test_a_refusing_proxy_is_named(youtube: YouTube, tmp_path: Path) -> None:
    failure = await fail_with(youtube, tmp_path, {}, proxy="http://127.0.0.1:9")
    assert failure.failure.code == "proxy_error"


async def test_a_certificate_of_another_authority_is_not_accepted(youtube: YouTube, tmp_path: Path) -> None:
    failure = await fail_with(youtube, tmp_path, {}, ca_file=None)
    assert failure.failure.code == "tls_error"


async def test_a_host_that_cannot_be_reached_is_a_network_error(youtube: YouTube, tmp_path: Path) -> None:
    failure = await fail_with(youtube, tmp_path, {}, proxy=None)
    assert failure.failure.code == "network_error"


@pytest.mark.parametrize("content", [None, "this is no cookie file"])
async def test_a_bad_cookie_file_is_the_operators_to_mend(
    youtube: YouTube, tmp_path: Path, content: str | None
) -> None:
    cookies = tmp_path / "cookies.txt"
    if content:
        cookies.write_text(content)
    failure = await fail_with(youtube, tmp_path, {}, cookies_file=str(cookies))
    assert (failure.failure.code, failure.failure.retryable) == ("cookies_invalid", False)


async def test_a_good_cookie_file_is_used_and_left_as_it_was(youtube: YouTube, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n.youtube.com\tTRUE\t/\tTRUE\t0\tPREF\thl=en\n")
    cookies.chmod(0o400)
    before = cookies.read_bytes()
    fetcher = Fetcher(settings_for(youtube, tmp_path, cookies_file=str(cookies)))
    await fetcher.start()
    try:
        await fetch(fetcher, order_for(youtube, tmp_path))
    finally:
        await fetcher.stop()
    assert cookies.read_bytes() == before


async def test_without_ffmpeg_a_merge_is_refused_and_a_ready_file_delivered(youtube: YouTube, tmp_path: Path) -> None:
    failure = await fail_with(youtube, tmp_path, {"wanted": "mp3"}, ffmpeg=None)
    assert (failure.failure.code, failure.failure.retryable) == ("ffmpeg_missing", False)
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=None))
    await fetcher.start()
    try:
        done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    finally:
        await fetcher.stop()
    assert (done.height, done.format_note) == (360, "18")


async def test_a_failing_ffmpeg_is_processing_failed(youtube: YouTube, tmp_path: Path) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho 'Conversion failed!' >&2\nexit 1\n")
    broken.chmod(0o755)
    failure = await fail_with(youtube, tmp_path, {"wanted": "mp3"}, ffmpeg=str(broken))
    assert (failure.failure.code, failure.failure.retryable) == ("processing_failed", True)


async def test_a_file_that_ffmpeg_cut_short_is_not_called_done(youtube: YouTube, tmp_path: Path) -> None:
    cutter = tmp_path / "ffmpeg"
    real = settings_for(youtube, tmp_path).ffmpeg
    cutter.write_text(f'#!/bin/bash\n"{real}" "${{@:1:$#-1}}" -t 2 "${{@: -1}}"\n')
    cutter.chmod(0o755)
    failure = await fail_with(youtube, tmp_path, {"wanted": "mp3"}, ffmpeg=str(cutter))
    assert (failure.failure.code, failure.failure.retryable) == ("verification_failed", True)
    assert list((tmp_path / "attempt").glob("*.note")) == []


async def test_a_video_over_the_size_limit_is_refused_before_the_transfer(youtube: YouTube, tmp_path: Path) -> None:
    youtube.forget()
    failure = await fail_with(youtube, tmp_path, {"name": "big"}, file_bytes=1_000_000)
    assert (failure.failure.code, failure.failure.retryable) == ("file_too_large", False)
    assert [seen for seen in youtube.requests if "videoplayback" in seen.path] == []


async def test_a_file_that_grows_over_the_limit_is_stopped(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(media_endless=True, player_sizeless=True)
    failure = await fail_with(youtube, tmp_path, {}, file_bytes=1_000_000)
    assert failure.failure.code == "file_too_large"
    assert max(path.stat().st_size for path in (tmp_path / "attempt").iterdir()) <= 1_000_000


async def test_what_could_not_be_put_together_is_fetched_anew(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_change="bytes")
    failed = order_for(youtube, tmp_path)
    assert (await fail(fetcher, failed)).failure.code == "processing_failed"
    youtube.behave()
    again = order_for(youtube, tmp_path, work_dir=str(tmp_path / "second"), earlier_dirs=[failed.work_dir])
    done, _, _ = await fetch(fetcher, again)
    assert done.resumed_bytes == 0 and done.height == 1080


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limited"), (403, "upstream_forbidden"), (503, "upstream_error")]
)
async def test_a_site_that_refuses_every_page_is_not_taken_for_one_that_has_changed(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, status: int, code: str
) -> None:
    youtube.misbehave(page_status=status, player_status=status, retry_after=77)
    failure = (await fail(fetcher, order_for(youtube, tmp_path))).failure
    assert failure.code == code
    assert status != 429 or failure.retry_after_seconds == 77


async def test_a_joined_file_is_held_to_the_size_limit_too(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(player_sizeless=True)
    failure = await fail_with(youtube, tmp_path, {}, file_bytes=330_000)  # each stream fits, both together do not
    assert failure.failure.code == "file_too_large"


async def test_a_body_that_never_ends_is_stopped_where_the_file_should_end(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(media_endless=True)
    failure = await fail_with(youtube, tmp_path, {})
    assert failure.failure.code == "upstream_error"
    assert failure.usage.disk_bytes < 2_000_000


async def test_a_head_that_announces_too_much_is_no_reason_to_throw_away_all_the_bytes(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    expected, _, _ = await fetch(fetcher, order_for(youtube, tmp_path / "fresh"))
    youtube.misbehave(media_length_off=5000)
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    assert done.sha256 == expected.sha256


async def test_ffmpeg_is_held_to_the_size_limit_too(youtube: YouTube, tmp_path: Path) -> None:
    limit = 500_000  # the sound as fetched fits, as WAV it does not
    failure = await fail_with(youtube, tmp_path, {"wanted": "wav"}, file_bytes=limit)
    assert failure.failure.code == "file_too_large"


async def test_a_child_over_its_memory_limit_fails_alone(youtube: YouTube, tmp_path: Path) -> None:
    failure = await fail_with(youtube, tmp_path, {}, memory_bytes=48 * 1024**2)
    assert (failure.failure.code, failure.failure.retryable) == ("out_of_memory", True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", ["ordinary", "big"])
async def test_a_full_disk_is_named_whoever_meets_it(
    fetcher: Fetcher, youtube: YouTube, small_disk: Path, name: str
) -> None:
    """The big video does not fit at all; of the ordinary one the streams fit and the merged file does not."""
    failure = (await fail(fetcher, order_for(youtube, small_disk, name))).failure
    assert (failure.code, failure.retryable) == ("disk_full", True)


async def test_a_folder_of_a_living_attempt_cannot_be_used_twice(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_throttle=20_000)
    stages = Stages()
    first = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path), stages.see))
    await stages.reach(lambda frame: frame.downloaded_bytes > 0, 30)
    failure = await fail(fetcher, order_for(youtube, tmp_path))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert failure.failure.code == "internal"


async def test_every_code_that_texts_lead_to_is_in_the_table() -> None:
    codes = {code for _, code in errors._TEXTS} | set(errors._SENTENCES) | set(errors.OF_THE_DISK.values())
    assert codes <= set(REASONS)


async def test_every_reason_has_a_hint_that_is_one_sentence() -> None:
    for code, reason in REASONS.items():
        assert re.fullmatch(r"[A-Z].{10,}\.", reason.hint), code
        assert re.fullmatch(r"[a-z_]{3,30}", code)


async def test_an_unknown_code_of_a_child_becomes_internal() -> None:
    assert judge(Fault("made_up", "x")).code == "internal"


@pytest.mark.parametrize(("asked", "least"), [(None, 300), (5.0, 300), (900.0, 900)])
async def test_the_least_wait_is_the_longer_of_the_sites_and_the_tables(asked: float | None, least: float) -> None:
    assert judge(Fault("not_yet_available", "x", asked)).retry_after_seconds == least
    assert judge(Fault("network_error", "x")).retry_after_seconds is None


ODD = [None, True, "1080", "", "\ud800", math.nan, math.inf, -1, 10**400, -0.5, 2.5, 1920.0, 2**70, [1], {"a": 1}, b"x"]


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:10])
async def test_odd_words_of_an_extractor_still_make_metadata(odd: Any) -> None:
    names = ("title", "uploader", "channel", "duration", "thumbnail", "extractor")
    stream = {"format_id": "x", "width": odd, "height": odd, "filesize": odd}
    said = job.describe({"id": odd, **dict.fromkeys(names, odd)}, Choice([stream], "mp4"), size_of(stream))
    assert decode_frame(pack(said)[4:]) == said


async def test_fractions_are_taken_for_whole_numbers_and_nonsense_for_nothing() -> None:
    assert [whole(odd) for odd in (1920.0, 2.5, 2**70, 10**400, math.nan, True, "1080")] == [1920, 2] + [None] * 5
    assert [number(odd) for odd in (2.5, 0, -1, math.inf, 10**400, "2")] == [2.5, 0.0] + [None] * 4
    assert [text(odd) for odd in ("a", "\ud800", "", 5, ["a"])] == ["a", "?"] + [None] * 3


TEXTS = [
    ("ERROR: [youtube] abc: Sign in to confirm you\u2019re not a bot. Use --cookies", "bot_check"),
    ("Sign in to confirm your age. This video may be inappropriate for some users.", "age_restricted"),
    ("Private video. Sign in if you've been granted access to this video", "video_private"),
    ("HTTP Error 429: Too Many Requests", "rate_limited"),
    ("has been rate-limited by YouTube for up to an hour", "rate_limited"),
    ("This video is available to this channel's members on level", "members_only"),
    ("Premieres in 3 hours", "not_yet_available"),
    ("This live event will begin in 5 minutes", "not_yet_available"),
    ("The uploader has not made this video available in your country", "geo_blocked"),
    ("This video is DRM protected", "drm_protected"),
    ("Video unavailable. This video has been removed by the uploader", "video_unavailable"),
    ("unable to write data: [Errno 28] No space left on device", "disk_full"),
    ("unable to write data: [Errno 27] File too large", "file_too_large"),
    (
        "[download] Got error: 2000 bytes read, 38000 more expected. Giving up after 4 retries",
        "upstream_truncated",
    ),
    ("[download] Got error: The read operation timed out. Giving up after 4 retries", "upstream_stalled"),
    (
        "[download] Got error: HTTP Error 503: Service Unavailable. Giving up after 4 retries",
        "upstream_error",
    ),
    ("a wholly new sentence", None),
]


@pytest.mark.parametrize(("text", "code"), TEXTS)
async def test_what_sites_say_leads_to_a_code(text: str, code: str | None) -> None:
    assert by_text(text) == code


UNCLEAN = [
    ("ERROR: [youtube] abcdefghijk: Private video. Sign in if you", "Private video. Sign in if you"),
    ("cannot open '/srv/data/work/7/1/out.mp4': gone", "cannot open a file: gone"),
    ("see https://x.test/?token=secret now", "see now"),
    ("red \x1b[31mtext\x1b[0m\nsecond line", "red text second line"),
    ("", "No reason was given."),
]


@pytest.mark.parametrize(("text", "shown"), UNCLEAN)
async def test_messages_are_cleaned_of_paths_addresses_and_escapes(text: str, shown: str) -> None:
    assert clean(text) == shown


async def test_messages_have_an_end() -> None:
    assert len(clean("word " * 1000)) <= 500


DEATHS = [(9, "child_killed"), (15, "child_killed"), (11, "child_crashed"), (70 << 8, "child_crashed")]
DEATHS += [(25, "file_too_large"), (24, "deadline_exceeded")]


@pytest.mark.parametrize(("status", "code"), [*DEATHS, (None, "child_killed")])
async def test_a_death_without_a_word_is_explained_by_its_signal(status: int | None, code: str) -> None:
    assert explain_death(status).code == code
