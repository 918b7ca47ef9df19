"""What was read from the database a moment ago, for those who ask again and again.

It is believed for a short while only, and only while words of other processes arrive; whoever changes it says so and
ends it at once. So a reader sees its own changes always, and another process's as soon as they are told.
"""

import time
from typing import Generic, TypeVar

from ytdl.events import Events

LIMIT = 4096
K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """`seconds` bounds how long a value is believed when the word of its change was lost."""

    def __init__(self, events: Events, *, seconds: float) -> None:
        self._events = events
        self._seconds = seconds
        self._known: dict[K, tuple[float, V]] = {}
        self.changes = 0

    def find(self, key: K) -> V | None:
        read_at, value = self._known.get(key, (0.0, None))
        return value if self._events.live and time.monotonic() - read_at < self._seconds else None

    def keep(self, key: K, value: V, changes: int) -> None:
        """`changes` is what that counter said before the reading: if it moved, the value may be old already."""
        if not self._events.live or changes != self.changes:
            return
        self._known.pop(key, None)
        if len(self._known) >= LIMIT:
            # The first is the one that was read longest ago.
            del self._known[next(iter(self._known))]
        self._known[key] = (time.monotonic(), value)

    def forget(self, key: K) -> None:
        self.changes += 1
        self._known.pop(key, None)
