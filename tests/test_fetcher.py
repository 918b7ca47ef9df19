"""Jobs of the fetcher: frames, progress, usage, isolation, limits, and what yt-dlp is told."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.fakes.youtube import YouTube
from tests.fetching import (
    Run,
    Stages,
    cancel,
    count_sleeping,
    descendants,
    fail,
    fetch,
    is_alive,
    is_encoding,
    order_for,
    settings_for,
    start_slowly,
    until,
)
from ytdl import health
from ytdl.child import options
from ytdl.child.frames import Setup
from ytdl.config import Config
from ytdl.db import DB
from ytdl.fetcher import Fetcher, FetchFailed, Metadata, Progress, runs
from ytdl.fetcher.forkserver import ROOT
from ytdl.health import Health
from ytdl.kv import KV
from ytdl.storage import Storage


async def test_metadata_comes_once_and_before_the_transfer(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    _, _, frames = await fetch(fetcher, order_for(youtube, tmp_path))
    kinds = [type(frame).__name__ for frame in frames]
    assert kinds.index("Metadata") == 1 and kinds.count("Metadata") == 1
    total = frames[-1].total_bytes
    assert total
    assert frames[1] == Metadata(
        "ordinary_01",
        "youtube",
        "An ordinary video",
        "The Stand-in",
        6.0,
        "https://i.ytimg.com/vi/ordinary_01/hqdefault.jpg",
        1920,
        1080,
        total,
        2 * total,
    )


async def test_progress_rises_through_all_stages_and_never_falls(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_throttle=100_000)
    _, _, frames = await fetch(fetcher, order_for(youtube, tmp_path))
    progress = [frame for frame in frames if isinstance(frame, Progress)]
    percents = [frame.percent for frame in progress]
    assert percents == sorted(percents) and percents[0] == 0 and 98 <= percents[-1] < 100
    assert len({percent for percent in percents if 0 < percent < 92}) > 4
    assert list(dict.fromkeys(frame.stage for frame in progress)) == [
        "extracting",
        "downloading",
        "processing",
        "verifying",
    ]


async def test_progress_is_throttled_and_knows_speed_and_time_left(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_throttle=20_000_000)
    began = asyncio.get_running_loop().time()
    _, _, frames = await fetch(fetcher, order_for(youtube, tmp_path, "big"))
    seconds = asyncio.get_running_loop().time() - began
    assert len(frames) <= 4 * seconds + 8
    progress = [frame for frame in frames if isinstance(frame, Progress)]
    assert any(1e6 < (frame.speed_bytes_per_second or 0) < 40e6 for frame in progress)
    assert any(frame.eta_seconds for frame in progress)


@pytest.mark.parametrize("name", ["emoji", "right_to_left", "quotes", "newlines", "slashes", "dots", "long"])
async def test_no_title_reaches_a_file_name(fetcher: Fetcher, youtube: YouTube, tmp_path: Path, name: str) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, name, "360p", embed_metadata=True))
    assert done.path == str(tmp_path / "attempt" / "out.mp4")
    inside = {path.name for path in (tmp_path / "attempt").iterdir()}
    assert inside <= {"out.mp4", "lock", "134.mp4", "134.mp4.note", "140.m4a", "140.m4a.note"}
    assert {path.name for path in tmp_path.iterdir()} <= {"attempt", "runtime"}


async def test_usage_covers_the_helpers_and_the_folder(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    _, plain, _ = await fetch(fetcher, order_for(youtube, tmp_path / "a", wanted="m4a"))
    _, heavy, _ = await fetch(fetcher, order_for(youtube, tmp_path / "b", "big", "1080p", "mkv"))
    assert 0.01 < plain.cpu_seconds < 30 and 10 * 2**20 < plain.peak_memory_bytes < 2**30
    assert heavy.disk_bytes > 30_000_000 > plain.disk_bytes > 10_000


async def test_children_see_no_secret_of_the_service(
    youtube: YouTube, tmp_path: Path, slow_ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("JWT_SECRET_KEY", "secret")
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=slow_ffmpeg))
    await fetcher.start()
    try:
        task: Run = asyncio.create_task(fetcher.run(order_for(youtube, tmp_path, wanted="mp3"), lambda frame: None))
        await until(lambda: is_encoding(fetcher), 30)
        family = [psutil.Process(fetcher.zygote_pid), *descendants(fetcher)]
        known = {"PATH", "HOME", "LANG", "PYTHONPATH", "PWD", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "DENO_DIR"}
        for process in family:
            assert set(process.environ()) <= known
        await cancel(task)
    finally:
        await fetcher.stop()


async def test_a_job_leads_its_own_group_and_session_and_has_limits(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    task = await start_slowly(fetcher, youtube, order_for(youtube, tmp_path), rate=30_000)
    (child,) = descendants(fetcher)
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
    assert os.getsid(fetcher.zygote_pid or 0) == fetcher.zygote_pid != os.getsid(0)
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    for name, value in (("Max core file size", 0), ("Max file size", 16 * 2**30), ("Max data size", 2**30)):
        assert f"{name:<25} {value:<20} {value}" in limits
    assert child.nice() == 5 + psutil.Process().nice() and child.name() == "ytdl 7.1"
    await cancel(task)


async def test_the_work_folder_is_closed_to_others(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    assert Path(done.path).parent.stat().st_mode & 0o077 == 0
    assert Path(done.path).stat().st_mode & 0o077 == 0


async def test_many_jobs_at_once_end_with_their_own_files(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    orders = [order_for(youtube, tmp_path / str(n), f"many_{n:06}", "144p", job=f"{n}.1") for n in range(8)]
    results = await asyncio.gather(*(fetch(fetcher, order) for order in orders))
    assert [done.path for done, _, _ in results] == [f"{order.work_dir}/out.mp4" for order in orders]
    assert [frames[1].video_id for _, _, frames in results if isinstance(frames[1], Metadata)] == [
        f"many_{n:06}" for n in range(8)
    ]


async def test_only_so_many_ffmpegs_work_at_once(youtube: YouTube, tmp_path: Path, slow_ffmpeg: str) -> None:
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=slow_ffmpeg, process_at_once=2))
    await fetcher.start()
    stages = [Stages() for _ in range(4)]
    orders = [order_for(youtube, tmp_path / str(n), wanted="mp3") for n in range(4)]
    tasks = [asyncio.create_task(fetcher.run(order, stage.see)) for order, stage in zip(orders, stages, strict=True)]
    try:
        for stage in stages:
            await stage.reach(lambda frame: frame.stage == "processing", 30)
        await until(lambda: count_sleeping(fetcher) == 2, 30)
        await asyncio.sleep(0.3)
        assert count_sleeping(fetcher) == 2
        first = next(process for process in descendants(fetcher) if process.name() == "sleep").parent()
        assert first
        first.kill()
        await until(lambda: not is_alive(first) and count_sleeping(fetcher) == 2, 30)
    finally:
        await fetcher.stop()
    assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [FetchFailed] * 4


async def test_no_descriptor_is_left_open(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    await fetch(fetcher, order_for(youtube, tmp_path / "warm", quality="144p"))
    before = open_descriptors(fetcher)
    for n in range(3):
        await fetch(fetcher, order_for(youtube, tmp_path / str(n), quality="144p"))
        await fail(fetcher, order_for(youtube, tmp_path / f"failed{n}", "private"))
    # The stand-in, which is in this process, closes its connections a little later: those of before, too.
    with contextlib.suppress(TimeoutError):
        await until(lambda: open_descriptors(fetcher) <= before, 20)
    assert open_descriptors(fetcher) <= before


def open_descriptors(fetcher: Fetcher) -> Counter[str]:
    """How many this process and the fork server have."""
    folders = {"here": Path("/proc/self/fd"), "there": Path(f"/proc/{fetcher.zygote_pid}/fd")}
    return Counter({where: len(list(folder.iterdir())) for where, folder in folders.items()})


def logged_failure(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    (record,) = (each for each in caplog.records if each.message == "job failed")
    return vars(record)


async def test_an_ordinary_refusal_puts_no_last_words_into_the_log(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await fail(fetcher, order_for(youtube, tmp_path, "private"))
    line = logged_failure(caplog)
    assert (line["job"], line["reason"]) == ("7.1", "video_private")
    assert "stderr" not in line and "Traceback" not in str(line)


async def test_the_last_words_of_what_should_not_fail_are_logged_in_part_and_without_secrets(
    youtube: YouTube, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(runs, "LAST_WORDS", 200)
    broken = tmp_path / "broken-ffmpeg"
    broken.write_text("#!/bin/sh\necho Bearer abc.def broke >&2\nexit 1\n")
    broken.chmod(0o755)
    fetcher = Fetcher(settings_for(youtube, tmp_path, ffmpeg=str(broken)))
    await fetcher.start()
    try:
        await fail(fetcher, order_for(youtube, tmp_path, wanted="mp3"))
    finally:
        await fetcher.stop()
    line = logged_failure(caplog)
    assert line["reason"] == "processing_failed"
    words = str(line["stderr"])
    assert words.endswith("Bearer *** broke\n") and len(words) == 200


async def test_the_tools_are_named_with_their_versions(fetcher: Fetcher) -> None:
    tools = await fetcher.probe_tools()
    assert tools["ready"] and tools["deno_supported"] and tools["ffmpeg"] and tools["ejs"]
    assert tools["yt_dlp"] >= "2026.07.04"


async def test_a_javascript_runtime_that_is_too_old_is_not_ready(
    youtube: YouTube, tmp_path: Path, config: Config, db: DB, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIMIT_SECONDS", 30.0)
    old = tmp_path / "deno"
    old.write_text("#!/bin/sh\necho deno 1.0.0\n")
    old.chmod(0o755)
    fetcher, kv = Fetcher(settings_for(youtube, tmp_path, deno=str(old))), KV(redis_url, "t")
    await fetcher.start()
    try:
        found = await Health(config, db, kv, Storage(tmp_path), fetcher).readiness()
    finally:
        await fetcher.stop()
        await kv.close()
    (check,) = (check for check in found.checks if check.name == "javascript")
    assert (check.ok, check.detail) == (False, "deno 1.0.0 is too old for yt-dlp.")


def test_the_service_side_never_loads_yt_dlp() -> None:
    code = "import sys, ytdl.fetcher; print([m for m in sys.modules if m.split('.')[0] in ('yt_dlp', 'av')])"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "[]"


def test_every_option_given_to_yt_dlp_is_one_it_knows() -> None:
    code = """
