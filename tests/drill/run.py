"""One fault from its beginning to its end, with the time that each step took."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.drill.fault import Fault
from tests.drill.ground import Ground, Skipped
from tests.drill.inbox import Message
from tests.drill.people import Admin

POLL_SECONDS = 0.2
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
    channels: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.skipped) or None not in (self.alert_seconds, self.message_seconds, self.end_seconds)


async def watch(ground: Ground, admin: Admin, fault: Fault, patience: float) -> Course:
    """Breaks, watches and mends; each of the three waits takes `patience` seconds at most."""
    course = Course(fault)
    await _absent(ground, fault, patience)
    began = time.monotonic()
    try:
        async with fault.breaking(ground, admin):
            await _see(ground, course, began, patience)
    except Skipped as why:
        course.skipped = str(why)
    mended = time.monotonic()
    if course.message_seconds is not None:
        over = await ground.inbox.arrival(lambda m: _is(m, fault, "resolved", mended), patience)
        course.end_seconds = over.at - mended if over else None
    return course


async def _absent(ground: Ground, fault: Fault, patience: float) -> None:
    """An alert that is there before the fault would show nothing."""
    async with asyncio.timeout(patience):
        while any(_fits(alert["labels"], fault) for alert in await ground.alerts()):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(POLL_SECONDS)


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
        course.channels = [message.channel]
    course.others = others(await ground.alerts(), fault)


def others(alerts: list[dict[str, Any]], fault: Fault) -> list[str]:
    return sorted({a["labels"]["alertname"] for a in alerts} - STANDING - {fault.alert})


def _fits(labels: dict[str, str], fault: Fault) -> bool:
    return labels.get("alertname") == fault.alert and labels.items() >= fault.labels.items()


def _is(message: Message, fault: Fault, status: str, since: float) -> bool:
    return message.at >= since and message.status == status and _fits(message.labels, fault)
