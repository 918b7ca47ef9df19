"""The options that yt-dlp is built with: one closed dictionary, nothing of a user's in it.

The library's own defaults differ from its command line's (no retries, holes counted as success), so every
value that matters is written out. yt-dlp ignores keys it does not know; a test compares the keys with its
documentation.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ytdl.child.frames import Setup

RETRIES = 3
NO_FFMPEG = "/nonexistent"
"""yt-dlp gets no ffmpeg: it would hand it network addresses. Ours sees local files only (`encode`)."""


def wait_before_retry(n: int) -> float:
    """Seconds before yt-dlp's own retry number `n`, from 0: short, since the queue does the long waits."""
    return float(min(0.5 * 2**n, 4.0))


def build(setup: Setup, logger: Any, hook: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A fresh dictionary for one YoutubeDL object, which changes what it is given."""
    return {
        "quiet": True,
        "noprogress": True,
        "no_warnings": False,
        "color": "no_color",
        "logger": logger,
        "progress_hooks": [hook],
        "allowed_extractors": list(setup.allowed_extractors),
        "extractor_args": parse_extractor_args(setup.extractor_args),
        "proxy": setup.proxy,
        "cookiefile": None,
        "compat_opts": {"no-certifi"} if setup.trust_system_certificates else set(),
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "format": _take_last,
        "ignoreerrors": False,
        "ignore_no_formats_error": True,
        "outtmpl": {"default": "%(id)s.%(ext)s"},
        "overwrites": False,
        "continuedl": True,
        "nopart": False,
        "updatetime": False,
        "cachedir": False,
        "retries": RETRIES,
        "fragment_retries": RETRIES,
        "extractor_retries": 2,
        "file_access_retries": 3,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor", "file_access"), wait_before_retry),
        "skip_unavailable_fragments": False,
        "concurrent_fragment_downloads": 1,
        "socket_timeout": setup.socket_timeout_seconds,
        "external_downloader": {"default": "native"},
        "hls_prefer_native": True,
        "ffmpeg_location": NO_FFMPEG,
        "buffersize": 64 * 1024,
        "noresizebuffer": True,
        "max_filesize": None,
        "enable_file_urls": False,
        "allow_unplayable_formats": False,
        "nocheckcertificate": False,
        "geo_bypass": False,
        "js_runtimes": {"deno": {"path": setup.deno}} if setup.deno else {},
        "remote_components": set(),
        "writethumbnail": False,
        "writesubtitles": False,
        "writeinfojson": False,
        "writelink": False,
        "check_formats": None,
        "postprocessors": [],
    }


def _take_last(context: dict[str, Any]) -> Any:
    """yt-dlp must select something; the choice that counts is made in `formats`, over all of them."""
    return iter(context["formats"][-1:])


def copy_cookies(path: str) -> io.StringIO:
    """The operator's cookies as a private copy in memory: yt-dlp rewrites what it is given."""
    return io.StringIO(Path(path).read_text())


def parse_extractor_args(text: str) -> dict[str, dict[str, list[str]]]:
    """`youtube:player_client=web,tv;formats=x other:key=v`: yt-dlp's own notation, separated by spaces."""
    found: dict[str, dict[str, list[str]]] = {}
    for item in text.split():
        name, _, pairs = item.partition(":")
        args = found.setdefault(name.strip().lower(), {})
        for pair in filter(None, pairs.split(";")):
            key, _, value = pair.partition("=")
            args[key.strip().lower().replace("-", "_")] = [part.strip() for part in value.split(",")]
    return found
