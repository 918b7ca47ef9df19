"""One download from order to verified file, in a process of its own: straight-line wiring of the steps.

extract and choose (in a fork) -> adopt partials -> wait for room -> transfer -> make the file -> verify.
"""

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import DownloadError

from ytdl.child import account, confine, encode, extract, slots, verify
from ytdl.child.client import Client
from ytdl.child.errors import Refused, last_known
from ytdl.child.formats import Choice, Stream, smaller_side
from ytdl.child.frames import Frame, Metadata, Order, Setup, pack
from ytdl.child.guard import Guard
from ytdl.child.origin import Origin, can_fetch
from ytdl.child.partials import Folder, is_one_file, name_of
from ytdl.child.progress import Meter
from ytdl.child.transfer import Transfer
from ytdl.child.values import number, text, whole

MAX_TITLE = 500

Info = dict[str, Any]


def perform(order: Order, setup: Setup, client: Client, frames: int, go: int) -> None:
    """Run the job and send its frames; the last one is Done or Fault, whatever happens.

    After Metadata it waits for a byte from `go` before it asks for the first byte of media. An account that it asks for
    comes from there too.
    """

    def send(frame: Frame) -> None:
        data = pack(frame)
        while data:
            data = data[os.write(frames, data) :]

    guard: Guard | None = None
    meter = Meter(send)
    try:
        if order.proxy and order.proxy != setup.proxy:
            setup = msgspec.structs.replace(setup, proxy=order.proxy)
            client.use_proxy(order.proxy)
        if order.max_file_bytes:
            setup = msgspec.structs.replace(setup, max_file_bytes=order.max_file_bytes)
        confine.limit(setup, order.job)
        folder = Folder(order.work_dir)  # before the rules, since folders above it may have to be made
        os.chdir(folder.path)
        guard = Guard(setup, order)
        client.on_progress = meter.on_hook
        client.judge_proxied(guard.check_host)
        meter.begin("extracting")
        plan = account.plan(order, setup, client, guard, account.asking(send, go))
        # From here on nothing is forked.
        guard.install()
        origin = Origin(client.tls, setup.proxy, setup.socket_timeout_seconds)
        _Job(order, setup, client, folder, meter, origin, send).run(plan, go)
    except BaseException as error:
        traceback.print_exc()
        fault = extract.explain(error, setup, client, guard)
        send(msgspec.structs.replace(fault, fetched_bytes=meter.fetched_bytes))


class _Job:
    def __init__(
        self,
        order: Order,
        setup: Setup,
        client: Client,
        folder: Folder,
        meter: Meter,
        origin: Origin,
        send: Callable[[Frame], None],
    ) -> None:
        self._order = order
        self._setup = setup
        self._client = client
        self._send = send
        self._meter = meter
        self._folder = folder
        self._origin = origin

    def run(self, plan: extract.Plan, go: int) -> None:
        info, choice = plan.info, plan.choice
        self._meter.plan(choice.streams, info.get("duration"))
        resumed = [self._folder.adopt(self._order.earlier_dirs, info["id"], stream) for stream in choice.streams]
        needed = self._needed(choice, sum(resumed), info.get("duration"))
        said = describe(info, choice, self._meter.total_bytes, needed)
        self._send(msgspec.structs.replace(said, signed_in=plan.signed_in))
        _wait(go)
        self._meter.begin("downloading")
        kept = sum([self._transfer(info, stream, n, resumed[n]) for n, stream in enumerate(choice.streams)])
        self._meter.begin("processing")
        with slots.hold(self._setup.slots):
            tags = self._order.embed_metadata
            product = self._make(choice, info, tags)
            self._meter.begin("verifying")
            facts = self._measure(product, choice, info)
            sha256 = verify.seal(product)
        self._send(verify.describe(product, choice, facts, sha256, self._meter.fetched_bytes, kept))

    def _needed(self, choice: Choice, resumed: int, duration: float | None) -> int | None:
        """What the folder may yet grow by: what is to be fetched, and the file that is made of it."""
        expected = self._meter.expected_bytes
        if expected is None:
            return None
        made = encode.estimate(choice, self._order.embed_metadata, expected, duration)
        return max(expected - resumed, 0) + made

    def _transfer(self, info: Info, stream: Stream, index: int, resumed: int) -> int:
        """Fetch one stream; how many of the bytes that were here already stayed."""
        self._meter.fetch(index, resumed)
        if not is_one_file(stream) or not can_fetch(stream["url"], self._setup.proxy) or stream.get("cookies"):
            self._transfer_by_yt_dlp(info, stream)
            return 0
        transfer = Transfer(stream, self._origin, self._folder, self._meter)
        transfer.run()
        return transfer.kept

    def _transfer_by_yt_dlp(self, info: Info, stream: Stream) -> None:
        """What comes in pieces, for cookies, or over a way that only yt-dlp knows; always from the start."""
        name = name_of(stream)
        self._folder.drop(name)
        self._meter.fetch(self._meter.current, 0)
        if cookies := stream.get("cookies"):
            self._client.load_cookies(cookies)
        self._client.reads_pages = False
        success, _ = self._download(name, {**info, **stream})
        if not success or not (self._folder.path / name).is_file():
            code, _ = last_known(self._client.notes.warnings)
            raise Refused(code or "upstream_error", "The transfer did not complete.")
        size = self._folder.size(name)
        if (expected := whole(stream.get("filesize"))) and size != expected:
            raise Refused("upstream_truncated", f"{size} of {expected} bytes came.")

    def _download(self, name: str, stream: Stream) -> tuple[bool, bool]:
        try:
            answer: tuple[bool, bool] = self._client.dl(name, stream)
            return answer
        except (HTTPError, DownloadError) as error:
            if re.search(r"HTTP Error (404|410)", str(error)):
                # The video is there; only this address of its file has lapsed.
                raise Refused("upstream_forbidden", "The address of the file is no longer valid.") from error
            raise

    def _make(self, choice: Choice, info: Info, tags: bool) -> Path:
        try:
            return encode.make(choice, self._folder, self._setup, info, tags, self._meter.processed)
        except Refused as refused:
            if refused.code == "processing_failed":
                # What was fetched may be what is wrong with it.
                self._folder.forget()
            raise

    def _measure(self, product: Any, choice: Choice, info: Info) -> dict[str, Any]:
        try:
            return verify.measure(product, choice, info.get("duration"))
        except Refused:
            self._folder.forget()
            raise


def _wait(go: int) -> None:
    """Until the service has found room for what comes; when it is gone instead, so is this process."""
    if not os.read(go, 1):
        raise Refused("child_killed", "The download's process was stopped.")
    os.close(go)


def describe(info: Info, choice: Choice, total_bytes: int | None = None, needed_bytes: int | None = None) -> Metadata:
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
        needed_bytes=needed_bytes,
    )
