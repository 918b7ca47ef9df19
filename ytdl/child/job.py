"""One download from order to verified file, in a process of its own: straight-line wiring of the steps.

extract (once) -> refuse what cannot be had -> choose -> adopt partials -> transfer -> ffmpeg -> verify.
"""

import os
import re
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import DownloadError

from ytdl.child import confine, encode, verify
from ytdl.child.client import Client
from ytdl.child.errors import Refused, classify, last_known, phrase
from ytdl.child.formats import Choice, Stream, choose, smaller_side
from ytdl.child.frames import Fault, Frame, Metadata, Order, Setup, pack
from ytdl.child.guard import Guard
from ytdl.child.partials import Folder, name_of
from ytdl.child.progress import Meter, size_of
from ytdl.child.values import number, text, whole

MAX_FORWARDS = 3
POST_LIVE_WAIT_SECONDS = 1800.0
MAX_TITLE = 500

Info = dict[str, Any]


def perform(order: Order, setup: Setup, client: Client, frames: int) -> None:
    """Run the job and send its frames; the last one is Done or Fault, whatever happens."""

    def send(frame: Frame) -> None:
        data = pack(frame)
        while data:
            data = data[os.write(frames, data) :]

    guard: Guard | None = None
    meter = Meter(send)
    try:
        confine.limit(setup, order.job)
        folder = Folder(order.work_dir)  # before the rules, since folders above it may have to be made
        guard = Guard(setup, order)
        guard.install()
        _Job(order, setup, client, folder, meter, send).run()
    except BaseException as error:
        traceback.print_exc()
        fault = _explain(error, setup, client, guard)
        send(msgspec.structs.replace(fault, fetched_bytes=meter.fetched_bytes))


def _explain(error: BaseException, setup: Setup, client: Client, guard: Guard | None) -> Fault:
    if guard and guard.refused_address:
        return Fault("address_forbidden", "The site pointed to an address that this server may not reach.")
    if confine.is_out_of_memory(setup):
        return classify(MemoryError(), client.notes.warnings)
    return classify(error, client.notes.warnings)


