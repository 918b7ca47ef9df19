"""What a fetcher is told and what it answers: settings, failures, and what a job used."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ytdl.child.frames import Ended, Fault
from ytdl.errors import Error
from ytdl.reasons import REASONS


@dataclass(frozen=True)
class Settings:
    """How jobs run. Times in seconds, sizes in bytes.

    `ffmpeg` and `deno` are paths of the real programs; without ffmpeg only streams that need no work are
    delivered. `extractor_args` is text as on yt-dlp's command line. `memory_bytes` bounds the private data
    of each process, not of the job; deno does not start below 768 MiB.
    """

    runtime_dir: Path
    ffmpeg: str | None = None
    deno: str | None = None
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    allowed_extractors: tuple[str, ...] = ("youtube",)
    allowed_networks: tuple[str, ...] = ()
    extractor_args: str = field(default="", repr=False)
    cookies_file: str | None = field(default=None, repr=False)
    socket_timeout_seconds: float = 20.0
    stall_seconds: float = 60.0
    extract_seconds: float = 120.0
    process_seconds: float = 3600.0
    total_seconds: float = 6 * 3600.0
    start_seconds: float = 30.0
    file_bytes: int = 16 * 1024**3
    memory_bytes: int = 1024**3
    cpu_seconds: int = 4 * 3600
    niceness: int = 5
    extract_at_once: int = 4
    process_at_once: int = 2


class Usage(msgspec.Struct, frozen=True):
    """What one attempt used, ffmpeg included.

    Memory is the largest resident size of one process, pages shared with the fork server counted; disk is
    what lay in the attempt's folder at its end.
    """

    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    disk_bytes: int = 0


class Failed(msgspec.Struct, frozen=True):
    """Why an attempt failed. `message` is safe to show; the least wait before a retry may be None."""

    code: str
    message: str
    retryable: bool
    retry_after_seconds: float | None = None


class FetchFailed(Error):
    """An attempt ended without a file. `fetched_bytes` is what it transferred, as far as its child came to say."""

    code = "fetch_failed"

    def __init__(self, failure: Failed, usage: Usage, fetched_bytes: int = 0) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.usage = usage
        self.fetched_bytes = fetched_bytes


class Stopped(asyncio.CancelledError):
    """A cancellation that says what the attempt had used; `fetched_bytes` as last reported by its child."""

    def __init__(self, usage: Usage, fetched_bytes: int) -> None:
        super().__init__()
        self.usage = usage
        self.fetched_bytes = fetched_bytes


def judge(fault: Fault) -> Failed:
    """A child's fault with what its code means; the least wait is the longer of the site's and the table's.

    A code outside the table is a bug here, and says so.
    """
    reason = REASONS.get(fault.code)
    if reason is None:
        return Failed("internal", "The download failed for an unknown reason.", REASONS["internal"].retryable)
    wait = max(fault.retry_after_seconds or 0.0, reason.delay_seconds)
    return Failed(fault.code, fault.message, reason.retryable, wait or None)


def explain_death(status: int | None) -> Fault:
    """The fault for a child without a last frame; `status` is None when its fork server died too."""
    if status is None:
        return Fault("child_killed", "The download's process was killed.")
    number = status & 0x7F
    if number == signal.SIGXFSZ:
        return Fault("file_too_large", "The file grew over this server's limit.")
    if number == signal.SIGXCPU:
        return Fault("deadline_exceeded", "The download used up its processor time.")
    if number in (signal.SIGKILL, signal.SIGTERM):
        return Fault("child_killed", "The download's process was killed.")
    return Fault("child_crashed", "The download's process broke down.")


def sum_up(ended: Ended | None, work_dir: str) -> Usage:
    """What a job used whose attempt had that folder; blocks for a look into it."""
    disk = 0
    with contextlib.suppress(FileNotFoundError):
        disk = sum({e.inode(): e.stat().st_blocks * 512 for e in os.scandir(work_dir) if e.is_file()}.values())
    if ended is None:
        return Usage(disk_bytes=disk)
    return Usage(ended.peak_memory_bytes, round(ended.cpu_seconds, 4), disk)
