"""Refusals on record: of each one event in a minute, and of so many in a minute only.

Whoever asks again and again for what is refused would else fill the audit trail, which keeps its events for good. Who
is refused, why, and how all of it is counted is the business of whoever refuses.
"""

import asyncio
import logging
import time
from collections.abc import Hashable
from typing import Any

from ytdl import audit, errors
from ytdl.db import Statements

log = logging.getLogger("ytdl.audit")

ONCE_SECONDS = 60.0
AT_MOST = 200


class Denials:
    """Of one type of `audit.TYPES`; without `db` nothing is recorded. Close it after use."""

    def __init__(self, db: Statements | None, type: str) -> None:
        self._db = db
        self._type = type
        # In the order of time, so the first is the oldest.
        self._told: dict[Hashable, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Waits for what is being written."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tell(self, which: Hashable, *, object: tuple[str, object] | None = None, **detail: Any) -> None:
        """Waits for nothing. `which` says what is the same refusal, come again."""
        now = time.monotonic()
        while self._told and now - self._told[first := next(iter(self._told))] >= ONCE_SECONDS:
            del self._told[first]
        if self._db is None or which in self._told or len(self._told) >= AT_MOST:
            return
        self._told[which] = now
        # The task keeps who asks and from where.
        task = asyncio.create_task(self._record(self._db, object, detail))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(self, db: Statements, object: tuple[str, object] | None, detail: dict[str, Any]) -> None:
        try:
            await audit.record(db, self._type, result="denied", object=object, **detail)
        except errors.Unavailable:
            log.warning("audit.not_recorded", extra={"type": self._type})
