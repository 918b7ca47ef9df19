"""The ways out to the sites: how fast each may be used, and when it is left alone.

A lane is what a site can tell apart, a proxy and the cookies that go with it. Each has a bucket that paces starts and
a breaker: a refusal that is meant for the lane pauses it, one probe goes out when the pause is over, and its answer
opens the lane or doubles the pause. PostgreSQL holds the state, so processes share it and a restart forgets nothing.
What becomes of a refused download is the worker's business.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from ytdl import errors, metrics, sql
from ytdl.db import DB, Row
from ytdl.fetcher import Failed

log = logging.getLogger("ytdl.egress")
q = sql.load("egress")

LONGEST_PAUSE_SECONDS = 3600.0
# What a site asks for is honoured up to a day; beyond that it is an error or a trick.
LONGEST_ASKED_SECONDS = 86_400.0
# After that long in the open an earlier pause is no sign any more.
CALM_SECONDS = 600.0
# After a probe that learnt nothing; long enough for a line to come back, short enough not to be a pause.
AGAIN_SECONDS = 10.0
LOOK_SECONDS = 5.0
# A probe whose process has not said for that long that it lives is taken for dead.
PROBE_SECONDS = 3 * LOOK_SECONDS
# Put off this often for refusals, a download is taken for what the site refuses, and further refusals cost it tries.
MOST_REFUSALS = 10
JITTER = 0.1

# Meant for whoever asks, not for what is asked for.
REFUSALS = frozenset({"bot_check", "proxy_error", "rate_limited"})
# Those that an account brings upon itself, where one was shown.
OF_ACCOUNTS = frozenset({"bot_check", "rate_limited"})
ACCOUNT_PAUSE_SECONDS = 900.0
# What only the site can have said of the video, so that it let us in. All else is silence, as long as nothing was
# heard: the site was not reached, broke off or was not understood, or the failure is our own. An unsupported address is
# noticed without asking anybody.
ANSWERS = frozenset(
    {
        "age_restricted", "cookies_refused", "drm_protected", "file_too_large", "format_unavailable", "geo_blocked",
        "live_now", "login_required", "members_only", "not_yet_available", "video_private", "video_unavailable",
    }
)  # fmt: skip
OUTCOMES = ("answered", "refused", "silent")


@dataclass(frozen=True)
class Lane:
    """`name` is shown everywhere and has nothing of the proxy's user and password."""

    name: str
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Permit:
    """That one attempt may start on a lane; `probe` is its number if the lane depends on it."""

    lane: Lane
    probe: int | None = None


def lanes_of(proxies: Sequence[str], *, cookies: bool) -> list[Lane]:
    """The lanes of a configuration; proxies at the same address, which differ in their users, are numbered."""
    suffix = "+cookies" if cookies else ""
    seen: Counter[str] = Counter()
    lanes = []
    for proxy in dict.fromkeys(proxies):
        address = _address(proxy)
        seen[address] += 1
        number = f"#{seen[address]}" if seen[address] > 1 else ""
        lanes.append(Lane(address + number + suffix, proxy))
    return lanes or [Lane("direct" + suffix)]


def _address(proxy: str) -> str:
    parts = urlsplit(proxy)
    usual = 1080 if parts.scheme.startswith("socks") else 443 if parts.scheme == "https" else 80
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or usual}" if ":" in host else f"{host}:{parts.port or usual}"


def spare_account(failure: Failed) -> Failed:
    """A refusal of the account itself: the site is not shown it again before a quarter of an hour is over."""
    if failure.code not in OF_ACCOUNTS:
        return failure
    wait = max(failure.retry_after_seconds or 0.0, ACCOUNT_PAUSE_SECONDS)
    return msgspec.structs.replace(failure, retry_after_seconds=wait)


