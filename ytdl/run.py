"""One attempt in this process: what is known of it, and the one place where it can be stopped."""

import asyncio
from typing import Literal

import msgspec

from ytdl.attempts import Started
from ytdl.cookies import NOTHING, Loan
from ytdl.egress import Permit
from ytdl.fetcher import Metadata, Progress

Why = Literal["cancel", "lost", "drain"]


class Run:
    """One attempt in this process. `why` is set once, by the first who wants it stopped; `heard` is whether the site
    has told about the video. `loan` is what it may show the site as its user, until that has described the video."""

    def __init__(self, started: Started, permit: Permit) -> None:
        self.started = started
        self.permit = permit
        self.heard = False
        self.loan: Loan = NOTHING
        self.task: asyncio.Task[None] | None = None
        self.fetching = False
        self.admitted = False
        self.told = False
        self.why: Why | None = None
        self.video: Metadata | None = None
        self.latest: Progress | None = None
        self.reported: Progress | None = None
        self.recorded: Progress | None = None
        self._floor = started.percent

    def stop(self, why: Why) -> None:
        if self.why is None:
            self.why = why
            if self.fetching and self.task:
                self.task.cancel()

    def stop_again(self) -> None:
        """A cancellation can be swallowed by a wait that is just ending; only the fetch is ever cancelled, and it
        ends in order however often it is."""
        if self.why and self.fetching and self.task:
            self.task.cancel()

    def frame(self, frame: Metadata | Progress) -> None:
        """Keeps the newest of each kind; percent never falls, whatever an earlier attempt had reached."""
        if isinstance(frame, Metadata):
            self.video = frame
            self.heard = True
            return
        self._floor = max(self._floor, min(frame.percent, 99.9))
        self.latest = msgspec.structs.replace(frame, percent=self._floor)
