"""What was done to the services, and what of theirs it explains: an end, words in a log, the code of a failure.

A fault explains something while it lasts and for some seconds after it, for a servant that was cut off says so only
when its patience is over.
"""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field

SEVERING = frozenset({
    "FLUSHALL", "kill -9 Redis", "kill -9 Redis, back empty", "stall Redis", "roll Redis back", "crash Postgres",
    "end all backends", "delay a link", "slice a link", "black hole", "partition from Postgres", "reset connections",
    "stop a service past its lease",
})  # fmt: skip
"""After these a service may find PostgreSQL or Redis away, or not find them at all when it starts."""
FILLING = frozenset({"fill disk"})
AFTER_SECONDS = 20.0
# What the stand-in says of its videos that cannot be had.
REFUSED = {
    "private_001": "video_private", "removed_001": "video_unavailable", "members_001": "members_only",
    "geoblock_01": "geo_blocked", "drmmovie_01": "drm_protected",
}  # fmt: skip
# What the nemesis can do to each of a download's attempts. A full disk and a site that asks for patience put it off.
SUFFERED = frozenset({
    "child_killed", "child_crashed", "network_error", "proxy_error", "upstream_error", "upstream_stalled",
    "upstream_truncated",
})  # fmt: skip
# What puts a job off; a refusal by the site does so until there have been too many.
PUT_OFF = frozenset({"disk_full", "bot_check", "rate_limited"})
BUGS = frozenset({"internal"})
# What a log may say, and the faults that it must follow.
WORDS = (
    (re.compile(r"No space left on device"), FILLING),
    (re.compile(r"cannot be reached just now|does not answer"), SEVERING),
)


@dataclass
class Fault:
    """`began` and `ended` are on the wall clock, to be compared with PostgreSQL's and with the logs'."""

    kind: str
    began: float
    ended: float = float("inf")


@dataclass
class Life:
    """One life of a service. `signals` are those that could end it and were sent; `ended` and `code` are of its end,
    `late` one that was not ready in time."""

    by: str
    began: float
    ready: bool = False
    late: bool = False
    signals: list[signal.Signals] = field(default_factory=list)
    ended: float | None = None
    code: int | None = None

    def cause(self, faults: Iterable[Fault]) -> str | None:
        """Why it ended, in a word; none where nothing that was done to it explains this end."""
        terms = self.signals.count(signal.SIGTERM)
        if self.code == -signal.SIGKILL and signal.SIGKILL in self.signals:
            return "kill -9"
        # A second one ends it on the spot; before it listens for signals it cannot end in order.
        if terms and (self.code == 0 or (self.code == 130 and terms > 1) or (self.code == -15 and not self.ready)):
            return "SIGTERM"
        if self.code == 1 and not self.ready and explained(faults, SEVERING | FILLING, self.began, self.ended):
            return "failed start"
        return None


def explained(faults: Iterable[Fault], kinds: frozenset[str], since: float, until: float | None) -> bool:
    """Whether such a fault was on, or just over, at some time between the two."""
    last = float("inf") if until is None else until
    return any(f.kind in kinds and f.began <= last and since <= f.ended + AFTER_SECONDS for f in faults)


def words_explained(faults: Iterable[Fault], text: str, since: float, until: float) -> bool:
    """Whether the text says of a fault what it may, at a time at which it may."""
    return any(words.search(text) and explained(faults, kinds, since, until) for words, kinds in WORDS)
