"""A file that changes upstream or is damaged here: whole in one version, or fetched anew, never glued together.

One file that is delivered as it came (itag 18), so that each of its bytes is compared.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.youtube import YouTube
from tests.fetching import cancel, fail, fetch, order_for, settings_for, until
from ytdl.fetcher import Done, Fetcher, FetchFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")
STOP_AT = 4 * 2**20
OVERLAP = 64 * 1024
_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fetcher]:
    """Without ffmpeg, so that it takes the one file that has picture and sound."""
    folder = tmp_path_factory.mktemp("plain")
    fetcher = Fetcher(settings_for(youtube_server, folder, ffmpeg=None, socket_timeout_seconds=30.0))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


class Two:
    """Two attempts at the same video, stopped in the first; `before` holds in both."""

    def __init__(self, fetcher: Fetcher, youtube: YouTube, folder: Path, **before: Any) -> None:
        self.fetcher, self.youtube, self.folder, self.before = fetcher, youtube, folder, before
        self.video = f"big008_{next(_numbers):04}"
        self.part = folder / "attempt" / "18.mp4.part"

    async def begin(self) -> int:
        """Stop in the middle of the first, where the site sends no more; the bytes that are here."""
        self._misbehave(media_stall_after=STOP_AT)
        order = order_for(self.youtube, self.folder, self.video)
        first = asyncio.create_task(self.fetcher.run(order, lambda frame: None))
        await until(lambda: self.part.exists() and self.part.stat().st_size == STOP_AT, 30)
        await cancel(first)
        return self.part.stat().st_size

    async def go_on(self, **changes: Any) -> Done:
        self.youtube.behave()
        self.youtube.forget()
        self._misbehave(**changes)
        second, earlier = str(self.folder / "second"), [str(self.folder / "attempt")]
        order = order_for(self.youtube, self.folder, self.video, work_dir=second, earlier_dirs=earlier)
        return (await fetch(self.fetcher, order))[0]

    def _misbehave(self, **changes: Any) -> None:
        for name, value in (self.before | changes).items():
            self.youtube.misbehave(self.video, **{name: value})

    def sha256(self, change: Any = "") -> str:
        return self.youtube.media(self.video, 18, change).sha256()

    def sent(self) -> int:
        return sum(seen.sent for seen in self.youtube.requests if seen.itag == 18)


NO_MARKS = {"media_validators": "none"}
ONLY_MODIFIED = {"media_validators": "modified"}
NO_SIZES = {"player_sizeless": True}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same length, another ETag": ({}, {"media_change": "file"}),
    "same length, another ETag, If-Range ignored": ({}, {"media_change": "file", "media_ignores": "if_range"}),
    "same length, another Last-Modified": (ONLY_MODIFIED, {"media_change": "file"}),
    "same length, nothing to tell them apart": (NO_MARKS, {"media_change": "file"}),
    "validators are gone": ({}, {"media_change": "file", **NO_MARKS}),
    "another length": ({}, {"media_change": "length"}),
    "another length that nobody announced": ({**NO_SIZES, **NO_MARKS}, {"media_change": "length"}),
    "shorter than what is here": ({**NO_SIZES, **NO_MARKS}, {"media_change": "short"}),
    "Range ignored": ({}, {"media_change": "file", "media_ignores": "range"}),
}


@pytest.mark.parametrize("case", CHANGES)
async def test_a_file_that_changed_between_attempts_is_wholly_the_new_one(
    plain: Fetcher, youtube: YouTube, tmp_path: Path, case: str
) -> None:
    before, changes = CHANGES[case]
    two = Two(plain, youtube, tmp_path, **before)
    await two.begin()
    done = await two.go_on(**changes)
    assert (done.sha256, done.resumed_bytes) == (two.sha256(changes["media_change"]), 0)


@pytest.mark.parametrize("before", [{}, ONLY_MODIFIED, NO_MARKS, NO_SIZES, {**NO_SIZES, **NO_MARKS}], ids=str)
async def test_a_file_that_stayed_the_same_is_gone_on_with(
    plain: Fetcher, youtube: YouTube, tmp_path: Path, before: dict[str, Any]
) -> None:
    two = Two(plain, youtube, tmp_path, **before)
    had = await two.begin()
    done = await two.go_on()
    assert (done.sha256, done.resumed_bytes) == (two.sha256(), had)
    await until(lambda: two.sent() >= done.fetched_bytes)
    assert two.sent() == done.fetched_bytes <= 8_000_000 - had + OVERLAP


async def test_a_server_that_ignores_ranges_sends_all_of_it(plain: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    two = Two(plain, youtube, tmp_path, media_ignores="range")
    await two.begin()
    done = await two.go_on()
    assert (done.sha256, done.resumed_bytes) == (two.sha256(), 0)


@pytest.mark.parametrize("before", [{}, ONLY_MODIFIED, NO_MARKS], ids=str)
async def test_a_file_that_changes_within_an_attempt_is_begun_anew(
    plain: Fetcher, youtube: YouTube, tmp_path: Path, before: dict[str, Any]
) -> None:
    two = Two(plain, youtube, tmp_path, **before)
    youtube.misbehave(two.video, media_cut_after=3_000_000, times=1)
    youtube.misbehave(two.video, media_change="file", skip=1)
    for name, value in before.items():
        youtube.misbehave(two.video, **{name: value})
    done, _, _ = await fetch(plain, order_for(youtube, tmp_path, two.video))
    assert done.sha256 == two.sha256("file")


@pytest.mark.parametrize("before", [{}, ONLY_MODIFIED, NO_MARKS, {"media_ignores": "if_range"}], ids=str)
async def test_a_file_that_changes_at_a_border_of_two_requests_is_begun_anew(
    plain: Fetcher, youtube: YouTube, tmp_path: Path, before: dict[str, Any]
) -> None:
    """The site has about ten megabytes at a time asked for."""
    for name, value in before.items():
        youtube.misbehave("big016_0001", **{name: value})
    youtube.misbehave("big016_0001", media_change="file", skip=1)
    done, _, _ = await fetch(plain, order_for(youtube, tmp_path, "big016_0001"))
    assert done.sha256 == youtube.media("big016_0001", 18, "file").sha256()


async def test_a_file_that_changes_again_and_again_is_given_up_for_now(
    plain: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    for number in range(12):
        changes = {"media_change": ("", "file")[number % 2], "media_cut_after": 2_000_000}
        youtube.misbehave("big008_9001", **changes, skip=number, times=1)
    failure = (await fail(plain, order_for(youtube, tmp_path, "big008_9001"))).failure
    assert failure.code in ("upstream_error", "upstream_truncated") and failure.retryable


def zeros_up_to_the_end(part: Path) -> None:
    os.truncate(part, 8_000_000)


def overwrite_the_end(part: Path) -> None:
    with part.open("r+b") as file:
        file.seek(-9000, os.SEEK_END)
        file.write(bytes(9000))


def append(part: Path) -> None:
    with part.open("ab") as file:
        file.write(bytes(300_000))


def grow_over_the_whole(part: Path) -> None:
    os.truncate(part, 9_000_000)


@pytest.mark.parametrize("damage", [overwrite_the_end, append, zeros_up_to_the_end, grow_over_the_whole])
async def test_a_partial_file_that_was_damaged_here_is_fetched_anew(
    plain: Fetcher, youtube: YouTube, tmp_path: Path, damage: Any
) -> None:
    two = Two(plain, youtube, tmp_path)
    await two.begin()
    damage(two.part)
    done = await two.go_on()
    assert (done.sha256, done.resumed_bytes) == (two.sha256(), 0)


async def test_a_partial_file_that_lost_its_end_is_gone_on_with(
    plain: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    two = Two(plain, youtube, tmp_path)
    had = await two.begin()
    os.truncate(two.part, had - 500_000)
    done = await two.go_on()
    assert (done.sha256, done.resumed_bytes) == (two.sha256(), had - 500_000)


async def test_a_file_that_was_all_here_but_for_its_name_is_not_fetched_again(
    plain: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    two = Two(plain, youtube, tmp_path)
    await two.begin()
    with two.part.open("r+b") as file:
        media, at = youtube.media(two.video, 18), 0
        while piece := media.read(at):
            at += file.write(piece)
    done = await two.go_on()
    assert done.sha256 == two.sha256() and two.sent() <= 1 + OVERLAP


async def test_more_than_was_announced_is_not_written_and_not_gone_on_with(
    plain: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave("big008_9002", media_endless=True)
    with pytest.raises(FetchFailed) as caught:
        await fetch(plain, order_for(youtube, tmp_path, "big008_9002"))
    failure, left = caught.value.failure, {each.name: each.stat() for each in (tmp_path / "attempt").iterdir()}
    assert (failure.code, failure.retryable) == ("upstream_error", True)
    assert left["18.mp4.part"].st_size <= 8_000_000 + OVERLAP and "18.mp4.note" not in left
