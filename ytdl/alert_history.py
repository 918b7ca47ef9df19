"""The history of alerts: looked up in Alertmanager again and again, written by one process, and what it comes to.

Each process shows in its metrics how many alerts fire and since when which of them waits for somebody; rules make an
alert of what waits too long. When Alertmanager cannot be asked nothing is shown, for nothing is known.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from psycopg.types.json import Jsonb

from ytdl import alertmanager as am
from ytdl import alerts, errors, loops, metrics, sql
from ytdl.acknowledgements import Acknowledgements
from ytdl.alertmanager import Alertmanager, Silence
from ytdl.alerts import SEVERITIES, TRIED, WATCHDOG, Severity
from ytdl.db import DB, Row, Statements
from ytdl.record import Moment

log = logging.getLogger("ytdl.alerts")
q = sql.load("alerts")
# As much of Alertmanager's list is taken up, the worst first.
MOST = 1000
# Metrics have a series for each alert that waits, by name and severity, up to this many.
MOST_SERIES = 100
# Alertmanager keeps no alerts. After a start it knows them when Prometheus has told it again, which takes a minute.
SETTLED = timedelta(seconds=150)
WINDOW = timedelta(days=1)
LONGEST_WINDOW = timedelta(days=366)
TOP = 20
# Alerts that figures leave out, for they are no trouble: the test of a channel, and the one that always fires.
NO_TROUBLE = [TRIED, WATCHDOG]
_STATES = {"firing": "unacknowledged", "silenced": "acknowledged", "inhibited": "inhibited"}


class AlertWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """`to` is now where it is left out, `from` a day before `to`."""

    from_: Moment | None = None
    to: Moment | None = None


class AlertFigures(msgspec.Struct, frozen=True):
    """Of one alert in the window. A mean is null where there was nothing to take it of."""

    name: str
    severity: Severity
    fired: int
    resolved: int
    acknowledged: int
    mean_seconds_to_acknowledge: float | None
    mean_seconds_to_resolve: float | None


class AlertStats(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """`firing` and `unacknowledged` are those of this moment, by severity; all else is of the window. Means are of what
    was acknowledged and resolved in it; an alert that was silenced before it began was acknowledged by nobody. The
    alert that always fires, and those of tests, count nowhere."""

    from_: Moment
    to: Moment
    firing: dict[str, int]
    unacknowledged: dict[str, int]
    fired: int
    resolved: int
    acknowledged: int
    fired_by_severity: dict[str, int]
    mean_seconds_to_acknowledge: float | None
    mean_seconds_to_resolve: float | None
    top: list[AlertFigures]


class AlertHistory:
    """Looks each `seconds`, and not at all where there is no Alertmanager."""

    def __init__(self, db: DB, alertmanager: Alertmanager, acknowledgements: Acknowledgements, seconds: float) -> None:
        self._db = db
        self._alertmanager = alertmanager
        self._acknowledgements = acknowledgements
        # Since when Alertmanager runs, of the last round that saw to the silences which it had lost.
        self._running_since: datetime | None = None
        self._seconds = seconds
        self._silences: dict[str, Silence] = {}
        # What waited at the last look, for one at which the database is away.
        self._waiting: dict[str, datetime] = {}
        self._shown: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        _show_states(())
        if self._alertmanager.configured:
            self._tasks.append(asyncio.create_task(loops.repeat("alerts", self._seconds, self.look)))

    async def stop(self) -> None:
        await loops.stop(self._tasks)
        self._show_waiting({})

    async def look(self) -> None:
        """One round."""
        asked_at = time.monotonic()
        try:
            found = alerts.worst_first(a for a in await self._alertmanager.alerts() if alerts.name_of(a) != TRIED)
            running_since = (await self._alertmanager.status()).uptime
        except errors.Unavailable:
            metrics.alerts_active.clear()
            self._show_waiting({})
            raise
        settled = datetime.now(UTC) - running_since > SETTLED
        _show_states(found)
        try:
            await self._restore_lost(running_since)
            await self._learn(found[:MOST])
            self._waiting = await self._write(found, asked_at, settled=settled)
        finally:
            self._show_waiting(self._since(found))
        await self._acknowledgements.restore(found[:MOST])
        if settled:
            await self._acknowledgements.retire()

    async def _restore_lost(self, running_since: datetime) -> None:
        """A crash takes silences along, and alerts are told of again as soon as Prometheus brings them."""
        if running_since != self._running_since:
            await self._acknowledgements.restore_all()
            self._running_since = running_since

    async def _learn(self, found: Sequence[am.Alert]) -> None:
        """Looks up the silences that are not known yet, some each time."""
        held = {id for alert in found for id in alert.status.silenced_by}
        self._silences = {id: silence for id, silence in self._silences.items() if id in held}
        unknown = [alert for alert in found if not self._silences.keys() & set(alert.status.silenced_by)]
        self._silences |= await alerts.silences_of(self._alertmanager, unknown)

    async def _write(self, found: Sequence[am.Alert], asked_at: float, *, settled: bool) -> dict[str, datetime]:
        """Since when which alert waits, by fingerprint."""
        if len(found) > MOST:
            log.warning("alerts.too_many", extra={"alerts": len(found), "written": MOST})
        written = found[:MOST]
        async with self._db.transaction() as tx:
            if await tx.value(q.lock_history):
                records = Jsonb([alerts.recorded(a, alerts.longest_of(a, self._silences)) for a in written])
                await tx.exec(q.ended_between, alerts=records)
                if settled:
                    # Somebody may have taken up one that came after the list was asked for.
                    seconds = time.monotonic() - asked_at
                    await tx.exec(q.gone, fingerprints=[alert.fingerprint for alert in found], seconds=seconds)
                rows = await tx.many(q.seen, alerts=records)
            else:
                rows = await tx.many(q.firing, fingerprints=[alert.fingerprint for alert in written])
        return {row["fingerprint"]: row["waiting_since"] for row in rows if row["waiting_since"]}

    def _since(self, found: Iterable[am.Alert]) -> dict[tuple[str, str], datetime]:
        """Since when alerts wait, by name and severity; of several the first. One that nothing is known of, because the
        database cannot be asked, waits since it began."""
        since: dict[tuple[str, str], datetime] = {}
        for alert in found:
            if alerts.state_of(alert) == "firing":
                key = alerts.name_of(alert), alerts.severity_of(alert)
                begun = self._waiting.get(alert.fingerprint, alert.starts_at)
                since[key] = min(begun, since.get(key, begun))
        return since

    def _show_waiting(self, since: dict[tuple[str, str], datetime]) -> None:
        # In the order of their severity, so the cut is at the other end.
        shown = dict(list(since.items())[:MOST_SERIES])
        for key, begun in shown.items():
            metrics.alerts_unacknowledged.labels(*key).set(begun.timestamp())
        for key in self._shown - shown.keys():
            metrics.alerts_unacknowledged.remove(*key)
        self._shown = set(shown)


def _show_states(found: Iterable[am.Alert]) -> None:
    counts = {(severity, state): 0 for severity in SEVERITIES for state in _STATES.values()}
    for alert in found:
        counts[alerts.severity_of(alert), _STATES[alerts.state_of(alert)]] += 1
    for labels, count in counts.items():
        metrics.alerts_active.labels(*labels).set(count)


async def stats(db: Statements, alertmanager: Alertmanager, window: AlertWindow) -> AlertStats:
    """Raises `errors.Invalid`, and `errors.Unavailable` where Alertmanager cannot be asked what fires."""
    from_, to = _bounds(window)
    found = [alert for alert in await alertmanager.alerts() if alerts.name_of(alert) not in NO_TROUBLE]
    rows = await db.many(q.figures, since=from_, until=to, without=NO_TROUBLE)
    total = _total(rows)
    return AlertStats(
        from_=from_,
        to=to,
        firing=_by_severity(found),
        unacknowledged=_by_severity(alert for alert in found if alerts.state_of(alert) == "firing"),
        fired=total["fired"],
        resolved=total["resolved"],
        acknowledged=total["acknowledged"],
        fired_by_severity={s: sum(row["fired"] for row in rows if row["severity"] == s) for s in SEVERITIES},
        **_means(total),
        top=[_figures(row) for row in sorted(rows, key=lambda row: (-row["fired"], row["name"]))[:TOP]],
    )


def _bounds(window: AlertWindow) -> tuple[datetime, datetime]:
    to = window.to or datetime.now(UTC)
    try:
        from_ = window.from_ or to.astimezone(UTC) - WINDOW
    except OverflowError:
        raise errors.invalid("to", "must be a day later than the first there is") from None
    if from_ >= to:
        raise errors.invalid("from", "must be before to")
    if to - from_ > LONGEST_WINDOW:
        raise errors.invalid("from", f"must be at most {LONGEST_WINDOW.days} days before to")
    return from_, to


def _by_severity(found: Iterable[am.Alert]) -> dict[str, int]:
    counts = dict.fromkeys(SEVERITIES, 0)
    for alert in found:
        counts[alerts.severity_of(alert)] += 1
    return {str(severity): count for severity, count in counts.items()}


def _total(rows: Iterable[Row]) -> Row:
    names = ("fired", "resolved", "acknowledged", "seconds_to_resolve", "seconds_to_acknowledge")
    return {name: sum(row[name] for row in rows) for name in names}


def _means(row: Row) -> Row:
    return {
        "mean_seconds_to_acknowledge": _mean(row["seconds_to_acknowledge"], row["acknowledged"]),
        "mean_seconds_to_resolve": _mean(row["seconds_to_resolve"], row["resolved"]),
    }


def _mean(seconds: float, count: int) -> float | None:
    return round(seconds / count, 3) if count else None


def _figures(row: Row) -> AlertFigures:
    counts = {name: row[name] for name in ("name", "severity", "fired", "resolved", "acknowledged")}
    return AlertFigures(**counts, **_means(row))