import json, re, yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
words = yt_dlp.YoutubeDL.__doc__ + FileDownloader.__doc__ + FragmentFD.__doc__
print(json.dumps(sorted(set(re.findall(r"[a-z_]+", words)))))
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    known = set(json.loads(output.stdout))
    assert set(options.build(Setup(["youtube"]), None, print)) - known == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (
            "youtube:player_client=web,tv;po_token=web.gvs+abc",
            {"youtube": {"player_client": ["web", "tv"], "po_token": ["web.gvs+abc"]}},
        ),
        (
            "YouTube:player-client=web other:a=b=c",
            {"youtube": {"player_client": ["web"]}, "other": {"a": ["b=c"]}},
        ),
    ],
)
def test_extractor_arguments_read_as_on_the_command_line(text: str, expected: dict[str, object]) -> None:
    assert options.parse_extractor_args(text) == expected


def test_dangerous_options_of_yt_dlp_are_never_set() -> None:
    built = options.build(Setup(["youtube"]), None, print)
    for name in (
        "exec_cmd",
        "netrc_cmd",
        "usenetrc",
        "cookiesfrombrowser",
        "wait_for_video",
        "force_generic_extractor",
    ):
        assert name not in built
    assert built["external_downloader"] == {"default": "native"} and not built["enable_file_urls"]
    assert not built["skip_unavailable_fragments"] and built["remote_components"] == set()
