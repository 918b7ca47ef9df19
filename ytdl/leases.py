"""Blocks of requests: what a caller has leased, and the one who leases, from Redis or from this process's own tally.

A caller who asks often is given as many units as it used in the last half second; what is not used within the next is
forgotten. Nothing of it is given back, so nothing that Redis counted passes twice. Who is counted by which policy, and
what a refusal says, is `ratelimit`'s.
"""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from ytdl import gcra, metrics
from ytdl.gcra import MICROSECONDS, Policy, Tally
from ytdl.kv import KV, Down

log = logging.getLogger("ytdl.ratelimit")

# How long a leased block may be used, and a refusal be repeated without asking again.
LIFE_SECONDS = 0.5
# Whoever asks less often than this within `LIFE_SECONDS` leases one by one, and so is charged for nothing unused.
OFTEN = 8
# A Redis that takes longer for a lease counts as away, and is tried again after the second time.
PATIENCE_SECONDS = 0.5
AGAIN_SECONDS = 1.0
TELL_SECONDS = 60.0
# Debts that the process remembers; those that changed longest ago are forgotten.
REMEMBERED = 10_000
# Callers in one call, so that none keeps Redis from others for long.
BATCH = 256


class Caller:
    """Somebody asking for one kind of thing from one address: the policies that count it, and what it has leased."""

    __slots__ = (
        "_form", "_pace", "_remaining", "_since", "_until", "_used", "advertised", "closed_until", "debts", "keys",
        "left", "policies", "waiting",
    )  # fmt: skip

    def __init__(self, counted: Sequence[tuple[Policy, str]]) -> None:
        self.policies = [policy for policy, _ in counted]
        self.keys = [key for _, key in counted]
        self.advertised = ", ".join(f'"{p.name}";q={p.limit};w={gcra.WINDOW_SECONDS}' for p in self.policies)
        self.closed_until = self._until = self._since = 0.0
        self.left = self._used = self._pace = 0
        self.waiting: list[asyncio.Future[bool]] = []
        self._note(0, [0] * len(self.keys))

    def spend(self, now: float) -> bool:
        """Takes one of what is leased; False where there is none."""
        if not self.left or now >= self._until:
            return False
        self.left -= 1
        self._used += 1
        return True

    def wish(self, need: int, now: float) -> int:
        """How many to lease. What is left of an old block is forgotten."""
        if self.left:
            metrics.ratelimit_forgotten.inc(self.left)
            self.left = 0
        gone = now - self._since
        if gone >= LIFE_SECONDS:
            self._pace = int(self._used * LIFE_SECONDS / gone)
            self._used, self._since = 0, now
        lately = max(self._used, self._pace)
        return max(need, lately) if lately >= OFTEN else need

    def lease(self, given: int, debts: list[int], asked_at: float, *, short: bool) -> None:
        """Takes what was given for a call made at `asked_at`; `short` when it was less than needed."""
        self._note(given, debts)
        self._until = asked_at + LIFE_SECONDS
        if short:
            self.closed_until = asked_at + min(LIFE_SECONDS, self.wait_seconds())

    def _note(self, given: int, debts: list[int]) -> None:
        self.left, self.debts = given, debts
        owed = list(zip(self.policies, debts, strict=True))
        self._remaining = [policy.units(debt) for policy, debt in owed]
        self._form = ", ".join(f'"{p.name}";r=%d;t={math.ceil(p.wait(debt) / MICROSECONDS)}' for p, debt in owed)

    def remaining(self) -> str:
        """Of each policy the units left, those of the own block among them, and the seconds until there is one more."""
        return self._form % tuple(map(self.left.__add__, self._remaining))

    def violated(self) -> list[tuple[Policy, str]]:
        """The policies that have nothing left, with this caller's keys."""
        every = zip(self.policies, self.keys, self._remaining, strict=True)
        return [(policy, key) for policy, key, units in every if units == 0]

    def wait_seconds(self) -> float:
        """Until all policies have something left, as of the last lease."""
        owed = zip(self.policies, self.debts, strict=True)
        return max((p.wait(debt) for p, debt in owed if p.units(debt) == 0), default=0) / MICROSECONDS


