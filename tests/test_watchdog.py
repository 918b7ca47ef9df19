"""Whatever does not get on is ended, with a reason, and nothing of it is left: silence, drips, hangs, endless bodies.

Under the fetcher first, then in the whole service. Times are short and the cases of a test run side by side.
"""

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Person, running
from tests.fakes.youtube import YouTube
from tests.fetching import Stages, descendants, fail, fetch, order_for, settings_for, until
from tests.following import ask, ended
from ytdl.child.frames import Locked, Stage
from ytdl.config import Config
from ytdl.fetcher import Fetcher, FetchFailed, Progress, Settings
from ytdl.fetcher.watch import SLOWEST_BYTES_PER_SECOND, Watch
from ytdl.metrics import REGISTRY

STALL_SECONDS = 2.0
LATE_SECONDS = 20.0
"""How much later than its deadline an end may be seen while the machine is busy; sockets wait for a minute."""


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def impatient(youtube: YouTube, tmp_path: Path) -> AsyncIterator[Fetcher]:
    """Its own deadlines are short, those of sockets long: only the watchdog ends anything."""
    changes: dict[str, Any] = {"stall_seconds": STALL_SECONDS, "socket_timeout_seconds": 60.0}
    fetcher = Fetcher(settings_for(youtube, tmp_path, **changes))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


async def test_a_transfer_that_falls_silent_is_ended_and_goes_on_in_the_next_attempt(
    impatient: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave("big008_7001", media_stall_after=3_000_000, times=1)
    stages, before = Stages(), count("ytdl_fetcher_deadlines_total", stage="downloading")
    order = order_for(youtube, tmp_path, "big008_7001", "360p")
    with pytest.raises(FetchFailed) as caught:
        await impatient.run(order, stages.see)
    seconds = time.time() - max(seen.at for seen in youtube.requests if seen.sent)
    assert (caught.value.failure.code, caught.value.failure.retryable) == ("upstream_stalled", True)
    assert STALL_SECONDS - 0.5 < seconds < STALL_SECONDS + LATE_SECONDS and descendants(impatient) == []
    assert count("ytdl_fetcher_deadlines_total", stage="downloading") == before + 1
    again = order_for(
        youtube, tmp_path, "big008_7001", "360p", work_dir=str(tmp_path / "b"), earlier_dirs=[order.work_dir]
    )
    assert (await fetch(impatient, again))[0].resumed_bytes > 2_900_000


async def test_a_byte_now_and_then_is_no_movement(impatient: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("big008_7002", media_drip_after=3_000_000)
    failure = (await fail(impatient, order_for(youtube, tmp_path, "big008_7002"))).failure
    assert failure.code == "upstream_stalled" and descendants(impatient) == []


async def test_with_patience_a_drip_lasts_until_the_overall_deadline(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("big008_7003", media_drip_after=3_000_000)
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=60.0, total_seconds=5.0))
    await fetcher.start()
    try:
        failure = (await fail(fetcher, order_for(youtube, tmp_path, "big008_7003"))).failure
    finally:
        await fetcher.stop()
    assert failure.code == "deadline_exceeded"


def freeze(processes: list[psutil.Process]) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)


async def test_a_child_that_is_stopped_while_it_extracts_is_ended(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("many_007004", player_delay=30)
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=60.0, extract_seconds=6.0))
    await fetcher.start()
    try:
        task = asyncio.create_task(fail(fetcher, order_for(youtube, tmp_path, "many_007004")))
        await until(lambda: any(seen.video == "many_007004" for seen in youtube.requests), 30)
        freeze(descendants(fetcher))
        assert (await task).failure.code == "upstream_stalled" and descendants(fetcher) == []
    finally:
        await fetcher.stop()


async def test_a_child_that_is_stopped_while_it_downloads_is_ended(
    impatient: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave("big008_7005", media_throttle=400_000)
    stages = Stages()
    task = asyncio.create_task(impatient.run(order_for(youtube, tmp_path, "big008_7005"), stages.see))
    await stages.reach(lambda frame: frame.downloaded_bytes > 0, 30)
    freeze(descendants(impatient))
    with pytest.raises(FetchFailed) as caught:
        await task
    assert caught.value.failure.code == "upstream_stalled" and descendants(impatient) == []


HANGS = {
    "asleep": "exec /bin/sleep 60",
    "busy": "while :; do :; done",
    "talking": "while :; do echo out_time_us=1000000; /bin/sleep 0.1; done",
    "stopped": "kill -STOP $$",
}


@pytest.mark.parametrize("hang", HANGS)
async def test_an_ffmpeg_that_does_not_get_on_is_ended(youtube: YouTube, tmp_path: Path, hang: str) -> None:
    script = tmp_path / "hanging-ffmpeg"
    script.write_text(f"#!/bin/sh\n[ $1 = -version ] && exit 1\n{HANGS[hang]}\n")
    script.chmod(0o755)
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=str(script), process_seconds=1.5))
    await fetcher.start()
    before = count("ytdl_fetcher_deadlines_total", stage="processing")
    try:
        # The streams are copied, the sound is not: a conversion is ffmpeg's in every case.
        failure = (await fail(fetcher, order_for(youtube, tmp_path, wanted="mp3"))).failure
        assert failure.code == "deadline_exceeded" and descendants(fetcher) == []
    finally:
        await fetcher.stop()
    assert count("ytdl_fetcher_deadlines_total", stage="processing") == before + 1


