"""Thresholds of the figures of the whole service, as admins set them: kept, listed, and told to Prometheus.

A threshold is a series of its own, `ytdl_threshold_value`, that alert rules compare the figure with; so a change is in
force with the next scrape, and no file of rules changes. Every process tells all that are set: it reads them when it
hears that one changed, and every METRICS_COLLECTION_INTERVAL. The figures, and the alerts, are recording and alert
rules of the same names in prometheus/rules/thresholds.yml.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ytdl import audit, errors, loops, metrics, sql
from ytdl.db import DB, Row
from ytdl.events import Events
from ytdl.record import Moment

q = sql.load("thresholds")

Hold = Literal[0, 60, 300, 900, 3600]
Unit = Literal["ratio", "bytes", "bytes per second", "seconds", "downloads", "jobs"]
Limit = Annotated[float, Meta(ge=0, le=1e18)]


@dataclass(frozen=True)
class Measure:
    """Of each one a high value is what is bad. `below` is what a threshold must be below to be passed ever: the
    greatest that the figure comes to, where there is one."""

    unit: Unit
    help: str
    below: float | None = None


METRICS: dict[str, Measure] = {
    "cpu_usage_ratio": Measure("ratio", "Processor time in use, of what the machine or its cgroup has.", below=1),
    "memory_usage_bytes": Measure("bytes", "Memory of the instance and its jobs."),
    "disk_usage_ratio": Measure("ratio", "Used part of the disk that downloads are written to.", below=1),
    "network_bytes_per_second": Measure("bytes per second", "What the machine receives and sends."),
    "database_connections_ratio": Measure("ratio", "Connections to PostgreSQL, of those it allows.", below=1),
    "active_workers_ratio": Measure("ratio", "Downloads that run, of those that may run at once.", below=1),
    # Longer times than the last bound of the buckets are not told apart.
    "response_time_p95_seconds": Measure(
        "seconds", "Time within which 95 of 100 requests are answered.", below=metrics.HTTP_SECONDS[-1]
    ),
    "error_ratio": Measure("ratio", "Requests that are answered with a fault of the service, of all.", below=1),
    "active_downloads": Measure("downloads", "Downloads that run."),
    "queue_length": Measure("jobs", "Jobs that wait."),
}


class NewThreshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Above `warning` for `for_seconds` is a warning, above `critical` is critical. Without either, nothing is. They
    must be less than the figure can come to: below 1 for a ratio, below 5 for the time of requests."""

    warning: Limit | None = None
    critical: Limit | None = None
    for_seconds: Hold = 300


class Threshold(msgspec.Struct, frozen=True):
    """`set_by_name` is the admin's name now; what is not set is null."""

    metric_name: str
    unit: Unit
    help: str
    warning: float | None
    critical: float | None
    for_seconds: Hold | None
    set_by: UUID | None
    set_by_name: str | None
    set_at: Moment | None


class ThresholdList(msgspec.Struct, frozen=True):
    items: list[Threshold]


class Thresholds:
    def __init__(self, db: DB, events: Events, *, interval: float) -> None:
        self._db = db
        self._events = events
        self._interval = interval
        self._told: set[tuple[str, str, str]] = set()
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        events.hear("thresholds", lambda _: self._woken.set())

    async def start(self) -> None:
        self._woken.set()
        self._tasks.append(asyncio.create_task(loops.repeat("thresholds", 0.0, self._round), name="thresholds"))

    async def stop(self) -> None:
        await loops.stop(self._tasks)
        self._tell(())

    async def all(self) -> ThresholdList:
        """Of every figure, set or not."""
        rows = {row["metric"]: row for row in await self._db.many(q.every)}
        return ThresholdList([_view(name, rows.get(name)) for name in METRICS])

    async def set(self, metric: str, new: NewThreshold, *, user_id: UUID) -> Threshold:
        """Raises `errors.NotFound` for a metric that is none of `METRICS`, and `errors.Invalid`."""
        if metric not in METRICS:
            raise errors.NotFound(f"There is no such metric; these have thresholds: {', '.join(METRICS)}.")
        _check(metric, new)
        async with self._db.transaction() as tx:
            if new.warning is None and new.critical is None:
                if await tx.exec(q.unset, metric=metric):
                    await audit.record(tx, "sensitive_delete", object=("threshold", metric))
            else:
                await tx.exec(
                    q.set, metric=metric, warning=new.warning, critical=new.critical, for_seconds=new.for_seconds,
                    user_id=user_id,
                )  # fmt: skip
                await audit.record(
                    tx, "sensitive_update", object=("threshold", metric), warning=new.warning, critical=new.critical,
                    for_seconds=new.for_seconds,
                )  # fmt: skip
            rows = await tx.many(q.every)
        self._tell(rows)
        # Read again by this process too: a round that was reading meanwhile may tell what was before.
        await self._events.tell("thresholds", metric)
        return _view(metric, next((row for row in rows if row["metric"] == metric), None))

    async def _round(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self._woken.wait()
        self._woken.clear()
        self._tell(await self._db.many(q.every))

    def _tell(self, rows: Iterable[Row]) -> None:
        """Has the series of these thresholds and of no others."""
        wanted = {labels: value for row in rows if row["metric"] in METRICS for labels, value in _series(row)}
        for labels in self._told - wanted.keys():
            metrics.threshold_value.remove(*labels)
        for labels, value in wanted.items():
            metrics.threshold_value.labels(*labels).set(value)
        self._told = set(wanted)


def _series(row: Row) -> Iterable[tuple[tuple[str, str, str], float]]:
    for severity in ("warning", "critical"):
        if row[severity] is not None:
            yield (row["metric"], severity, str(row["for_seconds"])), row[severity]


def _check(metric: str, new: NewThreshold) -> None:
    for field in ("warning", "critical"):
        value = getattr(new, field)
        below = METRICS[metric].below
        if value is not None and below is not None and value >= below:
            raise errors.invalid(field, f"must be below {below:g}, as the figure never comes above that")
    if new.warning is not None and new.critical is not None and new.warning > new.critical:
        raise errors.invalid("warning", "must not be above critical")


def _view(metric: str, row: Row | None) -> Threshold:
    measure = METRICS[metric]
    values = {} if row is None else {name: value for name, value in row.items() if name != "metric"}
    unset = dict.fromkeys(("warning", "critical", "for_seconds", "set_by", "set_by_name", "set_at"))
    return Threshold(metric, measure.unit, measure.help, **unset | values)