class _Job:
    def __init__(
        self, order: Order, setup: Setup, client: Client, folder: Folder, meter: Meter, send: Callable[[Frame], None]
    ) -> None:
        self._order = order
        self._setup = setup
        self._client = client
        self._send = send
        self._meter = meter
        self._folder = folder
        os.chdir(self._folder.path)
        client.on_progress = self._meter.on_hook
        client.use_cookies(setup.cookies_file)

    def run(self) -> None:
        self._meter.begin("extracting")
        info = self._extract()
        choice = self._choose(info)
        self._meter.plan(choice.streams, info.get("duration"))
        self._send(describe(info, choice, self._meter.total_bytes))
        resumed = [self._folder.adopt(self._order.earlier_dirs, info["id"], stream) for stream in choice.streams]
        self._meter.begin("downloading")
        kept = sum([self._transfer(info, stream, n, resumed[n]) for n, stream in enumerate(choice.streams)])
        self._meter.begin("processing")
        tags = self._order.embed_metadata
        product = encode.make(choice, self._folder, self._setup, info, tags, self._meter.processed)
        self._meter.begin("verifying")
        facts = self._measure(product, choice, info)
        fetched = self._meter.fetched_bytes
        self._send(verify.describe(product, choice, facts, verify.seal(product), fetched, kept))

    def _extract(self) -> Info:
        url, key = self._order.url, None
        for _ in range(MAX_FORWARDS):
            info = self._client.extract_info(url, download=False, ie_key=key, process=False)
            if not info:
                raise Refused("extractor_broken", "The site gave no answer.")
            if info.get("_type") not in ("url", "url_transparent"):
                break
            url, key = info["url"], info.get("ie_key")
        if info.get("_type", "video") != "video":
            raise Refused("unsupported_url", "The address is of a list, not of one video.")
        self._refuse_unreleased(info)
        processed: Info = self._client.process_ie_result(info, download=False)
        processed["duration"] = number(processed.get("duration")) or None
        self._refuse_without_streams(processed)
        return processed

    def _refuse_unreleased(self, info: Info) -> None:
        status = info.get("live_status") or ("is_live" if info.get("is_live") else None)
        if status == "is_live":
            raise Refused("live_now", "This is a live broadcast that has not ended.")
        if status == "is_upcoming":
            release = number(info.get("release_timestamp"))
            wait = max(release - time.time(), 60.0) if release else None
            raise Refused("not_yet_available", "The video has not been released yet.", wait)
        if status == "post_live":
            raise Refused("not_yet_available", "The broadcast has just ended.", POST_LIVE_WAIT_SECONDS)

    def _refuse_without_streams(self, info: Info) -> None:
        """The site's reason came as a warning, since that way the release time can be read as well."""
        if info.get("formats") or info.get("url"):
            return
        if info.get("_has_drm"):
            raise Refused("drm_protected", "The video is protected by DRM.")
        code, text = last_known(self._client.notes.warnings)
        code = code or "extractor_broken"
        raise Refused(code, phrase(code, text), self._client.asked_to_wait)

    def _choose(self, info: Info) -> Choice:
        streams = info.get("formats") or [info]
        quality, wanted = self._order.quality, self._order.format
        choice = choose(streams, quality, wanted, can_process=bool(self._setup.ffmpeg))
        if choice is None and not self._setup.ffmpeg and choose(streams, quality, wanted):
            raise Refused("ffmpeg_missing", "ffmpeg is needed to make this format.")
        if choice is None:
            raise Refused("format_unavailable", f"The video is not offered as {wanted} in {quality}.")
        if sum(size_of(stream) or 0 for stream in choice.streams) > self._setup.max_file_bytes:
            raise Refused("file_too_large", "The video is larger than this server allows.")
        return choice

    def _transfer(self, info: Info, stream: Stream, index: int, resumed: int) -> int:
        """Fetch one stream; how many of the bytes that were here already stayed."""
        name = name_of(stream)
        self._meter.fetch(index, resumed)
        headers = dict(stream.get("http_headers") or {})
        if resumed and (etag := self._folder.etag_of(name)):
            headers["If-Range"] = etag
        self._client.on_etag = partial(self._folder.keep_etag, name)
        success, _ = self._download(name, {**info, **stream, "http_headers": headers})
        self._client.on_etag = None
        size = self._folder.size(name)
        if not success or not (self._folder.path / name).is_file():
            code, _ = last_known(self._client.notes.warnings)
            raise Refused(code or "upstream_error", "The transfer did not complete.")
        if (expected := whole(stream.get("filesize"))) and size != expected:
            self._folder.forget()
            raise Refused("upstream_truncated", f"{size} of {expected} bytes came.")
        return resumed if self._meter.lowest[index] > resumed else 0

    def _download(self, name: str, stream: Stream) -> tuple[bool, bool]:
        try:
            answer: tuple[bool, bool] = self._client.dl(name, stream)
            return answer
        except (HTTPError, DownloadError) as error:
            if re.search(r"HTTP Error (404|410)", str(error)):
                # The video is there; only this address of its file has lapsed.
                raise Refused("upstream_forbidden", "The address of the file is no longer valid.") from error
            raise

    def _measure(self, product: Any, choice: Choice, info: Info) -> dict[str, Any]:
        try:
            return verify.measure(product, choice, info.get("duration"))
        except Refused:
            self._folder.forget()
            raise


def describe(info: Info, choice: Choice, total_bytes: int | None) -> Metadata:
    """The first frame with content. What the extractor says is made to fit: an odd field is left out."""
    picture = next((s for s in choice.streams if smaller_side(s) and not choice.audio_only), {})
    return Metadata(
        video_id=text(str(info["id"])) or "",
        extractor=text(info.get("extractor")) or "",
        title=(text(info.get("title")) or text(str(info["id"])) or "")[:MAX_TITLE],
        uploader=text(info.get("uploader")) or text(info.get("channel")),
        duration_seconds=number(info.get("duration")),
        thumbnail_url=text(info.get("thumbnail")),
        width=whole(picture.get("width")),
        height=whole(picture.get("height")),
        total_bytes=total_bytes,
    )
