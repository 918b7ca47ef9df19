"""Points that addresses gather for what came from them, shared by all processes and drained by time.

`Scores(kv, limit)` holds them in Redis, a key an address that goes when nothing is left. While Redis is away each
process keeps its own, of a bounded number of addresses; then somebody who spreads over several processes may go as far
in each of them. Points cost no more than this when they are lost.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ytdl import metrics
from ytdl.kv import KV, Down

# In this time points up to the limit drain to nothing.
DRAIN_SECONDS = 600.0
# What is kept of a digest; who finds two that begin alike gains an offence that is not counted.
EVIDENCE_BYTES = 12
# So long the same evidence counts once.
AGAIN_SECONDS = 600
# More than so many times the limit says nothing more.
MOST = 2
# Addresses that a process remembers by itself.
REMEMBERED = 10_000


@dataclass(frozen=True)
class Gain:
    """What is added: `points` in all, for an offence that came so many times. What has `evidence` is added only where
    no process has added the same to this network within `AGAIN_SECONDS`."""

    network: str
    points: int
    offence: str
    times: int = 1
    evidence: bytes = b""


@dataclass
class _Held:
    points: float = 0.0
    at: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


class Scores:
    def __init__(self, kv: KV, limit: int) -> None:
        self.limit = limit
        self._kv = kv
        self._drain = max(1, limit) / DRAIN_SECONDS
        self._own: OrderedDict[str, _Held] = OrderedDict()

    async def add(self, gains: Sequence[Gain]) -> dict[str, dict[str, int]]:
        """Those who have reached the limit, with how often each offence came."""
        try:
            over = await self._add_shared(gains)
        except Down:
            metrics.blocks_scored.labels("process").inc(len(gains))
            return self._add_own(gains)
        metrics.blocks_scored.labels("shared").inc(len(gains))
        return over

    async def _add_shared(self, gains: Sequence[Gain]) -> dict[str, dict[str, int]]:
        keys = [self._key(gain.network) for gain in gains]
        args: list[object] = [self._drain, MOST * self.limit, self.limit, AGAIN_SECONDS]
        for gain in gains:
            args += [gain.points, gain.offence, gain.times, gain.evidence[:EVIDENCE_BYTES].hex()]
        answers = await self._kv.script("score", keys, args)
        over = {}
        for gain, (_, *parts) in zip(gains, answers, strict=True):
            if parts:
                counted = zip(parts[::2], parts[1::2], strict=True)
                over[gain.network] = {n.removeprefix("of:"): int(v) for n, v in counted if n.startswith("of:")}
        return over

    def _add_own(self, gains: Sequence[Gain]) -> dict[str, dict[str, int]]:
        now, over = time.monotonic(), {}
        for gain in gains:
            held = self._own.pop(gain.network, None) or _Held(at=now)
            left = held.points - (now - held.at) * self._drain
            if left <= 0:
                left, held.counts = 0, {}
            held.points, held.at = min(MOST * self.limit, left + gain.points), now
            held.counts[gain.offence] = held.counts.get(gain.offence, 0) + gain.times
            self._own[gain.network] = held
            if held.points >= self.limit:
                over[gain.network] = dict(held.counts)
        while len(self._own) > REMEMBERED:
            self._own.popitem(last=False)
        return over

    async def forget(self, network: str) -> None:
        """From nothing again. Without Redis, which will have forgotten much by itself, only here."""
        self.forget_here(network)
        try:
            await self._kv.call("forget_score", self._kv.client.delete(self._key(network)))
        except Down:
            return

    def forget_here(self, network: str) -> None:
        self._own.pop(network, None)

    def _key(self, network: str) -> str:
        return self._kv.key("score", network)
