"""Cancelling and killing at every moment, of every process: nothing is left, and it goes on."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes.youtube import YouTube
from tests.fetching import (
    Run,
    Stages,
    cancel,
    descendants,
    fail,
    fetch,
    is_alive,
    is_encoding,
    names,
    order_for,
    settings_for,
    start_slowly,
    stop,
    until,
)
from ytdl.child.frames import Ended, Try, decode_report, encode
from ytdl.fetcher import Fetcher, FetchFailed, Metadata, Progress, Usage, forkserver, runs, watch
from ytdl.fetcher.forkserver import ROOT

SERVICE = """
import asyncio, sys
from pathlib import Path
from ytdl.fetcher import Fetcher, Order, Settings
async def main():
    runtime, ffmpeg, proxy, ca, args, url, work = sys.argv[1:]
    fetcher = Fetcher(Settings(Path(runtime), ffmpeg=ffmpeg, proxy=proxy, ca_file=ca, extractor_args=args))
    await fetcher.start()
    def show(frame):
        print(fetcher.zygote_pid, getattr(frame, "stage", ""), flush=True)
    await fetcher.run(Order("9.1", url, "best", "mp3", work), show)
asyncio.run(main())
"""
# What needs longer waited for something that was to be ended: for the site, the transfer, or the fork server's word.
QUICKLY = 8.0
SLOW_SECONDS = 30
# A fork server on a system that has no room for another process. A limit would not hold for root.
CROWDED = """
import errno, os, socket, sys
from ytdl.child.zygote import Zygote
def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = fork
Zygote(socket.socket(fileno=int(sys.argv[1])), print).serve()
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting in vain takes longer than a machine stands still."""
    monkeypatch.setattr(runs, "EXIT_GRACE_SECONDS", 30.0)
    monkeypatch.setattr(runs, "KILL_SECONDS", 30.0)
    monkeypatch.setattr(runs, "ORPHAN_SECONDS", 30.0)


async def test_cancelling_during_the_extraction_leaves_no_process(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(player_delay=20)
    stages = Stages()
    task: Run = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path), stages.see))
    await stages.reach(lambda frame: frame.stage == "extracting")
    assert descendants(fetcher)
    assert await cancel(task) < QUICKLY
    assert descendants(fetcher) == [] and fetcher.running == 0


async def test_cancelling_during_the_transfer_leaves_no_process_but_the_partial_file(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big"))
    assert await cancel(task) < QUICKLY
    assert descendants(fetcher) == []
    assert (tmp_path / "attempt" / "137.mp4.part").stat().st_size > 30_000


async def test_cancelling_while_sound_is_encoded_kills_ffmpeg(
    youtube: YouTube, tmp_path: Path, slow_ffmpeg: str
) -> None:
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=slow_ffmpeg))
    await fetcher.start()
    try:
        task: Run = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path, wanted="mp3"), lambda frame: None))
        await until(lambda: is_encoding(fetcher), SLOW_SECONDS)
        helper = descendants(fetcher)
        assert await cancel(task) < QUICKLY
        assert not any(map(is_alive, helper))
    finally:
        await fetcher.stop()


async def test_a_second_cancellation_does_not_leave_the_job_behind(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big"))
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    stopped = await stop(task)
    assert descendants(fetcher) == [] and fetcher.running == 0
    assert stopped.usage.cpu_seconds > 0 and stopped.fetched_bytes > 30_000


async def test_a_cancelled_run_says_what_it_used(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    stopped = await stop(await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big")))
    assert 0.01 < stopped.usage.cpu_seconds < 5 and stopped.usage.peak_memory_bytes > 10 * 2**20
    part = (tmp_path / "attempt" / "137.mp4.part").stat().st_size
    assert 30_000 < stopped.fetched_bytes <= part <= stopped.usage.disk_bytes


async def test_a_run_that_is_cancelled_before_it_has_a_job_used_nothing(youtube: YouTube, tmp_path: Path) -> None:
    waiting: Run = asyncio.create_task(
        Fetcher(settings_for(youtube, tmp_path)).run(order_for(youtube, tmp_path), lambda frame: None)
    )
    await asyncio.sleep(0)
    stopped = await stop(waiting)
    assert (stopped.usage, stopped.fetched_bytes) == (Usage(), 0)


async def test_a_fault_of_whoever_hears_the_frames_leaves_no_process(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    def break_down(frame: Metadata | Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetcher.run(order_for(youtube, tmp_path), break_down)
    assert descendants(fetcher) == [] and fetcher.running == 0


@pytest.mark.parametrize("path", [None, "/nonexistent"], ids=["leashed", "without setpriv"])
async def test_a_killed_child_is_child_killed_and_takes_its_ffmpeg_along(
    youtube: YouTube, tmp_path: Path, slow_ffmpeg: str, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    if path:
        monkeypatch.setenv("PATH", path)
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=slow_ffmpeg))
    await fetcher.start()
    try:
        task = asyncio.create_task(fail(fetcher, order_for(youtube, tmp_path, wanted="mp3")))
        await until(lambda: is_encoding(fetcher), SLOW_SECONDS)
        child = psutil.Process(fetcher.zygote_pid).children()[0]
        helper = child.children()[0]
        child.kill()
        failure = (await task).failure
        assert (failure.code, failure.retryable) == ("child_killed", True)
        assert not is_alive(helper) and descendants(fetcher) == []
    finally:
        await fetcher.stop()


async def test_a_killed_fork_server_fails_its_jobs_and_the_next_one_runs(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big"))
    old, jobs = fetcher.zygote_pid, descendants(fetcher)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    with pytest.raises(FetchFailed) as caught:
        await task
    assert (caught.value.failure.code, caught.value.failure.retryable) == ("child_killed", True)
    # Its pipes and locks are gone by now; the kernel may still be taking the rest of it apart.
    await until(lambda: not any(map(is_alive, jobs)), SLOW_SECONDS)
    youtube.behave()
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path / "next"))
    assert done.height == 1080 and fetcher.restarts == 1 and fetcher.zygote_pid != old


def _hang(fetcher: Fetcher) -> int:
    """Stops the fork server; its number."""
    pid = fetcher.zygote_pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    return pid


async def test_a_fork_server_that_hangs_is_replaced(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = _hang(fetcher)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "START_SECONDS", 1.0)
        patch.setattr(runs, "EXIT_GRACE_SECONDS", 0.5)
        patch.setattr(runs, "KILL_SECONDS", 0.5)
        assert (await fail(fetcher, order_for(youtube, tmp_path))).failure.code == "child_crashed"
    await until(lambda: fetcher.zygote_pid not in (None, hung), SLOW_SECONDS)
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path / "next"))
    assert done.height == 1080


async def test_a_cancel_does_not_wait_for_a_fork_server_that_hangs(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big"))
    children = descendants(fetcher)
    _hang(fetcher)
    monkeypatch.setattr(runs, "KILL_SECONDS", 0.5)
    assert await cancel(task) < QUICKLY
    await until(lambda: not any(map(is_alive, children)), SLOW_SECONDS)


async def test_a_fork_server_is_tried_with_a_job_that_leaves_nothing(fetcher: Fetcher) -> None:
    assert await fetcher.try_forking()
    descriptors = Path(f"/proc/{fetcher.zygote_pid}/fd")
    before = len(list(descriptors.iterdir()))
    assert await asyncio.gather(*(fetcher.try_forking() for _ in range(5))) == [True] * 5
    assert len(list(descriptors.iterdir())) == before and descendants(fetcher) == []


async def test_a_fork_server_that_hangs_does_not_pass_the_trial_and_goes_on_as_if_nothing_had_been(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = _hang(fetcher)
    with monkeypatch.context() as patch:
        patch.setattr(forkserver, "TRY_SECONDS", 0.3)
        assert not await fetcher.try_forking()
    os.kill(hung, signal.SIGCONT)
    assert await fetcher.try_forking()
    await fetch(fetcher, order_for(youtube, tmp_path))
    assert (fetcher.zygote_pid, fetcher.restarts, descendants(fetcher)) == (hung, 0, [])


async def test_a_fork_server_that_dies_meanwhile_does_not_pass_the_trial(fetcher: Fetcher) -> None:
    hung = _hang(fetcher)
    trial = asyncio.create_task(fetcher.try_forking())
    await asyncio.sleep(0.1)
    os.kill(hung, signal.SIGKILL)
    assert not await trial
    assert not await fetcher.try_forking()


def test_a_fork_server_that_cannot_fork_says_so_and_lives() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", CROWDED, str(theirs.fileno())]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as crowded, ours:
        theirs.close()
        ours.settimeout(SLOW_SECONDS)
        for number in (1, 2):
            ours.send(encode(Try(number)))
            ended = decode_report(ours.recv(4096))
            assert isinstance(ended, Ended) and ended.number == number and ended.status
        ours.shutdown(socket.SHUT_RDWR)
        assert b"Resource temporarily unavailable" in crowded.communicate(timeout=SLOW_SECONDS)[1]
        assert crowded.returncode == 0


async def test_a_killed_service_leaves_neither_children_nor_ffmpeg(
    youtube: YouTube, tmp_path: Path, slow_ffmpeg: str
) -> None:
    arguments = [str(tmp_path / "runtime"), slow_ffmpeg, youtube.proxy_url, str(youtube.ca_file)]
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVICE, *arguments, youtube.extractor_args, youtube.url("ordinary")),
        str(tmp_path / "attempt"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert service.stdout
    async with asyncio.timeout(2 * SLOW_SECONDS):
        while b"processing" not in await service.stdout.readline():
            pass
    await until(lambda: "sleep" in names(psutil.Process(service.pid).children(recursive=True)), SLOW_SECONDS)
    family = psutil.Process(service.pid).children(recursive=True)
    service.kill()
    await service.wait()
    await until(lambda: not any(map(is_alive, family)), SLOW_SECONDS)


async def test_stopping_ends_running_jobs_and_can_be_repeated(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path, "big"))
    family = [psutil.Process(fetcher.zygote_pid), *descendants(fetcher)]
    await fetcher.stop()
    await fetcher.stop()
    with pytest.raises(FetchFailed) as caught:
        await task
    assert caught.value.failure.code == "child_killed"
    assert fetcher.zygote_pid is None
    await until(lambda: not any(map(is_alive, family)), SLOW_SECONDS)
    await fetcher.start()
    await fetcher.start()
    youtube.behave()
    assert (await fetch(fetcher, order_for(youtube, tmp_path / "next")))[0].height == 1080


async def test_a_cancel_at_the_very_beginning_leaves_no_pipe_open(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    before = _open_descriptors()
    for steps in range(1, 13):
        order = order_for(youtube, tmp_path, job=f"8.{steps}", work_dir=str(tmp_path / str(steps)))
        task = asyncio.create_task(fetcher.run(order, lambda frame: None))
        for _ in range(steps):
            await asyncio.sleep(0)
        await stop(task)
    # The stand-in has its end of some of their connections in this process as well.
    await until(lambda: _open_descriptors() <= before, SLOW_SECONDS)


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