class Lender:
    """Lends from Redis while it answers, else from the process's tally, which begins with what Redis said last.

    Without `kv` it is the tally alone. Close it after use.
    """

    def __init__(self, kv: KV | None) -> None:
        self._kv = kv
        self._tally = Tally(REMEMBERED)
        self._asking: list[Caller] = []
        self._serving: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._told_at = -math.inf

    async def close(self) -> None:
        tasks = [task for task in (self._serving, self._recovery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def where(self) -> str:
        return "process" if self._kv is None or self._recovery is not None else "redis"

    async def take(self, caller: Caller) -> bool:
        """One unit for a caller who has none leased; False where a policy has none."""
        now = time.monotonic()
        if now < caller.closed_until:
            return False
        if self.where == "process":
            self._settle(caller, 1, self._count(caller, 1, now), now)
            return caller.spend(now)
        return await self._wait(caller)

    async def debt(self, policy: Policy, key: str) -> int:
        """What is owed, in microseconds; nothing is taken."""
        now = time.monotonic()
        if self.where == "redis":
            try:
                [(_, [debt])] = await self._call([(Caller([(policy, key)]), 0, 0)], now)
                return debt
            except (Down, TimeoutError) as e:
                self._degrade(e)
        return self._tally.debt(key, int(now * MICROSECONDS))

    async def _wait(self, caller: Caller) -> bool:
        """Whatever is asked while a call is under way goes into the next one, of all callers together."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        caller.waiting.append(answer)
        if len(caller.waiting) == 1:
            self._asking.append(caller)
        if self._serving is None or self._serving.done():
            self._serving = _task(self._serve(), "ratelimit")
        return await answer

    async def _serve(self) -> None:
        while self._asking:
            callers, self._asking = self._asking[:BATCH], self._asking[BATCH:]
            now = time.monotonic()
            due = [(caller, waiting) for caller in callers if (waiting := _due(caller, now))]
            answers = await self._leases([(caller, len(waiting)) for caller, waiting in due], now)
            for (caller, waiting), answer in zip(due, answers, strict=True):
                self._settle(caller, len(waiting), answer, now)
                for one in waiting:
                    if not one.done():
                        # The block began when it was asked for, however long the answer took.
                        one.set_result(caller.spend(now))

    def _settle(self, caller: Caller, need: int, answer: tuple[int, list[int]], asked_at: float) -> None:
        given, debts = answer
        caller.lease(given, debts, asked_at, short=given < need)
        metrics.ratelimit_leased.labels(self.where).inc(given)

    async def _leases(self, needs: list[tuple[Caller, int]], now: float) -> list[tuple[int, list[int]]]:
        """What each is given, and its debts after that; it fails for nobody."""
        if self.where == "redis" and needs:
            try:
                return await self._call([(caller, need, caller.wish(need, now)) for caller, need in needs], now)
            except (Down, TimeoutError) as e:
                self._degrade(e)
            except Exception as e:
                log.exception("ratelimit.failed")
                self._degrade(e)
        return [self._count(caller, need, now) for caller, need in needs]

    def _count(self, caller: Caller, need: int, now: float) -> tuple[int, list[int]]:
        return self._tally.take(caller.policies, caller.keys, need, need, int(now * MICROSECONDS))

    async def _call(self, asks: list[tuple[Caller, int, int]], now: float) -> list[tuple[int, list[int]]]:
        """One call of the script for callers, what they need and what they want. Raises `Down` and `TimeoutError`."""
        assert self._kv
        moment = int(now * MICROSECONDS)
        keys: list[str] = []
        args: list[int] = []
        for caller, need, want in asks:
            keys += caller.keys
            args += (need, want, len(caller.keys))
            for policy, key in zip(caller.policies, caller.keys, strict=True):
                args += (self._tally.debt(key, moment), policy.interval, policy.limit)
        async with asyncio.timeout(PATIENCE_SECONDS):
            said = iter(await self._kv.script("limit", keys, args))
        return [(next(said), self._noted(caller, [next(said) for _ in caller.keys], moment)) for caller, _, _ in asks]

    def _noted(self, caller: Caller, debts: list[int], moment: int) -> list[int]:
        for key, debt in zip(caller.keys, debts, strict=True):
            self._tally.note(key, debt, moment)
        return debts

    def _degrade(self, e: Exception) -> None:
        if self._recovery is None:
            log.warning("ratelimit.degraded", extra={"error": type(e).__name__})
            metrics.ratelimit_degraded.set(1)
            self._recovery = _task(self._recover(), "ratelimit recovery")

    async def _recover(self) -> None:
        """Tries, away from all requests, until Redis takes something down."""
        assert self._kv
        probe = Caller([(gcra.policy("probe", 6000), self._kv.key("limit", "probe"))])
        lent = 0
        while not lent:
            await asyncio.sleep(AGAIN_SECONDS)
            lent = await self._try(probe)
        self._recovery = None
        metrics.ratelimit_degraded.set(0)
        log.info("ratelimit.recovered")

    async def _try(self, probe: Caller) -> int:
        """What Redis lends; it fails for nothing, or this process would count alone until it is started again."""
        try:
            [(lent, _)] = await self._call([(probe, 1, 1)], time.monotonic())
        except (Down, TimeoutError):
            return 0
        except Exception:
            # Something answers there, and not as Redis does; it is tried each second, and told of once a minute.
            if time.monotonic() - self._told_at > TELL_SECONDS:
                self._told_at = time.monotonic()
                log.exception("ratelimit.failed")
            return 0
        return lent


def _task(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    """In a context of its own: what works for all must not speak in the name of the request that began it."""
    return asyncio.create_task(work, name=name, context=contextvars.Context())


def _due(caller: Caller, now: float) -> list[asyncio.Future[bool]]:
    """Who has to be leased for, once the block that an earlier call brought is used up."""
    waiting, caller.waiting = caller.waiting, []
    due = []
    for one in waiting:
        if one.done():
            continue
        if caller.spend(now):
            one.set_result(True)
        elif now < caller.closed_until:
            one.set_result(False)
        else:
            due.append(one)
    return due
