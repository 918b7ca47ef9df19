"""Warming the fork server: imports, one extraction that reaches no network, and the versions of the tools.

What is loaded here is shared by every job's memory. Nothing here may start a thread: the process forks
afterwards.
"""

import gc
import threading
from typing import Any

import av
import av.logging
import msgspec
import yt_dlp
import yt_dlp.version
from yt_dlp.utils import YoutubeDLError
from yt_dlp.utils._jsruntime import DenoJsRuntime

from ytdl.child.client import Client
from ytdl.child.frames import Setup

REFUSING_PROXY = "http://127.0.0.1:9"
"""Connections to the discard port are refused at once, so the warm-up ends without leaving the machine."""
REFUSING_URL = "https://127.0.0.1:9/"
WARM_UP_URL = "https://www.youtube.com/watch?v=AAAAAAAAAAA"


# A made-up answer of an extractor: going through it once compiles what yt-dlp compiles on first use.
_SAMPLE: dict[str, Any] = {
    "id": "AAAAAAAAAAA",
    "title": "A sample",
    "extractor": "youtube",
    "extractor_key": "Youtube",
    "webpage_url": WARM_UP_URL,
    "duration": 6.0,
    "timestamp": 1_700_000_000,
    "thumbnails": [{"url": "https://i.ytimg.com/vi/AAAAAAAAAAA/default.jpg"}],
    "live_status": "not_live",
}
_SAMPLE_STREAMS: list[dict[str, Any]] = [
    {
        "format_id": "a",
        "url": "https://x.test/a",
        "ext": "m4a",
        "vcodec": "none",
        "acodec": "mp4a.40.2",
        "tbr": 128,
    },
    {
        "format_id": "b",
        "url": "https://x.test/b",
        "ext": "webm",
        "vcodec": "vp9",
        "acodec": "none",
        "height": 720,
    },
    {
        "format_id": "c",
        "url": "https://x.test/c",
        "ext": "mp4",
        "vcodec": "avc1.64",
        "acodec": "mp4a",
        "height": 360,
    },
]


class _Silent:
    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug


def up(setup: Setup) -> tuple[Client, dict[str, Any]]:
    """Load everything a job needs and freeze it for sharing: the object that jobs use, and the tools' versions."""
    av.logging.set_level(None)
    _extract_nothing(setup)
    client = Client(setup)
    client.get_info_extractor("Youtube")
    client.warm_up(REFUSING_URL)
    tools = find_tools(setup.deno)
    if threading.active_count() != 1:
        raise RuntimeError(f"the fork server has threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()
    return client, tools


def _extract_nothing(setup: Setup) -> None:
    ydl = Client(msgspec.structs.replace(setup, proxy=REFUSING_PROXY), _Silent())
    ydl.params["extractor_retries"] = 0
    try:
        ydl.process_ie_result(ydl.extract_info(WARM_UP_URL, download=False, process=False), download=False)
    except YoutubeDLError:
        pass
    finally:
        ydl.process_ie_result(_SAMPLE | {"formats": [dict(each) for each in _SAMPLE_STREAMS]}, download=False)
        ydl.close()


def find_tools(deno_path: str | None) -> dict[str, Any]:
    """Versions as far as this process can tell; what is missing is None."""
    deno = DenoJsRuntime(path=deno_path).info if deno_path else None
    return {
        "yt_dlp": yt_dlp.version.__version__,
        "deno": deno.version if deno else None,
        "deno_supported": bool(deno and deno.supported),
        "ejs": _ejs_version(),
        "av": av.__version__,
    }


def _ejs_version() -> str | None:
    try:
        import yt_dlp_ejs
    except ImportError:
        return None
    return str(yt_dlp_ejs.version)
