"""Alerts as admins see them: what fires, who has taken it up, and what has ended.

A silence that was made in Alertmanager counts as much as an acknowledgement. Taking an alert up and giving it back is
`acknowledgements`'; what was, and for how long, is written by `alert_history`.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta

from ytdl import alertmanager as am
from ytdl import errors, routing, sql
from ytdl.alertmanager import Alertmanager, Silence
from ytdl.db import DB, Row, Statements
from ytdl.record import Moment

log = logging.getLogger("ytdl.alerts")
q = sql.load("alerts")

Severity = Literal["critical", "warning", "info", "other"]
State = Literal["firing", "silenced", "inhibited", "ended"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_SEVERITY: dict[str, Severity] = {severity: severity for severity in SEVERITIES}
# As Alertmanager writes it.
FINGERPRINT = r"^[0-9a-f]{16}$"
NAME_LENGTH = 200
# Silences that are looked up for one answer; alerts beyond that show without their author.
MOST_SILENCES = 50
# The history has so many days, and so many alerts that have ended; an alert that flutters could fill the disk.
REMEMBERED_DAYS = 400
REMEMBERED = 100_000
# A dead man's switch: when it is silent, whoever listens for it takes the watching for dead.
WATCHDOG = "Watchdog"
# The alert by which a channel is tried. It is no trouble and has no history.
TRIED = routing.TEST_ALERT
# Where the list of those that have ended begins.
NEWEST = "infinity", UUID(int=2**128 - 1)
_CURSOR_TIME = "%Y%m%dT%H%M%S%f"


class AlertFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`state` is what fires in any way where it is left out; `ended` are those of the history, the newest first, and
    they alone come in pages with a `cursor`."""

    state: State | None = None
    severity: Severity | None = None
    name: Annotated[str, Meta(max_length=NAME_LENGTH)] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(pattern=r"^\d{8}T\d{12}-[0-9a-f]{32}$")] | None = None


class Acknowledgement(msgspec.Struct, frozen=True):
    """`user_id` is null for a silence that was made in Alertmanager itself, and for an account that is gone."""

    fingerprint: str
    silence_id: str
    author: str
    user_id: UUID | None
    comment: str
    created_at: Moment
    expires_at: Moment


class Alert(msgspec.Struct, frozen=True):
    """`fingerprint` stands for the labels. `waiting_since` is since when nobody has taken it up; `acknowledged_at` and
    `acknowledged_by` tell of the first who did, `acknowledgement` of what holds now."""

    fingerprint: str
    name: str
    severity: Severity
    state: State
    labels: dict[str, str]
    annotations: dict[str, str]
    started_at: Moment
    ended_at: Moment | None = None
    waiting_since: Moment | None = None
    acknowledged_at: Moment | None = None
    acknowledged_by: str | None = None
    acknowledgement: Acknowledgement | None = None
    inhibited_by: list[str] = []
    receivers: list[str] = []
    source_url: str = ""


class AlertList(msgspec.Struct, frozen=True):
    """The worst first; `total` counts those too that are not among `items` because there are more than `limit`. It is
    null for those that have ended, which begin with the newest."""

    items: list[Alert]
    total: int | None
    next_cursor: str | None = None


def severity_of(alert: am.Alert) -> Severity:
    return _SEVERITY.get(alert.labels.get("severity", ""), "other")


def name_of(alert: am.Alert) -> str:
    return alert.labels.get("alertname", "")[:NAME_LENGTH]


def state_of(alert: am.Alert) -> State:
    if alert.status.silenced_by:
        return "silenced"
    return "inhibited" if alert.status.inhibited_by else "firing"


def worst_first(found: Iterable[am.Alert]) -> list[am.Alert]:
    """Of the same severity, the one that has fired for longest comes first."""
    return sorted(found, key=lambda a: (SEVERITIES.index(severity_of(a)), a.starts_at, a.fingerprint))


async def silences_of(alertmanager: Alertmanager, found: Sequence[am.Alert]) -> dict[str, Silence]:
    """The silences that hold alerts, by id; the first `MOST_SILENCES` of them."""
    ids = list(dict.fromkeys(id for alert in found for id in alert.status.silenced_by))[:MOST_SILENCES]
    answers = await asyncio.gather(*map(alertmanager.silence, ids))
    return {silence.id: silence for silence in answers if silence}


def longest_of(alert: am.Alert, silences: dict[str, Silence]) -> Silence | None:
    """Of those that hold the alert, the one that lasts longest."""
    holding = [silences[id] for id in alert.status.silenced_by if id in silences]
    return max(holding, key=lambda silence: silence.ends_at, default=None)


