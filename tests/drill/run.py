"""One fault from its beginning to its end, with the time that each step took."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from tests.drill.fault import Fault
from tests.drill.ground import Ground, Skipped
from tests.drill.inbox import KINDS, Message
from tests.drill.people import Admin

POLL_SECONDS = 0.2
# How long the slowest channel may take after the webhook, and how long one is waited for that may be silent.
CHANNEL_SECONDS = 30.0
SILENT_SECONDS = 8.0
# How long the message that an alert is over may take: longer than messages of one group are apart.
OVER_SECONDS = 30.0
# Alerts that are always there.
STANDING = {"Watchdog"}


@dataclass
class Course:
    """What came of a fault. Seconds are from the fault to the alert and to its message, and from mending to the
    message that it is over; None where it did not come to that. `others` fired meanwhile."""

    fault: Fault
    severity: str = ""
    alert_seconds: float | None = None
    message_seconds: float | None = None
    end_seconds: float | None = None
    channels: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    skipped: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def ok(self) -> bool:
        steps = (self.alert_seconds, self.message_seconds, self.end_seconds)
        return bool(self.skipped) or (None not in steps and not self.missing and not self.unheard)

    @property
    def unheard(self) -> list[str]:
        """Channels that brought no message, and should have."""
        return sorted(KINDS - set(self.channels) - set(self.fault.silent))


class Drill:
    """Faults one after the other. That an alert ends is waited for while the next thing is broken, unless that is
    `apart`: then everything must be over first, and is over before anything else begins."""

    def __init__(self, ground: Ground, admin: Admin, patience: float, say: Callable[[Course], None]) -> None:
        self._ground = ground
        self._admin = admin
        self._patience = patience
        self._say = say
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def watch(self, fault: Fault) -> Course:
        """Breaks, watches and mends; each wait takes `patience` seconds at most. The end may be filled in later."""
        if fault.apart:
            await self.finish()
        await _absent(self._ground, fault, self._patience)
        course = Course(fault)
        began = time.monotonic()
        try:
            async with fault.breaking(self._ground, self._admin):
                await _see(self._ground, course, began, self._patience)
        except Skipped as why:
            course.skipped = str(why)
        self._ending[fault.alert] = asyncio.create_task(self._end(course, time.monotonic()))
        if fault.apart:
            await self.finish()
        return course

    async def finish(self) -> None:
        await asyncio.gather(*self._ending.values())

    async def _end(self, course: Course, mended: float) -> None:
        if course.message_seconds is not None:
            fault = course.fault
            over = await self._ground.inbox.arrival(lambda m: _is(m, fault, "resolved", mended), self._patience)
            course.end_seconds = over.at - mended if over else None
        self._say(course)
        self._ending.pop(course.fault.alert, None)


async def _absent(ground: Ground, fault: Fault, patience: float) -> None:
    """An alert that is there before the fault would show nothing."""
    async with asyncio.timeout(patience):
        while any(_fits(alert["labels"], fault) for alert in await ground.alerts()):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(POLL_SECONDS)
    if last_told(ground.inbox.messages(), fault) == "firing":
        # It fired for a moment, while something else was broken. Before its end is told, its return is no news.
        now = time.monotonic()
        await ground.inbox.arrival(lambda m: _is(m, fault, "resolved", now), OVER_SECONDS)


def last_told(messages: Iterable[Message], fault: Fault) -> str:
    """What the newest message said of its alert; nothing where there was none."""
    return next((m.status for m in sorted(messages, key=lambda m: -m.at) if _fits(m.labels, fault)), "")


async def _see(ground: Ground, course: Course, began: float, patience: float) -> None:
    fault = course.fault
    while time.monotonic() < began + patience:
        alerts = await ground.alerts()
        found = [alert for alert in alerts if _fits(alert["labels"], fault)]
        if found:
            course.severity = found[0]["labels"]["severity"]
            course.alert_seconds = time.monotonic() - began
            break
        await asyncio.sleep(POLL_SECONDS)
    else:
        return
    message = await ground.inbox.arrival(lambda m: _is(m, fault, "firing", began), patience)
    if message:
        course.message_seconds = message.at - began
        seconds = SILENT_SECONDS if fault.silent else CHANNEL_SECONDS
        heard = await ground.inbox.everywhere(fault.alert, began, seconds)
        course.channels = {kind: at - began for kind, at in heard.items()}
        course.missing = await _also(ground, fault, patience)
    course.others = others(await ground.alerts(), fault, course.since)


async def _also(ground: Ground, fault: Fault, patience: float) -> list[str]:
    """Waits for the alerts that must fire too; those that did not."""
    missing = set(fault.also)
    deadline = time.monotonic() + patience
    while missing and time.monotonic() < deadline:
        missing -= {alert["labels"]["alertname"] for alert in await ground.alerts()}
        await asyncio.sleep(POLL_SECONDS)
    return sorted(missing)


def others(alerts: list[dict[str, Any]], fault: Fault, since: datetime) -> list[str]:
    """What else began to fire."""
    new = {a["labels"]["alertname"] for a in alerts if datetime.fromisoformat(a["startsAt"]) > since}
    return sorted(new - STANDING - {fault.alert})


def _fits(labels: dict[str, str], fault: Fault) -> bool:
    return labels.get("alertname") == fault.alert and labels.items() >= fault.labels.items()


def _is(message: Message, fault: Fault, status: str, since: float) -> bool:
    return message.at >= since and message.status == status and _fits(message.labels, fault)


def heartbeats(ground: Ground) -> list[float]:
    """Seconds between two messages of the alert that always fires, as the dead man's switch hears them."""
    times = sorted(message.at for message in ground.inbox.messages() if message.alert == "Watchdog")
    return [later - earlier for earlier, later in pairwise(times)]
