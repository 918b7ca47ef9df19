"""A stand-in for YouTube: yt-dlp's own YouTube extractor works on it, over TLS, without a network.

    with YouTube() as youtube:            # or `async with`; it lives in a thread with a loop of its own
        youtube.proxy_url                 # http://127.0.0.1:PORT, for yt-dlp's `proxy`
        youtube.ca_file                   # the only authority to trust behind that proxy
        youtube.extractor_args            # for `--extractor-args`
        youtube.url("ordinary")           # https://www.youtube.com/watch?v=ordinary_01
        youtube.misbehave("ordinary", media_status=503, times=2)
        youtube.requests                  # what was asked for, in order

Or in a process of its own: `python -m tests.fakes.youtube --ready-file F` (see --help), driven over
`control_url`: POST /control with the fields of `Fault` as JSON, GET or DELETE /control, GET or DELETE
/requests, GET /videos, GET /refused.

Trust. yt-dlp takes its authorities from the package certifi when that is installed and then ignores
SSL_CERT_FILE. The option `no-certifi` (`compat_opts={"no-certifi"}`, `--compat-options no-certifi`) makes it
use OpenSSL's default places, and the first of these is the file that the environment variable SSL_CERT_FILE
names. So: set SSL_CERT_FILE to `ca_file` before the first request and pass `no-certifi`. Names and
certificates stay checked; nothing is patched.

Extractor arguments. `player_client=android_vr` alone lists only format 18: the others want a PO token. Any
base64 text will do as token (`po_token=android_vr.gvs+...`); without one, `formats=missing_pot` lists them
too. That client needs no JavaScript runtime. The stand-in asks for no token. For a signed-in user yt-dlp leaves that
client out; `account_args` have `web_embedded` beside it.

Videos by name (ids in `youtube_videos`): ordinary, second, portrait, small (up to 360p), big (32 MB); odd
titles emoji, right_to_left, quotes, newlines, slashes, dots, long, template, dash; refused private, removed,
age_restricted, geo_blocked, members_only, bot_check, rate_limited; live, upcoming, drm. Playlists: playlist
(5 entries), mixed_playlist (with a private and a removed one). Any number of further videos: `many_NNNNNN`,
and `bigMMM_NNNN` of MMM megabytes. Live videos have a master playlist only, no segments; subtitles, comments
and storyboards don't exist here.
"""

import argparse
import asyncio
import ctypes
import json
import signal
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.fakes.youtube_faults import Change, Faults, parse_fault
from tests.fakes.youtube_log import Seen
from tests.fakes.youtube_media import Cupboard, Media
from tests.fakes.youtube_origin import Origin
from tests.fakes.youtube_proxy import Proxy, make_authority
from tests.fakes.youtube_stream import Films
from tests.fakes.youtube_videos import BY_ITAG, CATALOGUE, PLAYLIST_NAMES, find, id_of, recipes, url_of

EXTRACTOR_ARGS = "youtube:player_client=android_vr;po_token=android_vr.gvs+c3RhbmRpbnRva2Vu"
ACCOUNT_ARGS = EXTRACTOR_ARGS.replace("android_vr;", "android_vr,web_embedded;", 1)
START_SECONDS = 120
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1


