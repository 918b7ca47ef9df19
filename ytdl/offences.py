"""What addresses are blocked for: offences are noted, added up in the background, and lead to a block.

`Offences.note(address, offence, evidence)` only counts, in a table that cannot grow; twenty times a second what has
gathered is added to the shared scores in a few calls, whatever the number of requests. A credential that was refused
counts once for an address within ten minutes, however often it comes. Whose address it is, and what is an offence, is
said where requests are answered.
"""

import asyncio
import contextlib
import logging
import time
from typing import Literal

from ytdl import errors, loops, metrics
from ytdl.blocklist import network_of
from ytdl.blocks import Blocks
from ytdl.scores import AGAIN_SECONDS, Gain, Scores

log = logging.getLogger("ytdl.offences")

# A probe is a request for what does not exist; a scan is one for what only somebody looking for holes asks for.
Sort = errors.Offence | Literal["scan"]
POINTS: dict[Sort, int] = {"login": 4, "reuse": 20, "forgery": 5, "limit": 1, "probe": 2, "scan": 25}
BATCH_SECONDS = 0.05
BATCH = 200
# Addresses whose offences may wait to be added up.
WAITING = 4096
# Refused credentials that a process remembers; those that it forgot Redis still knows.
REMEMBERED = 4096
# Networks that are to be blocked once PostgreSQL is back.
DUE = 1000
QUIET_SECONDS = 5.0
STOP_SECONDS = 3.0

for _sort in POINTS:
    metrics.blocks_created.labels("automatic", _sort)
metrics.blocks_created.labels("manual", "manual")
_counted = {sort: metrics.blocks_offences.labels(sort) for sort in POINTS}


class Offences:
    """With a limit of 0 offences are counted and nobody is blocked."""

    def __init__(self, blocks: Blocks, scores: Scores) -> None:
        self._blocks = blocks
        self._scores = scores
        self._waiting: dict[tuple[str, Sort, bytes], int] = {}
        # When an address last brought a credential that was refused, oldest first.
        self._seen: dict[tuple[str, bytes], float] = {}
        self._due: dict[str, tuple[str, dict[str, int]]] = {}
        self._woken = asyncio.Event()
        self._busy = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks.append(asyncio.create_task(loops.repeat("offences", 0.0, self._round), name="offences"))

    async def stop(self) -> None:
        """Lets a round come to its end: a call to Redis that is cut off may leave its connection open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._busy.acquire()
        await loops.stop(self._tasks)

    def note(self, address: str, sort: Sort, evidence: bytes = b"") -> None:
        """Waits for nothing. An empty address, of a socket without any, is counted only; so is a credential, of which
        `evidence` is a digest, that this address brought a while ago."""
        _counted[sort].inc()
        if not address or not self._scores.limit or (evidence and self._known(address, evidence)):
            return
        key = (address, sort, evidence)
        times = self._waiting.get(key, 0)
        if not times and len(self._waiting) >= WAITING:
            metrics.blocks_scored.labels("dropped").inc()
            return
        self._waiting[key] = times + 1
        self._woken.set()

    def _known(self, address: str, evidence: bytes) -> bool:
        key, now = (address, evidence), time.monotonic()
        at = self._seen.get(key)
        if at is not None and now - at < AGAIN_SECONDS:
            return True
        self._seen.pop(key, None)
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = now
        return False

    async def _round(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS):
                await self._woken.wait()
            await asyncio.sleep(BATCH_SECONDS)
        self._woken.clear()
        async with self._busy:
            waiting, self._waiting = list(self._waiting.items()), {}
            for first in range(0, len(waiting), BATCH):
                await self._add_up(waiting[first : first + BATCH])
            await self._block()

    async def _add_up(self, batch: list[tuple[tuple[str, Sort, bytes], int]]) -> None:
        """Those who are refused already gain nothing by what they sent before."""
        gains, last = [], {}
        for (address, sort, evidence), times in batch:
            network = network_of(address)
            if network is None or self._blocks.list.protects(network) or self._blocks.list.seconds_left(address):
                continue
            gains.append(Gain(str(network), POINTS[sort] * times, sort, times, evidence))
            last[str(network)] = address
        if not gains:
            return
        for name, counts in (await self._scores.add(gains)).items():
            if name in self._due or len(self._due) < DUE:
                self._due[name] = (last[name], counts)

    async def _block(self) -> None:
        """Whoever is due; with PostgreSQL away they stay so, and it is tried again a second later."""
        for name, (address, counts) in list(self._due.items()):
            try:
                await self._blocks.add_automatic(name, _worst(counts), counts, address=address)
            except errors.Unavailable:
                self._woken.set()
                raise
            except Exception:
                # Whoever comes after it is to be blocked all the same.
                log.exception("offences.not_blocked", extra={"network": name})
            del self._due[name]


def _worst(counts: dict[str, int]) -> Sort:
    """The offence that most of the points are for."""
    return max(POINTS, key=lambda sort: POINTS[sort] * counts.get(sort, 0))
