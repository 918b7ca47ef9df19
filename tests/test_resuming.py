"""What a next attempt takes over from an earlier one, and what it must not."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.youtube import YouTube
from tests.fetching import (
    Run,
    Stages,
    cancel,
    descendants,
    fail,
    fetch,
    order_for,
    settings_for,
    start_slowly,
    stop,
    until,
)
from ytdl.child.progress import Meter
from ytdl.child.transfer import overlap
from ytdl.fetcher import Fetcher, FetchFailed, Order, Progress

SLOW_SECONDS = 30
# Bytes a second with which the file of 32 MB is still in the middle when a machine has stood still for a while.
SLOWLY = 2_000_000
# A file is asked for in pieces of this size.
PIECE = 10 * 2**20


def media_bytes(youtube: YouTube) -> int:
    """Bytes of media that the stand-in has sent."""
    return sum(seen.sent for seen in youtube.requests if "videoplayback" in seen.path)


async def test_the_next_attempt_fetches_only_the_rest(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    first = order_for(youtube, tmp_path, "big")
    task = await start_slowly(fetcher, youtube, first, rate=SLOWLY)
    await cancel(task)
    had = (tmp_path / "attempt" / "137.mp4.part").stat().st_size
    youtube.behave()
    youtube.forget()
    again = order_for(youtube, tmp_path, "big", work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    done, _, _ = await fetch(fetcher, again)
    total = sum(path.stat().st_size for path in (tmp_path / "second").glob("1*.m*[4a]"))
    assert done.resumed_bytes == had and done.fetched_bytes == total - had + overlap(had)
    # The stand-in counts bytes a moment after they are sent.
    await until(lambda: media_bytes(youtube) == done.fetched_bytes, SLOW_SECONDS)
    assert done.sha256 == (await fetch(fetcher, order_for(youtube, tmp_path / "fresh", "big")))[0].sha256


async def test_what_was_there_already_does_not_count_as_fetched(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    first = order_for(youtube, tmp_path, "big")
    earlier = await stop(await start_slowly(fetcher, youtube, first, rate=SLOWLY))
    had = (tmp_path / "attempt" / "137.mp4.part").stat().st_size
    youtube.behave()
    youtube.misbehave(media_throttle=20_000_000)
    again = order_for(youtube, tmp_path, "big", work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    done, _, frames = await fetch(fetcher, again)
    progress = [frame for frame in frames if isinstance(frame, Progress) and frame.stage != "extracting"]
    assert {frame.downloaded_bytes - frame.fetched_bytes for frame in progress[2:]} == {had - overlap(had)}
    assert 0 < earlier.fetched_bytes <= had and progress[-1].fetched_bytes == done.fetched_bytes


async def test_a_failed_attempt_says_what_it_fetched_itself(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    first = order_for(youtube, tmp_path, "big")
    await cancel(await start_slowly(fetcher, youtube, first, rate=SLOWLY))
    had = (tmp_path / "attempt" / "137.mp4.part").stat().st_size
    youtube.behave()
    youtube.misbehave(media_cut_after=1_000_000)
    again = order_for(youtube, tmp_path, "big", work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    failure = await fail(fetcher, again)
    part = (tmp_path / "second" / "137.mp4.part").stat().st_size
    assert failure.fetched_bytes > part - had > 1_000_000


async def test_what_begins_anew_is_counted_again_and_a_lost_piece_is_not() -> None:
    meter = Meter(lambda frame: None)
    meter.plan([{"filesize": 100}, {}], 6.0)
    meter.fetch(0, 50)
    for done in (60, 40, 100):
        meter.on_hook({"status": "downloading", "downloaded_bytes": done})
    assert meter.fetched_bytes == 10 + 40 + 60
    meter.fetch(1, 0)
    for done in (60, 40, 100):
        meter.on_hook({"status": "downloading", "downloaded_bytes": done, "fragment_index": 1})
    assert meter.fetched_bytes == 110 + 60 + 60


async def test_streams_that_were_complete_are_not_fetched_again(
    youtube: YouTube, tmp_path: Path, slow_ffmpeg: str, fetcher: Fetcher
) -> None:
    slow = Fetcher(settings_for(youtube, tmp_path / "slow", ffmpeg=slow_ffmpeg))
    await slow.start()
    first = order_for(youtube, tmp_path, wanted="mp3")
    stages = Stages()
    task: Run = asyncio.create_task(slow.run(first, stages.see))
    await stages.reach(lambda frame: frame.stage == "processing", SLOW_SECONDS)
    await cancel(task)
    await slow.stop()
    youtube.forget()
    folders: dict[str, Any] = {"work_dir": str(tmp_path / "second"), "earlier_dirs": [first.work_dir]}
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, wanted="mp3", **folders))
    assert media_bytes(youtube) == 0 == done.fetched_bytes and done.resumed_bytes > 90_000


@pytest.mark.parametrize("change", ["length", "file", "etag"])
async def test_a_file_that_changed_upstream_is_not_glued(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, change: str
) -> None:
    first = order_for(youtube, tmp_path)
    await cancel(await start_slowly(fetcher, youtube, first))
    youtube.behave()
    youtube.misbehave(media_change=change)
    again = order_for(youtube, tmp_path, work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    done, _, _ = await fetch(fetcher, again)
    fresh, _, _ = await fetch(fetcher, order_for(youtube, tmp_path / "fresh"))
    assert done.resumed_bytes == 0 and done.sha256 == fresh.sha256


async def test_nothing_is_taken_from_an_attempt_that_still_lives(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    first = order_for(youtube, tmp_path)
    task = await start_slowly(fetcher, youtube, first)
    (child,) = descendants(fetcher)
    # However long the second takes, the first has not ended before it.
    child.suspend()
    youtube.behave()
    again = order_for(youtube, tmp_path, work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    done, _, _ = await fetch(fetcher, again)
    assert done.resumed_bytes == 0
    child.resume()
    assert (await task)[0].sha256 == done.sha256


async def test_earlier_folders_may_be_missing_or_strange(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "lock").touch()
    (strange / "137.mp4.note").write_text("[no json")
    (strange / "137.mp4.part").write_bytes(b"x" * 100)
    order = order_for(youtube, tmp_path, earlier_dirs=[str(strange), str(tmp_path / "gone")])
    done, _, _ = await fetch(fetcher, order)
    assert done.resumed_bytes == 0


async def kill_at(fetcher: Fetcher, order: Order, at: int, victim: str) -> None:
    """kill -9 when `at` bytes are here, of the child or of the fork server; returns when the fetcher works again."""
    stages = Stages()
    task = asyncio.create_task(fetcher.run(order, stages.see))
    await stages.reach(lambda frame: frame.downloaded_bytes >= at, 30)
    (child,) = (each for each in descendants(fetcher) if each.ppid() == fetcher.zygote_pid)
    os.kill(child.pid if victim == "child" else fetcher.zygote_pid or 0, signal.SIGKILL)
    with pytest.raises(FetchFailed) as caught:
        await task
    assert caught.value.failure.code == "child_killed"


@pytest.mark.parametrize("victim", ["child", "fork server"])
@pytest.mark.parametrize(
    ("slow", "skip", "after", "at"), [(137, 1, 18_000_000 - PIECE, 18_000_000), (140, 0, 2_000_000, 34_000_000)]
)
async def test_after_a_kill_in_the_middle_hardly_anything_comes_twice(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, victim: str, slow: int, skip: int, after: int, at: int
) -> None:
    """In the middle of all, while the picture is fetched; and in the middle of the sound, the picture being here.

    From there on it drips: what was sent and what was received are the same, however late a child comes to read.
    """
    total = youtube.media("big", 137).size + youtube.media("big", 140).size
    youtube.misbehave("big", itag=slow, skip=skip, media_drip_after=after)
    youtube.forget()
    first = order_for(youtube, tmp_path, "big")
    await kill_at(fetcher, first, at, victim)
    youtube.behave()
    again = order_for(youtube, tmp_path, "big", work_dir=str(tmp_path / "second"), earlier_dirs=[first.work_dir])
    done, _, _ = await fetch(fetcher, again)
    await until(lambda: media_bytes(youtube) > total, SLOW_SECONDS)
    twice = media_bytes(youtube) - total
    print(f"killed {victim} at {at}: {twice} bytes came twice, {100 * twice / total:.2f} %")
    assert 0 < twice <= 0.05 * total
    files = {itag: (tmp_path / "second" / name).read_bytes() for itag, name in ((137, "137.mp4"), (140, "140.m4a"))}
    for itag, content in files.items():
        assert hashlib.sha256(content).hexdigest() == youtube.media("big", itag).sha256()
    assert done.sha256 == (await fetch(fetcher, order_for(youtube, tmp_path / "fresh", "big")))[0].sha256
