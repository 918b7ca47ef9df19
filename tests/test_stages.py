"""Between extraction and transfer: the fork that asks the site, the wait for room, and how many ask at once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.youtube import YouTube
from tests.fetching import Stages, descendants, fail, fetch, order_for, settings_for, until
from ytdl.fetcher import Failed, Fetcher, FetchFailed, Metadata, Usage

SLOW_SECONDS = 30


@pytest.fixture
async def fetcher(youtube: YouTube, tmp_path: Path) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=10.0, extract_at_once=2))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


def _media_requests(youtube: YouTube) -> int:
    return sum(seen.path == "/videoplayback" for seen in youtube.requests)


async def test_no_media_is_asked_for_before_the_job_is_admitted(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    asked, admitted = asyncio.Event(), asyncio.Event()

    async def admit(video: Metadata) -> None:
        asked.set()
        await admitted.wait()

    before = _media_requests(youtube)
    run = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path), lambda frame: None, admit))
    await asyncio.wait_for(asked.wait(), SLOW_SECONDS)
    await asyncio.sleep(0.5)
    assert _media_requests(youtube) == before and not run.done()
    admitted.set()
    await run
    assert _media_requests(youtube) > before


async def test_a_job_that_is_not_admitted_ends_with_the_reason_and_its_usage(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    async def refuse(video: Metadata) -> None:
        raise FetchFailed(Failed("disk_full", "No room.", True), Usage())

    with pytest.raises(FetchFailed) as refused:
        await fetcher.run(order_for(youtube, tmp_path), lambda frame: None, refuse)
    assert refused.value.failure.message == "No room." and refused.value.usage.cpu_seconds > 0
    assert descendants(fetcher) == []


async def test_waiting_for_room_is_not_held_against_the_site(
    youtube: YouTube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, waited = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + waited)

    async def dawdle(video: Metadata) -> None:
        """For longer than everything may take, by the clock that it is measured with."""
        nonlocal waited
        waited = 120.0

    settings = settings_for(youtube, tmp_path, extract_seconds=40.0, stall_seconds=40.0, total_seconds=60.0)
    fetcher = Fetcher(settings)
    await fetcher.start()
    try:
        done, _ = await fetcher.run(order_for(youtube, tmp_path), lambda frame: None, dawdle)
    finally:
        await fetcher.stop()
    assert done.size_bytes


async def _needed(fetcher: Fetcher, youtube: YouTube, folder: Path, *earlier: Path) -> Metadata:
    order = order_for(youtube, folder, earlier_dirs=[str(each / "attempt") for each in earlier])
    _, _, frames = await fetch(fetcher, order)
    return next(frame for frame in frames if isinstance(frame, Metadata))


async def test_needed_bytes_leave_out_what_is_there_and_count_a_merge_twice(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    merged = await _needed(fetcher, youtube, tmp_path / "b")
    resumed = await _needed(fetcher, youtube, tmp_path / "c", tmp_path / "b")
    assert merged.total_bytes
    assert merged.needed_bytes == 2 * merged.total_bytes and resumed.needed_bytes == merged.total_bytes


async def test_a_file_that_is_delivered_as_it_came_needs_its_own_size(youtube: YouTube, tmp_path: Path) -> None:
    plain = Fetcher(settings_for(youtube, tmp_path, ffmpeg=None))
    await plain.start()
    try:
        single = await _needed(plain, youtube, tmp_path)
    finally:
        await plain.stop()
    assert single.total_bytes and single.needed_bytes == single.total_bytes


async def test_the_process_that_extracts_is_gone_when_the_transfer_begins(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    counts: list[int] = []

    async def look(video: Metadata) -> None:
        counts.append(len(descendants(fetcher)))

    youtube.misbehave(page_delay=1.0, player_delay=1.0)
    stages = Stages()
    run = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path), stages.see, look))
    await until(lambda: len(descendants(fetcher)) == 2, SLOW_SECONDS)
    await run
    assert counts == [1]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, "child_killed"), (signal.SIGSEGV, "child_crashed"), (signal.SIGXCPU, "deadline_exceeded")],
)
async def test_the_death_of_the_process_that_extracts_is_the_jobs(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, number: int, code: str
) -> None:
    youtube.misbehave(player_delay=5.0, page_delay=5.0)
    run = asyncio.create_task(fail(fetcher, order_for(youtube, tmp_path)))
    await until(lambda: len(descendants(fetcher)) == 2, SLOW_SECONDS)
    job = psutil.Process(fetcher.zygote_pid).children()[0]
    os.kill(job.children()[0].pid, number)
    assert (await run).failure.code == code
    assert descendants(fetcher) == []


async def test_only_so_many_extract_at_once_and_any_number_transfers(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    asking, most, transferring = 0, 0, asyncio.Event()

    async def wait(video: Metadata) -> None:
        nonlocal asking
        asking += 1
        if asking == 5:
            transferring.set()
        await transferring.wait()

    youtube.misbehave(player_delay=0.3)
    orders = [order_for(youtube, tmp_path, job=f"{n}.1", work_dir=str(tmp_path / str(n))) for n in range(5)]
    runs = [asyncio.create_task(fetcher.run(order, lambda frame: None, wait)) for order in orders]
    while not transferring.is_set():
        jobs = psutil.Process(fetcher.zygote_pid).children()
        most = max(most, len(jobs) - asking)
        await asyncio.sleep(0.02)
    await asyncio.gather(*runs)
    assert most == 2
