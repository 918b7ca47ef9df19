"""One rising figure for a whole job: bytes over all streams, then post-processing, then verification.

Frames go out at most four a second, and only when something moved: a child that hangs cannot look alive.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ytdl.child.formats import Stream
from ytdl.child.frames import Progress, Stage
from ytdl.child.values import number, whole

INTERVAL_SECONDS = 0.25
SPEED_WINDOW_SECONDS = 3.0
TRANSFER_ENDS = 92.0
PROCESSING_ENDS = 98.0
VERIFYING = 99.0
DEFAULT_WEIGHT = 1_000_000.0


class Meter:
    """Turns yt-dlp's hook calls and ffmpeg's reports into frames; `percent` never falls."""

    def __init__(self, send: Callable[[Progress], None]) -> None:
        self._send = send
        self._stage: Stage = "extracting"
        self._percent = 0.0
        self._sent_at = 0.0
        self._last: tuple[Any, ...] = ()
        self._weights: list[float] = []
        self._sizes: list[int | None] = []
        self._guesses: list[int] = []
        self._bytes: list[int] = []
        self.fetched_bytes = 0
        """Transferred by this attempt over all streams, what had to come twice included."""
        self.current = 0
        self._moments: deque[tuple[float, int]] = deque()

    def begin(self, stage: Stage) -> None:
        """Enter a stage; said at once, whatever the throttle."""
        self._stage = stage
        if stage == "verifying":
            self._percent = max(self._percent, VERIFYING)
        self._emit(force=True)

    def plan(self, streams: list[Stream], duration: float | None) -> None:
        """The streams that will be fetched, in order; weights come from sizes, else from bit rates."""
        self._sizes = [size_of(stream) for stream in streams]
        self._guesses = [int((number(stream.get("tbr")) or 0.0) * 125 * (duration or 0)) for stream in streams]
        self._weights = [
            float(size or guess or DEFAULT_WEIGHT) for size, guess in zip(self._sizes, self._guesses, strict=True)
        ]
        self._bytes = [0] * len(streams)

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all streams together, when each is known."""
        known = [size for size in self._sizes if size]
        return sum(known) if known and len(known) == len(self._sizes) else None

    @property
    def expected_bytes(self) -> int | None:
        """The same, with bit rates for unknown sizes."""
        known = [size or guess for size, guess in zip(self._sizes, self._guesses, strict=True)]
        return sum(known) if known and all(known) else None

    def fetch(self, index: int, resumed: int) -> None:
        """Stream `index` begins, with `resumed` bytes of it already here."""
        self.current = index
        self._bytes[index] = resumed
        self._moments.clear()
        self._emit()

    def on_hook(self, status: dict[str, Any]) -> None:
        """yt-dlp's progress hook, for the stream that `fetch` named."""
        index = self.current
        total = status.get("total_bytes") or status.get("total_bytes_estimate")
        if total and not self._sizes[index]:
            self._weights[index] = max(float(total), 1.0)
        done = status.get("downloaded_bytes") or (status.get("total_bytes") if status["status"] == "finished" else 0)
        self._count(index, int(done or self._bytes[index]), in_pieces="fragment_index" in status)
        if status["status"] == "finished":
            self._weights[index] = float(max(self._bytes[index], 1))
        self._emit()

    def moved(self, done: int, *, final: bool = False) -> None:
        """`done` bytes of the stream that `fetch` named are here; `final` when that is all of it."""
        index = self.current
        self._count(index, done, in_pieces=False)
        if final:
            self._weights[index] = float(max(done, 1))
        self._emit()

    def fetched_again(self, count: int) -> None:
        """Bytes that came although they are here already, to be compared with them."""
        self.fetched_bytes += count

    def _count(self, index: int, done: int, in_pieces: bool) -> None:
        """A stream that falls back began anew from nothing; one in pieces has only given up its latest piece."""
        before, self._bytes[index] = self._bytes[index], done
        if done >= before:
            self.fetched_bytes += done - before
        elif not in_pieces:
            self.fetched_bytes += done

    def processed(self, fraction: float) -> None:
        """How much of the post-processing is done, 0..1."""
        reached = TRANSFER_ENDS + (PROCESSING_ENDS - TRANSFER_ENDS) * min(max(fraction, 0.0), 1.0)
        self._percent = max(self._percent, reached)
        self._emit()

    def _emit(self, force: bool = False) -> None:
        now = time.monotonic()
        done = sum(self._bytes)
        self._percent = max(self._percent, self._transferred())
        state = (self._stage, round(self._percent, 2), done)
        if not force and (now - self._sent_at < INTERVAL_SECONDS or state == self._last):
            return
        self._sent_at, self._last = now, state
        speed = self._speed(now, done) if self._stage == "downloading" else None
        total = self.total_bytes
        eta = (total - done) / speed if speed and total and total >= done else None
        self._send(Progress(self._stage, round(self._percent, 2), done, total, speed, eta, self.fetched_bytes))

    def _transferred(self) -> float:
        if not self._weights or self._stage == "extracting":
            return 0.0
        pairs = zip(self._bytes, self._weights, strict=True)
        return TRANSFER_ENDS * sum(min(done, weight) for done, weight in pairs) / sum(self._weights)

    def _speed(self, now: float, done: int) -> float | None:
        self._moments.append((now, done))
        while len(self._moments) > 2 and now - self._moments[0][0] > SPEED_WINDOW_SECONDS:
            self._moments.popleft()
        since, before = self._moments[0]
        return round((done - before) / (now - since), 1) if now > since and done >= before else None


def size_of(stream: Stream) -> int | None:
    """Exact size of a stream, else the site's estimate."""
    return whole(stream.get("filesize")) or whole(stream.get("filesize_approx")) or None
