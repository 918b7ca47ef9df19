"""The HTTP side of the YouTube stand-in: which document or file a request gets, and the log of requests.

Owns routing and the faults of pages and of the API. What documents say is `youtube_replies`' matter, bodies
of media are `youtube_stream`'s.
"""

import asyncio
import dataclasses
import json
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any

from aiohttp import web

from tests.fakes import youtube_replies as replies
from tests.fakes.youtube_faults import Fault, Faults
from tests.fakes.youtube_log import Seen, note
from tests.fakes.youtube_stream import Films, Sender, find_span, open_answer
from tests.fakes.youtube_videos import BY_ITAG, PICTURE, Video, find

LOG_LENGTH = 50_000
PREMIERE_IN_SECONDS = 3 * 3600
PLAYABLE = ("", "drm")
SPACES = b" " * 2**20
# How Google words the body of a refused API call; the extractor reads the message.
API_ERRORS = {403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED"}


Handler = Callable[[web.BaseRequest, Seen], Awaitable[web.StreamResponse]]


class Origin:
    """Answers for all hosts of the service."""

    def __init__(self, films: Films, faults: Faults) -> None:
        self.films = films
        self.faults = faults
        self.log: deque[Seen] = deque(maxlen=LOG_LENGTH)
        self.premiere_at = int(time.time()) + PREMIERE_IN_SECONDS
        self.server = web.Server(self.handle, handler_cancellation=True, access_log=None)
        self._routes: dict[str, Handler] = {
            "/watch": self._watch,
            "/playlist": self._playlist,
            "/iframe_api": self._iframe_api,
            "/youtubei/v1/player": self._player,
            "/youtubei/v1/next": self._next,
            "/youtubei/v1/browse": self._browse,
            "/videoplayback": self._media,
        }
        self._prefixes: dict[str, Handler] = {
            "/vi/": self._thumbnail,
            "/embed/": self._embed,
            "/api/manifest/hls_variant/": self._live_master,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = note(request)
        self.log.append(seen)
        began = time.monotonic()
        try:
            answer = await self._find(request)(request, seen)
            seen.status = answer.status
            return answer
        finally:
            seen.seconds = time.monotonic() - began

    def _find(self, request: web.BaseRequest) -> Handler:
        if found := self._routes.get(request.path):
            return found
        starts = (handler for prefix, handler in self._prefixes.items() if request.path.startswith(prefix))
        return next(starts, self._redirect_short if request.host == "youtu.be" else self._nothing)

    async def _nothing(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        return web.Response(status=404, text="Not found")

    async def _redirect_short(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        target = f"https://www.youtube.com/watch?v={request.path.strip('/')}"
        return web.Response(status=302, headers={"Location": target})

    async def _watch(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = request.query.get("v", "")
        fault = self.faults.take("page", seen.video)
        await asyncio.sleep(fault.page_delay)
        if fault.page_status:
            return web.Response(status=fault.page_status, headers=_retry_after(fault), text="<html>No</html>")
        if fault.page_moved and "moved" not in request.query:
            return web.Response(status=302, headers={"Location": fault.page_moved})
        lock = self.faults.peek("player", seen.video)
        answer = _html(replies.watch_page(_as_shown(seen, lock), self.premiere_at, signed_in=_is_known(seen, lock)))
        if fault.page_cookie:
            answer.headers["Set-Cookie"] = fault.page_cookie
        return answer

    async def _playlist(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        return _html(replies.playlist_page(request.query.get("list", "")))

    async def _embed(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = request.path.split("/")[2]
        return _html(replies.embed_page(find(seen.video)))

    async def _iframe_api(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        script = f"var scriptUrl = 'https:\\/\\/www.youtube.com{replies.PLAYER_SCRIPT}';"
        return web.Response(text=script, content_type="text/javascript")

    async def _player(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = str((await _body(request)).get("videoId", ""))
        fault = self.faults.take("player", seen.video)
        await asyncio.sleep(fault.player_delay)
        if fault.player_status:
            return _api_error(fault)
        if fault.player_garbage:
            return web.Response(text='{"playabilityStatus": {"sta<html>', content_type="application/json")
        if fault.player_bomb:
            return await asyncio.to_thread(_bomb, fault.player_bomb)
        answer = await self._describe(_as_shown(seen, fault), fault.player_sizeless)
        return _json(replies.with_kind(answer, fault.player_mime) if fault.player_mime else answer)

    async def _describe(self, video: Video, sizeless: bool) -> dict[str, Any]:
        change = self.faults.peek("media", video.id).media_change
        streams = await self.films.streams(video, change) if video.state in PLAYABLE else []
        answer = replies.player(video, streams, self.premiere_at)
        return replies.without_sizes(answer) if sizeless else answer

    async def _next(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = str((await _body(request)).get("videoId", ""))
        return _json(replies.next_page(find(seen.video)))

    async def _browse(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        browse_id = str((await _body(request)).get("browseId", ""))
        return _json(replies.playlist(browse_id.removeprefix("VL")))

    async def _thumbnail(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = request.path.split("/")[2]
        if not request.path.endswith(".jpg") or find(seen.video).state == "missing":
            return web.Response(status=404)
        return web.Response(body=self.films.picture(PICTURE), content_type="image/jpeg")

    async def _live_master(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        seen.video = request.path.split("/id/")[1].split("/")[0]
        return web.Response(text=replies.live_master(seen.video), content_type="application/vnd.apple.mpegurl")

    async def _media(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        video, form = find(seen.video), BY_ITAG.get(seen.itag)
        fault = self.faults.take("media", seen.video, seen.itag)
        await asyncio.sleep(fault.media_delay)
        if fault.media_moved and "moved" not in request.query:
            place = fault.media_moved.replace("{query}", f"{request.query_string}&moved=1")
            return web.Response(status=302, headers={"Location": place})
        if fault.media_status:
            return web.Response(status=fault.media_status, headers=_retry_after(fault))
        if form is None or form not in video.formats() or video.state not in PLAYABLE:
            return web.Response(status=403)
        media = await self.films.media(video, form, fault.media_change)
        span = find_span(request, media, fault)
        if span is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{media.size}"})
        answer = open_answer(media, span, form.mime.split(";")[0], fault)
        await answer.prepare(request)
        if request.method != "HEAD":
            seen.status = answer.status
            await Sender(answer, fault, seen).send(media, span)
        return answer


def _is_known(seen: Seen, fault: Fault) -> bool:
    sid = SimpleCookie(seen.cookie).get("SID")
    return bool(fault.player_account) and sid is not None and sid.value == fault.player_account


def _as_shown(seen: Seen, fault: Fault) -> Video:
    """The video as the one who asks may see it."""
    video = find(seen.video)
    if not fault.player_locked or (_is_known(seen, fault) and not fault.player_closed):
        return video
    return dataclasses.replace(video, state=fault.player_locked)


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _html(page: str) -> web.Response:
    return web.Response(text=page, content_type="text/html")


def _json(answer: dict[str, Any]) -> web.Response:
    return web.json_response(answer)


def _bomb(megabytes: int) -> web.Response:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    body = packer.compress(b'{"responseContext": "') + b"".join(packer.compress(SPACES) for _ in range(megabytes))
    head = {"Content-Encoding": "gzip"}
    return web.Response(body=body + packer.flush(), headers=head, content_type="application/json")


def _retry_after(fault: Fault) -> dict[str, str]:
    return {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}


def _api_error(fault: Fault) -> web.Response:
    word = API_ERRORS.get(fault.player_status, "INTERNAL")
    error = {"code": fault.player_status, "message": f"Refused by the stand-in: {word}", "status": word}
    return web.json_response({"error": error}, status=fault.player_status, headers=_retry_after(fault))