class Alerts:
    """Raises `errors.Unavailable` where Alertmanager, or the database, cannot be asked."""

    def __init__(self, db: DB, alertmanager: Alertmanager) -> None:
        self._db = db
        self._alertmanager = alertmanager

    async def page(self, f: AlertFilter) -> AlertList:
        if f.state == "ended":
            return await self._ended(f)
        if f.cursor is not None:
            raise errors.invalid("cursor", "is for alerts that have ended")
        filters = [am.equals("alertname", f.name)] if f.name is not None else []
        found = [
            alert
            for alert in await self._alertmanager.alerts(filters)
            if f.severity in (None, severity_of(alert)) and f.state in (None, state_of(alert))
        ]
        return AlertList(await self._views(worst_first(found)[: f.limit]), len(found))

    async def _ended(self, f: AlertFilter) -> AlertList:
        if not self._alertmanager.configured:
            raise errors.Unavailable(am.OFF)
        before, before_id = _place(f.cursor)
        rows = await self._db.many(
            q.ended, before=before, before_id=before_id, severity=f.severity, name=f.name, limit=f.limit + 1
        )
        more, rows = len(rows) > f.limit, rows[: f.limit]
        cursor = f"{rows[-1]['ended_at'].astimezone(UTC):{_CURSOR_TIME}}-{rows[-1]['id'].hex}" if more else None
        return AlertList(
            [Alert(state="ended", **{n: v for n, v in row.items() if n != "id"}) for row in rows], None, cursor
        )

    async def _views(self, found: Sequence[am.Alert]) -> list[Alert]:
        rows = await self._db.many(q.firing, fingerprints=[alert.fingerprint for alert in found])
        known = {row["fingerprint"]: row for row in rows}
        silences = await silences_of(self._alertmanager, found)
        known_to_us = await ours(self._db, silences)
        views = []
        for alert in found:
            silence = longest_of(alert, silences)
            held = acknowledgement_of(alert, silence, known_to_us.get(silence.id)) if silence else None
            views.append(_view(alert, known.get(alert.fingerprint, {}), held))
        return views


def _place(cursor: str | None) -> tuple[datetime | str, UUID]:
    """After which alert a page begins."""
    if cursor is None:
        return NEWEST
    at, _, id = cursor.partition("-")
    try:
        return datetime.strptime(at, _CURSOR_TIME).replace(tzinfo=UTC), UUID(id)
    except ValueError:
        raise errors.invalid("cursor", "is not one that this list gave") from None


def recorded(alert: am.Alert, silence: Silence | None = None) -> dict[str, Any]:
    """The alert as the history's statements take it; `silence` is what holds it. Silenced before it began, it was not
    taken up by anybody."""
    after = silence is not None and silence.starts_at > alert.starts_at
    return {
        "id": uuid.uuid7(),
        "fingerprint": alert.fingerprint,
        "name": _storable(name_of(alert)),
        "severity": severity_of(alert),
        "labels": {_storable(name): _storable(value) for name, value in alert.labels.items()},
        "annotations": {_storable(name): _storable(value) for name, value in alert.annotations.items()},
        "started_at": alert.starts_at,
        "waits": state_of(alert) == "firing",
        "acknowledged_at": silence.starts_at if silence and after else None,
        "acknowledged_by": _storable(silence.created_by) if silence and after else None,
    }


def _storable(text: str) -> str:
    """PostgreSQL knows no NUL."""
    return text.replace("\0", "\ufffd")


def _view(alert: am.Alert, row: Row, held: Acknowledgement | None) -> Alert:
    return Alert(
        fingerprint=alert.fingerprint,
        name=name_of(alert),
        severity=severity_of(alert),
        state=state_of(alert),
        labels=alert.labels,
        annotations=alert.annotations,
        started_at=alert.starts_at,
        waiting_since=row.get("waiting_since"),
        acknowledged_at=row.get("acknowledged_at"),
        acknowledged_by=row.get("acknowledged_by"),
        acknowledgement=held,
        inhibited_by=alert.status.inhibited_by,
        receivers=[receiver.name for receiver in alert.receivers],
        source_url=alert.generator_url,
    )


def acknowledgement_of(alert: am.Alert, silence: Silence, user_id: UUID | None) -> Acknowledgement:
    return Acknowledgement(
        alert.fingerprint, silence.id, silence.created_by, user_id, silence.comment, silence.starts_at, silence.ends_at
    )


async def ours(db: Statements, silence_ids: Iterable[str]) -> dict[str, UUID | None]:
    """Whose acknowledgements silences are; those that are none are not among them."""
    rows = await db.many(q.of_silences, silence_ids=list(silence_ids))
    return {row["silence_id"]: row["user_id"] for row in rows}


async def sweep(db: Statements) -> int:
    """Removes what is remembered no longer; for the janitor."""
    removed = await db.exec(q.sweep, days=REMEMBERED_DAYS, most=REMEMBERED)
    return removed + await db.exec(q.sweep_acknowledgements, days=REMEMBERED_DAYS)