async def test_packed_pages_and_files_without_end_are_refused(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("many_007006", player_bomb=256)
    youtube.misbehave("many_007007", media_bomb=True)
    youtube.misbehave("many_007008", media_bomb=True, player_sizeless=True)
    orders = [order_for(youtube, tmp_path / name, name) for name in ("many_007006", "many_007007", "many_007008")]
    # With patience: what is refused is not ended for its silence.
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=60.0))
    await fetcher.start()
    try:
        failures = await asyncio.gather(*(fail(fetcher, order) for order in orders))
    finally:
        await fetcher.stop()
    assert [each.failure.code for each in failures] == ["upstream_error"] * 3
    assert max(each.usage.peak_memory_bytes for each in failures) < 400 * 2**20
    assert max(each.usage.disk_bytes for each in failures) < 10 * 2**20


def watch_at(now: list[float], **changes: float) -> Watch:
    times = {"extract_seconds": 5.0, "stall_seconds": 10.0, "process_seconds": 20.0, "total_seconds": 1000.0}
    return Watch(Settings(Path(), **{**times, **changes}), lambda: now[0])  # type: ignore[arg-type]


def moved(stage: Stage, percent: float, fetched: int) -> Progress:
    return Progress(stage, percent, fetched, fetched_bytes=fetched)


async def test_only_bytes_and_stages_count_as_movement() -> None:
    now = [0.0]
    watch, enough = watch_at(now), 10 * SLOWEST_BYTES_PER_SECOND
    watch.see(moved("downloading", 0.0, 0))
    now[0] = 9.0
    watch.see(moved("downloading", 5.0, enough - 1))
    assert watch.next_deadline()[0] == 10.0
    watch.see(moved("downloading", 5.0, enough))
    assert watch.next_deadline()[0] == 19.0


async def test_a_stage_is_timed_when_it_ends_and_what_the_service_held_up_is_left_out() -> None:
    def spent(stage: Stage) -> float:
        return count("ytdl_fetcher_stage_seconds_sum", stage=stage)

    now, before = [0.0], [spent("extracting"), spent("downloading")]
    watch = watch_at(now)
    now[0] = 2.0
    watch.see(Locked())
    now[0] = 9.0
    watch.ask_again()
    now[0] = 12.0
    watch.see(moved("downloading", 0.0, 0))
    now[0] = 20.0
    watch.expire(watch.next_deadline()[1])
    assert [spent("extracting") - before[0], spent("downloading") - before[1]] == [5.0, 0.0]


@pytest.mark.parametrize(
    ("stage", "deadline", "code"),
    [
        ("extracting", 5.0, "upstream_stalled"),
        ("downloading", 13.0, "upstream_stalled"),
        ("processing", 23.0, "deadline_exceeded"),
        ("verifying", 23.0, "deadline_exceeded"),
    ],
)
async def test_every_stage_has_its_deadline_and_all_together_one(stage: Stage, deadline: float, code: str) -> None:
    now = [0.0]
    patient, short = watch_at(now), watch_at(now, total_seconds=4.0)
    now[0] = 3.0
    for watch in (patient, short):
        watch.see(moved(stage, 1.0, 0))
    assert patient.next_deadline()[0] == deadline and patient.next_deadline()[1].code == code
    assert short.next_deadline()[0] == 4.0 and short.next_deadline()[1].code == "deadline_exceeded"
    before = count("ytdl_fetcher_deadlines_total", stage=stage)
    patient.expire(patient.next_deadline()[1])
    assert count("ytdl_fetcher_deadlines_total", stage=stage) == before + 1


@pytest.fixture
async def eve(downloading_config: Config) -> AsyncIterator[Person]:
    """A user of a service that waits for nobody."""
    short = dataclasses.replace(
        downloading_config,
        download_stall_seconds=STALL_SECONDS,
        download_timeout_seconds=10.0,
        download_max_bytes=9_000_000,
        download_max_attempts=2,
    )
    async with running(short) as service, service.person("eve") as person:
        yield person


async def attempts_of(person: Person, id: str) -> list[str | None]:
    """How each attempt ended."""
    rows = await (await person.get(f"/downloads/{id}/logs")).json()
    return [(row["error"] or {}).get("code") if isinstance(row["error"], dict) else row["status"] for row in rows]


@pytest.mark.slow
async def test_in_the_service_too_all_of_them_end_and_are_counted(eve: Person, youtube: YouTube) -> None:
    faults: dict[str, dict[str, Any]] = {
        "big008_7101": {"media_stall_after": 3_000_000, "times": 1},
        "big008_7102": {"media_drip_after": 3_000_000},
        "many_007103": {"media_endless": True, "player_sizeless": True},
        "big008_7104": {"media_throttle": 300_000},
    }
    for video, fault in faults.items():
        youtube.misbehave(video, **fault)
    names = {"reason": "upstream_stalled"}, {"reason": "file_too_large"}, {"reason": "deadline_exceeded"}
    before = [count("ytdl_downloads_failed_total", **each) for each in names]
    ids = [(await ask(eve, youtube.url(video), quality="360p"))["id"] for video in faults]
    silent, dripping, endless, slow = await asyncio.gather(*(ended(eve, id, 120) for id in ids))
    assert (silent["status"], silent["attempts"]) == ("completed", 2)
    assert (dripping["status"], dripping["error"]["code"]) == ("failed", "upstream_stalled")
    assert (endless["status"], endless["error"]["code"]) == ("failed", "file_too_large")
    assert (slow["status"], slow["error"]["code"]) == ("failed", "deadline_exceeded")
    assert [count("ytdl_downloads_failed_total", **each) for each in names] == [
        before[0] + 3, before[1] + 1, before[2] + 2
    ]  # fmt: skip
