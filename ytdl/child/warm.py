"""Warming the fork server: imports, one extraction that reaches no network, and the versions of the tools.

What is loaded here is shared by every job's memory. Nothing here may start a thread: the process forks afterwards.
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

from ytdl.child import options
from ytdl.child.frames import Setup

REFUSING_PROXY = "http://127.0.0.1:9"
"""Connections to the discard port are refused at once, so the warm-up ends without leaving the machine."""
WARM_UP_URL = "https://www.youtube.com/watch?v=AAAAAAAAAAA"


class _Silent:
    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug


def up(setup: Setup) -> dict[str, Any]:
    """Load everything a job needs, freeze it for sharing, and report the tools' versions."""
    av.logging.set_level(None)
    _extract_nothing(setup)
    tools = find_tools(setup.deno)
    if threading.active_count() != 1:
        raise RuntimeError(f"the fork server has threads: {threading.enumerate()}")
    gc.collect()
    gc.freeze()
    return tools


def _extract_nothing(setup: Setup) -> None:
    offline = msgspec.structs.replace(setup, proxy=REFUSING_PROXY, cookies_file=None)
    wanted = options.build(offline, _Silent(), lambda status: None) | {"extractor_retries": 0}
    ydl = yt_dlp.YoutubeDL(wanted)
    try:
        ydl.process_ie_result(ydl.extract_info(WARM_UP_URL, download=False, process=False), download=False)
    except YoutubeDLError:
        pass
    finally:
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
