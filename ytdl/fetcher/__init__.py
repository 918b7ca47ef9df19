"""Downloads in child processes: one fork server, one process group a job, frames in, kill out.

The service never imports yt-dlp; everything that does lives in `ytdl.child`. Who calls this owns the
folders it names and decides about retries; `ytdl.reasons` says what a failure means.
"""

from ytdl.child.frames import Account, Cookie, Done, Locked, Metadata, Order, Progress
from ytdl.fetcher.outcome import Failed, FetchFailed, Settings, Stopped, Usage
from ytdl.fetcher.runs import Fetcher
from ytdl.fetcher.tools import find_ffmpeg

__all__ = [
    "Account",
    "Cookie",
    "Done",
    "Failed",
    "FetchFailed",
    "Fetcher",
    "Locked",
    "Metadata",
    "Order",
    "Progress",
    "Settings",
    "Stopped",
    "Usage",
    "find_ffmpeg",
]
