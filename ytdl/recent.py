"""What was read of downloads a moment ago, for those who ask again and again.

Believed for a second at most, and only while events of other processes arrive; an event about a download ends it at
once. So a reader sees its own changes always, and another process's as soon as they are told.
"""

import time
from typing import Generic, TypeVar
from uuid import UUID

from ytdl.events import Events

BELIEVED_SECONDS = 1.0
LIMIT = 4096
T = TypeVar("T")


class Recent(Generic[T]):
    def __init__(self, events: Events) -> None:
        self._events = events
        self._known: dict[UUID, tuple[float, T]] = {}
        self.changes = 0
        events.watch(self._forget)

    def find(self, id: UUID) -> T | None:
        read_at, value = self._known.get(id, (0.0, None))
        return value if self._events.live and time.monotonic() - read_at < BELIEVED_SECONDS else None

    def keep(self, id: UUID, value: T, changes: int) -> None:
        """`changes` is what that counter said before the reading: if it moved, the value may be old already."""
        if not self._events.live or changes != self.changes:
            return
        self._known.pop(id, None)
        if len(self._known) >= LIMIT:
            # The first is the one that was read longest ago.
            del self._known[next(iter(self._known))]
        self._known[id] = (time.monotonic(), value)

    def _forget(self, id: UUID) -> None:
        self.changes += 1
        self._known.pop(id, None)
