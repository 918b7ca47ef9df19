"""Tries out channels: a test alert for each, and what Alertmanager's own counters say came of it.

Alertmanager keeps no log that can be read; it counts requests and failed ones for each kind of channel. So those of one
kind are tried one after the other, and between two readings of the counters only what else was sent then can mix in.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import uuid_utils.compat as uuid

from ytdl import errors
from ytdl.alertmanager import Alertmanager
from ytdl.channels import Channel, kind_of
from ytdl.routing import TEST_ALERT

Outcome = Literal["accepted", "refused", "unclear", "silent", "unknown", "not_tried"]
DETAILS: dict[Outcome, str] = {
    "accepted": "Its server has taken the message.",
    "refused": "Its server did not take the message, or was not reached; Alertmanager's log says why.",
    "unclear": "Other messages went out by this kind of channel at the same time, and some of them failed.",
    "silent": "There was no word of the message within {} seconds; Alertmanager may still be trying.",
    "unknown": "Nobody knows what came of it: {}",
    "not_tried": "There was no time left to try it.",
}
EACH_SECONDS = 10.0
ALL_SECONDS = 40.0
POLL_SECONDS = 0.25
ALIVE = timedelta(minutes=1)
SUMMARY = "This is a test of the channel {}"
DESCRIPTION = "An admin asked for it. Nothing is wrong, and nothing is to be done."
# Alertmanager reaches this service as a webhook, and this service Twilio.
INTEGRATIONS = {"sms": "webhook"}
_COUNT = re.compile(
    r"^alertmanager_notification_requests_(?P<failed>failed_)?total"
    r'\{[^}]*?integration="(?P<kind>\w+)"[^}]*\} (?P<n>\S+)$',
    re.MULTILINE,
)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """`accepted` is what the channel's server said; whether somebody reads it nobody here can know."""

    channel: str
    kind: str
    outcome: Outcome
    detail: str
    seconds: float


async def run(alertmanager: Alertmanager, channels: Sequence[Channel]) -> list[Trial]:
    """In the order of the channels, within some 40 seconds. That Alertmanager goes away is an outcome, too."""
    until = time.monotonic() + ALL_SECONDS
    kinds: dict[str, list[Channel]] = {}
    for channel in channels:
        kinds.setdefault(_integration(channel), []).append(channel)
    found = await asyncio.gather(*(_one_by_one(alertmanager, each, until) for each in kinds.values()))
    by_name = {trial.channel: trial for trials in found for trial in trials}
    return [by_name[channel.name] for channel in channels]


def _integration(channel: Channel) -> str:
    kind = kind_of(channel)
    return INTEGRATIONS.get(kind, kind)


async def _one_by_one(alertmanager: Alertmanager, channels: Iterable[Channel], until: float) -> list[Trial]:
    return [await _try(alertmanager, channel, until) for channel in channels]


async def _try(alertmanager: Alertmanager, channel: Channel, until: float) -> Trial:
    begun = time.monotonic()
    if begun + EACH_SECONDS > until:
        return _trial(channel, "not_tried", 0.0)
    try:
        return _trial(channel, await _outcome(alertmanager, channel, begun), time.monotonic() - begun)
    except errors.Unavailable as e:
        return _trial(channel, "unknown", time.monotonic() - begun, e.message)


async def _outcome(alertmanager: Alertmanager, channel: Channel, begun: float) -> Outcome:
    integration = _integration(channel)
    before = await _counts(alertmanager, integration)
    alert = _alert(channel.name)
    await alertmanager.post_alerts([alert])
    outcome: Outcome = "silent"
    while outcome == "silent" and time.monotonic() < begun + EACH_SECONDS:
        await asyncio.sleep(POLL_SECONDS)
        if _compare(before, await _counts(alertmanager, integration)) != "silent":
            # Once more, as a failure is counted a moment after the request.
            outcome = _compare(before, await _counts(alertmanager, integration))
    # Else it would be tried again, for whoever mends the channel a moment later to wonder about.
    await alertmanager.post_alerts([alert | {"endsAt": datetime.now(UTC)}])
    return outcome


def _alert(channel: str) -> dict[str, object]:
    now = datetime.now(UTC)
    return {
        "labels": {"alertname": TEST_ALERT, "channel": channel, "severity": "info", "test": uuid.uuid4().hex},
        "annotations": {"summary": SUMMARY.format(channel), "description": DESCRIPTION},
        "startsAt": now,
        "endsAt": now + ALIVE,
    }


async def _counts(alertmanager: Alertmanager, integration: str) -> tuple[float, float]:
    """All requests of a kind of channel, and those that failed."""
    counts = list(_COUNT.finditer(await alertmanager.figures()))
    if not counts:
        raise errors.Unavailable("Alertmanager does not tell how its messages went.")
    # A kind that it has never used may not be among them.
    own = [match for match in counts if match["kind"] == integration]
    failed = sum(float(match["n"]) for match in own if match["failed"])
    return sum(float(match["n"]) for match in own) - failed, failed


def _compare(before: tuple[float, float], now: tuple[float, float]) -> Outcome:
    requests, failed = now[0] - before[0], now[1] - before[1]
    if requests <= 0:
        return "silent"
    return "accepted" if failed <= 0 else "refused" if failed >= requests else "unclear"


def _trial(channel: Channel, outcome: Outcome, seconds: float, why: str = "") -> Trial:
    detail = DETAILS[outcome].format(why or f"{EACH_SECONDS:g}")
    return Trial(channel=channel.name, kind=kind_of(channel), outcome=outcome, detail=detail, seconds=round(seconds, 3))
