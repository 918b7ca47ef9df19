"""The clock over one job: a child is trusted by the bytes it moves, not by being alive."""

import asyncio
import logging
from collections.abc import Callable

from ytdl import metrics, tracing
from ytdl.child.frames import Fault, Locked, Metadata, Progress, Stage
from ytdl.fetcher.outcome import Settings

logger = logging.getLogger(__name__)
START_SECONDS = 20.0
"""How long a job may take to its first word; its fork server is as good as dead when it does not come."""
SLOWEST_BYTES_PER_SECOND = 256
"""A transfer that is slower on the average of `stall_seconds` counts as stalled: a byte now and then is no movement."""

_TOO_LONG = Fault("deadline_exceeded", "The download took longer than this server allows.")
_STALLED = Fault("upstream_stalled", "The site stopped sending.")
_NOT_STARTED = Fault("child_crashed", "The download's process did not start.")
_NO_ANSWER = Fault("upstream_stalled", "The site took too long to describe the video.")


class Watch:
    """Says until when the next frame must come, and what it means when it does not."""

    def __init__(self, settings: Settings, now: Callable[[], float] | None = None) -> None:
        self._settings = settings
        self._now = now or asyncio.get_running_loop().time
        self._total_end = self._now() + settings.total_seconds
        self._stage: Stage = "extracting"
        self._entered_at = self._stage_began = self._moved_at = self._now()
        self._saw_at = self._stage_began
        self._told = tracing.Stages()
        self._told.enter("extracting")
        self._started = False
        self._bytes = 0
        self.fetched_bytes = 0
        """What the job said last that it has transferred."""

    def see(self, frame: Locked | Metadata | Progress) -> None:
        """Take note of a frame. A new stage and enough new bytes count as movement; anything else does not."""
        self._saw_at = self._now()
        self._started = True
        if not isinstance(frame, Progress):
            return
        self.fetched_bytes = frame.fetched_bytes
        if frame.stage != self._stage:
            self.leave()
            self._stage = frame.stage
            self._told.enter(frame.stage)
            self._entered_at = self._stage_began = self._moved_at = self._now()
        if self.fetched_bytes - self._bytes >= SLOWEST_BYTES_PER_SECOND * self._settings.stall_seconds:
            self._bytes = self.fetched_bytes
            self._moved_at = self._now()

    def leave(self) -> None:
        """The stage came to its end: its time is counted."""
        metrics.fetcher_stage_seconds.labels(self._stage).observe(self._now() - self._entered_at)

    def close(self) -> None:
        """Nothing more is to come, whether or not the stage came to its end."""
        self._told.end()

    def go_on(self) -> None:
        """The job was held up by the service itself, which is not held against it."""
        now = self._now()
        self._entered_at += now - self._saw_at
        self._total_end += now - self._saw_at
        self._stage_began += now - self._saw_at
        self._moved_at += now - self._saw_at

    def ask_again(self) -> None:
        """The site is asked once more, as somebody else, which may take as long as the first time."""
        self.go_on()
        self._stage_began = self._now()

    def expire(self, fault: Fault) -> Fault:
        """The deadline has passed: counted and logged here. The fault itself is passed on."""
        metrics.fetcher_deadlines.labels(self._stage).inc()
        silent = round(self._now() - self._saw_at, 3)
        logger.warning("job ended by its deadline", extra={"stage": self._stage, "silent_seconds": silent})
        return fault

    def next_deadline(self) -> tuple[float, Fault]:
        """Moment on the loop's clock, and the fault to report then."""
        s = self._settings
        if not self._started:
            stage = (self._stage_began + START_SECONDS, _NOT_STARTED)
        elif self._stage == "extracting":
            stage = (self._stage_began + s.extract_seconds, _NO_ANSWER)
        elif self._stage == "downloading":
            stage = (self._moved_at + s.stall_seconds, _STALLED)
        else:
            stage = (self._stage_began + s.process_seconds, _TOO_LONG)
        return min(stage, (self._total_end, _TOO_LONG), key=lambda pair: pair[0])