class Egress:
    """`burst` is how many attempts may start at once on a lane that was idle, `pause_seconds` its first pause."""

    def __init__(
        self, db: DB, lanes: Sequence[Lane], *, starts_per_minute: float, burst: float, pause_seconds: float
    ) -> None:
        self._db = db
        self._lanes = {lane.name: lane for lane in lanes}
        self._pace = {"burst": burst, "rate": starts_per_minute / 60}
        self._pause_seconds = pause_seconds
        # The probe of this process on a lane, as long as its attempt lives and nothing was heard.
        self._probes: dict[str, int] = {}
        # When a lane was last looked at, and whether it was closed then.
        self._looked: dict[str, tuple[float, bool]] = {}

    async def open(self) -> None:
        """Makes the lanes known, and their metrics, so that a rate works from the first pause on."""
        for name in self._lanes:
            metrics.egress_starts.labels(name)
            metrics.egress_paused_seconds.labels(name)
            for reason in sorted(REFUSALS):
                metrics.egress_pauses.labels(name, reason)
            for outcome in OUTCOMES:
                metrics.egress_probes.labels(name, outcome)
        await self.look()

    async def lend(self, wanted: int) -> list[Permit]:
        """At most `wanted` permits, as many as pace and pauses of the lanes allow, probes first.

        Each is for one start. What is not used is given back.
        """
        rows = await self._db.many(
            q.lend, names=list(self._lanes), wanted=wanted, probe_seconds=PROBE_SECONDS, **self._pace
        )
        permits = [permit for row in rows for permit in self._permits(row)]
        return sorted(permits, key=lambda permit: permit.probe is None)

    def _permits(self, row: Row) -> list[Permit]:
        lane = self._lanes[row["name"]]
        if row["probe"] is not None:
            self._probes[lane.name] = row["probe"]
            log.info("egress.probing", extra={"lane": lane.name})
        return [Permit(lane, row["probe"])] * row["starts"]

    async def give_back(self, permits: Sequence[Permit]) -> None:
        """Best effort, as what is lost comes in again with time."""
        try:
            for lane, starts in Counter(permit.lane for permit in permits if permit.probe is None).items():
                await self._db.exec(q.give_back, name=lane.name, starts=starts, burst=self._pace["burst"])
            for permit in permits:
                await self._try_again(permit, 0.0)
        except errors.Unavailable:
            log.warning("egress.not_given_back", extra={"permits": len(permits)})

    async def answered(self, permit: Permit) -> None:
        """The site has told the attempt about its video; if it is the newest probe, the lane is open again."""
        if not self._settles(permit):
            return
        row = await self._db.maybe(q.reopen, name=permit.lane.name, probe=permit.probe)
        self.forget(permit)
        if row:
            self._count(permit, "answered")
            log.warning("egress.opened", extra={"lane": permit.lane.name, "reason": row["reason"]})
            await self.look()

    async def failed(
        self, permit: Permit, failure: Failed, *, heard: bool, at: float | None = None, suspect: int | None = None,
        as_user: bool = False,
    ) -> float | None:  # fmt: skip
        """What an attempt's failure says of its lane; `heard` is whether the site had told about the video before.

        After a refusal: the seconds until it makes sense to try again, on whichever lane; else None. May be said again
        after a lost answer with the same `at`, the monotonic clock's time of the failure: it counts once.

        `suspect` is the job, if it was refused before. Refused again while others are let in, and alone in that, it is
        taken for what the site refuses: that closes nothing, and the failure is the download's own. So is a refusal of
        the account with which the site was asked `as_user`: it must not close the way for all others.
        """
        if failure.code in REFUSALS and not (as_user and failure.code in OF_ACCOUNTS):
            if suspect is not None and permit.probe is None and await self._is_alone(permit.lane, suspect):
                return None
            return await self._refused(permit, failure, time.monotonic() - at if at is not None else 0.0)
        if heard or failure.code in ANSWERS:
            await self.answered(permit)
        else:
            await self._try_again(permit, min(AGAIN_SECONDS, self._pause_seconds))
        return None

    async def _is_alone(self, lane: Lane, suspect: int) -> bool:
        return bool(await self._db.maybe(q.suspect, name=lane.name, job=suspect))

    async def stopped(self, permit: Permit, *, heard: bool) -> None:
        """An attempt was ended by us. If the site had not said anything, the next one probes instead."""
        await (self.answered(permit) if heard else self._try_again(permit, 0.0))

    def forget(self, permit: Permit) -> None:
        """The attempt is over: a probe that nobody settled frees itself from now on."""
        if self._settles(permit):
            del self._probes[permit.lane.name]

    def _settles(self, permit: Permit) -> bool:
        return permit.probe is not None and self._probes.get(permit.lane.name) == permit.probe

    async def _refused(self, permit: Permit, failure: Failed, age_seconds: float) -> float:
        """Those that were not refused themselves come before those that were: one video may be what is refused."""
        name = permit.lane.name
        row = await self._db.one(
            q.pause, name=name, reason=failure.code, jitter=random.uniform(0, JITTER), calm_seconds=CALM_SECONDS,
            probe=permit.probe, age_seconds=age_seconds,
            pause_seconds=self._pause_seconds, longest_seconds=LONGEST_PAUSE_SECONDS,
            floor_seconds=max(0.0, min(LONGEST_ASKED_SECONDS, failure.retry_after_seconds or 0.0)),
        )  # fmt: skip
        if self._settles(permit):
            self._count(permit, "refused")
            self.forget(permit)
        if row["counts"]:
            metrics.egress_pauses.labels(name, failure.code).inc()
            told = {"lane": name, "reason": failure.code, "seconds": round(row["seconds"], 1), "pauses": row["pauses"]}
            log.warning("egress.paused", extra=told)
            await self.look()
        wait: float = await self._db.value(q.wait_seconds, names=list(self._lanes))
        return wait + random.uniform(0, max(JITTER * wait, 1.0))

    async def _try_again(self, permit: Permit, seconds: float) -> None:
        if not self._settles(permit):
            return
        row = await self._db.maybe(q.try_again, name=permit.lane.name, probe=permit.probe, delay_seconds=seconds)
        self.forget(permit)
        if row:
            self._count(permit, "silent")

    def _count(self, permit: Permit, outcome: str) -> None:
        metrics.egress_probes.labels(permit.lane.name, outcome).inc()

    async def look(self) -> None:
        """One round: says that the lanes are in use and the probes alive, and refreshes the gauges.

        A row that was taken away is made again; without it nothing would start any more.
        """
        for name in self._lanes:
            await self._db.exec(q.register, name=name, burst=self._pace["burst"])
            row = await self._db.one(
                q.look, name=name, probe=self._probes.get(name), probe_seconds=PROBE_SECONDS, **self._pace
            )
            for state in metrics.LANE_STATES:
                metrics.egress_lane_state.labels(name, state).set(row["state"] == state)
            metrics.egress_paused_until.labels(name).set(row["paused_until"])
            metrics.egress_tokens.labels(name).set(row["tokens"])
            self._count_paused(name, row["state"] != "open")

    def _count_paused(self, name: str, closed: bool) -> None:
        now = time.monotonic()
        since, was_closed = self._looked.get(name, (now, False))
        if was_closed:
            metrics.egress_paused_seconds.labels(name).inc(now - since)
        self._looked[name] = now, closed