class YouTube:
    """The stand-in, running from `start` to `stop`. Its methods may be called from any thread."""

    def __init__(self, media_dir: Path | str | None = None, port: int = 0, control_port: int = 0) -> None:
        self._cupboard_folder = Path(media_dir) if media_dir else None
        self._ports = port, control_port
        self._faults = Faults()
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin: Origin | None = None
        self._proxy: Proxy | None = None
        self.proxy_url = self.control_url = ""
        self.ca_file = Path()
        self.extractor_args = EXTRACTOR_ARGS
        self.account_args = ACCOUNT_ARGS

    def start(self) -> Self:
        """Makes missing media (some seconds, once), then listens. Raises whatever kept it from starting."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="youtube-standin", daemon=True)
        self._thread.start()
        ready.result(START_SECONDS)
        return self

    def stop(self) -> None:
        """Closes every connection and waits for the thread. Does nothing when not running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stop is not None and thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(STOP_SECONDS)

    def url(self, name: str) -> str:
        """The address of a video or playlist by its name or id."""
        return url_of(name)

    def misbehave(self, video: str = "*", **fields: Any) -> None:
        """Switches a fault on; `fields` are those of `Fault`, else `ValueError` is raised."""
        self._faults.add(parse_fault({"video": id_of(video), **fields}))

    def behave(self) -> None:
        """Switches all faults off."""
        self._faults.clear()

    def media(self, video: str, itag: int, change: Change = "") -> Media:
        """The file that a format of a video has, or has after a change, for comparing: `size`, `sha256()`."""
        assert self._origin is not None and self._loop is not None
        found = self._origin.films.media(find(id_of(video)), BY_ITAG[itag], change)
        return asyncio.run_coroutine_threadsafe(found, self._loop).result(START_SECONDS)

    @property
    def requests(self) -> list[Seen]:
        """All requests so far, oldest first; those still open are among them."""
        return list(self._origin.log) if self._origin else []

    @property
    def refused_hosts(self) -> list[str]:
        """Hosts outside the service that somebody tried to reach through the proxy."""
        return list(self._proxy.refused_hosts) if self._proxy else []

    @property
    def broken_handshakes(self) -> list[str]:
        return list(self._proxy.broken_handshakes) if self._proxy else []

    def forget(self) -> None:
        """Empties the log of requests and the list of refused hosts."""
        if self._origin and self._proxy:
            self._origin.log.clear()
            self._proxy.refused_hosts.clear()

    def describe(self) -> dict[str, Any]:
        """What another process needs to use it."""
        return {
            "proxy_url": self.proxy_url,
            "ca_file": str(self.ca_file),
            "control_url": self.control_url,
            "extractor_args": self.extractor_args,
            "urls": {name: url_of(name) for name in [*CATALOGUE, *PLAYLIST_NAMES]},
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _run(self, ready: Future[None]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="youtube-standin-") as folder:
                asyncio.run(self._serve(Path(folder), ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, folder: Path, ready: Future[None]) -> None:
        cupboard = Cupboard(self._cupboard_folder)
        self._origin = Origin(Films(cupboard, cupboard.get_all(recipes())), self._faults)
        self.ca_file, context = make_authority(folder)
        self._proxy = Proxy(context, self._origin.server)
        control = web.AppRunner(self._control(), access_log=None)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.proxy_url = f"http://127.0.0.1:{await self._proxy.start(self._ports[0])}"
            self.control_url = await _listen(control, self._ports[1])
            ready.set_result(None)
            await self._stop.wait()
        finally:
            await self._proxy.stop()
            await self._origin.server.shutdown(0)
            await control.cleanup()

    def _control(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/control", self._post_fault)
        app.router.add_get("/control", _reply(self._faults.list_))
        app.router.add_delete("/control", _reply(self.behave))
        app.router.add_get("/requests", _reply(lambda: [asdict(seen) for seen in self.requests]))
        app.router.add_delete("/requests", _reply(self.forget))
        app.router.add_get("/refused", _reply(lambda: self.refused_hosts))
        app.router.add_get("/videos", _reply(lambda: self.describe()["urls"]))
        return app

    async def _post_fault(self, request: web.Request) -> web.Response:
        try:
            values = await request.json()
            self.misbehave(**values)
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(self._faults.list_(), status=201)


def _reply(answer: Any) -> Any:
    """A handler that answers with the JSON of `answer()`, or with 204 when that is None."""

    async def handle(_request: web.Request) -> web.Response:
        value = answer()
        return web.Response(status=204) if value is None else web.json_response(value)

    return handle


async def _listen(runner: web.AppRunner, port: int) -> str:
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fakes.youtube", description="Stand-in for YouTube behind a local CONNECT proxy."
    )
    parser.add_argument("--port", type=int, default=0, help="of the proxy; a free one by default")
    parser.add_argument("--control-port", type=int, default=0, help="of the control; a free one by default")
    parser.add_argument("--media-dir", help="keeps films; by default YTDL_TEST_MEDIA or in /tmp")
    parser.add_argument("--ready-file", type=Path, help="gets what is printed otherwise: a JSON description")
    parser.add_argument("--throttle", type=int, default=0, help="bytes a second for each media connection")
    parser.add_argument("--with-parent", action="store_true", help="end with the starting process")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_arguments()
    if options.with_parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Blocked in all threads and waited for below: a handler could not run inside the other thread's loop.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with YouTube(options.media_dir, options.port, options.control_port) as youtube:
        if options.throttle:
            youtube.misbehave(media_throttle=options.throttle)
        announce(json.dumps(youtube.describe(), indent=1), options.ready_file)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


def announce(description: str, ready_file: Path | None) -> None:
    """Prints the description or puts it in place whole, so that a reader never sees half of it."""
    if ready_file is None:
        print(description, flush=True)
        return
    unfinished = ready_file.with_suffix(".unfinished")
    unfinished.write_text(description)
    unfinished.replace(ready_file)


if __name__ == "__main__":
    main()
