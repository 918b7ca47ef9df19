"""The monitoring report of a time: what was promised and kept, what alerted, and the figures behind it.

All of it comes from Prometheus: objectives, alerts and the service's figures from what the rules in prometheus/rules
record, so where those are not loaded these parts are empty. The forms beside JSON are `monitoring_forms`'.
"""

import asyncio
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from ytdl import errors
from ytdl.monitoring import SHORTEST_WINDOW
from ytdl.prometheus import MAX_POINTS, NOT_ONE, Prometheus, Series, TooLong, TooMuch, quoted
from ytdl.record import Moment
from ytdl.thresholds import METRICS

LONGEST = timedelta(days=31)
TOP = 10
# Each start of a container may be an instance of its own, and each has its row in two tables.
INSTANCES = 50
ALERTS = 100
# More than any table has; what answers more was not asked for it.
MAX_ROWS = 1000
# For all questions together; one after the other, so that others get their turn between them.
REPORT_SECONDS = 20.0
# The rules record what came in so many seconds (rate5m): looked at less often, what came in between is not seen.
RECORDED_SECONDS = 300.0
# Probes and scrapes would hide what users get.
USERS_ROUTES = 'route!~"unmatched|/healthz|/readyz|/metrics"'
# A series of a status begins with its first answer, which no growth sees, so what failed is counted by itself.
ANSWERED = 'status!~"5.."'
_PLAIN = re.compile(r"[\w/ -]")

Form = Literal["json", "csv", "markdown"]


class MonitoringWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: Moment
    to: Moment
    format: Form = "json"


class Instance(msgspec.Struct, frozen=True):
    """`reached` is the part of the time that Prometheus could read its metrics, since it first could."""

    instance: str
    reached: float | None


class Objective(msgspec.Struct, frozen=True):
    """`kept` is the part of `events` that went well, and `budget_left` the part of the failures allowed in this time
    that is left: 1 is all of it, and below 0 more failed than `target` leaves. Null where nothing happened."""

    name: str
    target: float
    events: float
    failures: float
    kept: float | None
    budget_left: float | None


class Fired(msgspec.Struct, frozen=True):
    """`firing_seconds` are true to the distance at which was looked, `MonitoringReport.step_seconds`."""

    name: str
    severity: str
    firing_seconds: float
    firing_at_end: bool


class FigureRow(msgspec.Struct, frozen=True):
    """Of one of the figures that can have thresholds, over the whole time."""

    metric_name: str
    instance: str
    unit: str
    min: float | None
    mean: float | None
    p95: float | None
    max: float | None


class RouteRow(msgspec.Struct, frozen=True):
    """`failed` were answered with 5xx; `p95_seconds` is null for streams and files, whose time depends on who reads."""

    route: str
    requests: float
    failed: float
    p95_seconds: float | None


class MonitoringReport(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Counts are Prometheus' estimates over the time: what came in the last five minutes of it is there in part, and
    of what came before a series was first scraped nothing, so a report of some minutes says little. The ten routes
    with most requests, the ten reasons for which most attempts failed, the 50 instances that were watched longest, and
    the 100 alerts that fired longest. `dashboard_url` is empty where GRAFANA_URL is not set."""

    from_: Moment
    to: Moment
    made_at: Moment
    step_seconds: float
    dashboard_url: str
    instances: list[Instance]
    objectives: list[Objective]
    alerts: list[Fired]
    figures: list[FigureRow]
    routes: list[RouteRow]
    downloads: dict[str, float]
    failures: dict[str, float]


class Reporter:
    """`interval` is how many seconds lie between two scrapes, `grafana` its address or empty."""

    def __init__(self, prometheus: Prometheus, *, interval: float, grafana: str) -> None:
        self._prometheus = prometheus
        self._interval = interval
        self._grafana = grafana.rstrip("/")
        self._one = asyncio.Lock()

    async def report(self, wish: MonitoringWish) -> MonitoringReport:
        """One at a time. Raises `errors.Invalid` and `errors.Unavailable`."""
        if wish.from_ >= wish.to:
            raise errors.invalid("from", "must be before to")
        if wish.to - wish.from_ < SHORTEST_WINDOW:
            raise errors.invalid("from", f"must be at least {SHORTEST_WINDOW.seconds} second before to")
        if wish.to - wish.from_ > LONGEST:
            raise errors.invalid("from", f"must be at most {LONGEST.days} days before to")
        try:
            async with asyncio.timeout(REPORT_SECONDS), self._one:
                return await self._made(wish)
        except TooLong as e:
            raise errors.invalid("from", f"is too early: the answer {e}") from None
        except TooMuch:
            raise errors.Unavailable(NOT_ONE) from None
        except TimeoutError:
            raise errors.Unavailable(
                f"Prometheus needs longer than {REPORT_SECONDS:g} seconds for this; ask for a shorter time.",
                retry_after=REPORT_SECONDS,
            ) from None

    async def _made(self, wish: MonitoringWish) -> MonitoringReport:
        look = Look(self._prometheus, wish.from_, wish.to, self._interval)
        return MonitoringReport(
            from_=wish.from_,
            to=wish.to,
            made_at=datetime.now(UTC),
            step_seconds=look.step,
            dashboard_url=self._dashboard(wish),
            instances=await look.instances(),
            objectives=await look.objectives(),
            alerts=await look.alerts(),
            figures=await look.figures(),
            routes=await look.routes(),
            downloads=await look.counted("status", "ytdl_downloads_finished_total"),
            failures=await look.counted("reason", "ytdl_downloads_failed_total"),
        )

    def _dashboard(self, wish: MonitoringWish) -> str:
        if not self._grafana:
            return ""
        first, last = (round(at.timestamp() * 1000) for at in (wish.from_, wish.to))
        return f"{self._grafana}/d/ytdl-overview?from={first}&to={last}"


class Look:
    """The questions for one report. What was recorded is looked at every `step` seconds: a thousand times, or as often
    as it takes to miss nothing."""

    def __init__(self, prometheus: Prometheus, since: datetime, until: datetime, interval: float) -> None:
        self._prometheus = prometheus
        self._until = until
        seconds = (until - since).total_seconds()
        self.step = max(interval, min(math.ceil(seconds / MAX_POINTS), RECORDED_SECONDS))
        self._over = f"[{round(seconds * 1000)}ms]"
        self._often = f"[{round(seconds * 1000)}ms:{round(self.step * 1000)}ms]"

    async def instances(self) -> list[Instance]:
        up = f'up{{job="ytdl"}}{self._over}'
        found = await self._ask(f"avg_over_time({up}) and topk({INSTANCES}, count_over_time({up}))")
        return sorted((Instance(s.labels.get("instance", ""), _value(s)) for s in found), key=lambda i: i.instance)

    async def objectives(self) -> list[Objective]:
        targets = await self._by("objective", f"max by (objective) (last_over_time(ytdl:objective:target{self._over}))")
        sums = [
            await self._by("objective", self._sum(f"sum by (objective) (ytdl:objective_{what}:rate5m)"))
            for what in ("events", "failures")
        ]
        return [_objective(name, target, *(found.get(name, 0.0) for found in sums)) for name, target in targets.items()]

    async def alerts(self) -> list[Fired]:
        firing = 'count by (alertname, severity) (ALERTS{alertstate="firing", alertname!="Watchdog"})'
        now = {_alert(series) for series in await self._ask(f"topk({MAX_ROWS}, {firing})")}
        long = await self._ask(f"topk({ALERTS}, count_over_time(({firing}){self._often}) * {self.step:g})")
        found = [Fired(*_alert(series), _value(series) or 0.0, _alert(series) in now) for series in long]
        return sorted(found, key=lambda fired: (-fired.firing_seconds, fired.name))

    async def figures(self) -> list[FigureRow]:
        stats = {
            "min": "min_over_time(", "mean": "avg_over_time(", "p95": "quantile_over_time(0.95, ",
            "max": "max_over_time(",
        }  # fmt: skip
        measure = f"ytdl:measure{self._over}"
        these = f"topk({INSTANCES}, sum by (instance) (count_over_time({measure})))"
        rows: dict[tuple[str, str], dict[str, float | None]] = {}
        for stat, function in stats.items():
            for series in await self._ask(f"{function}{measure}) and on (instance) {these}"):
                key = (series.labels.get("metric", ""), series.labels.get("instance", ""))
                rows.setdefault(key, {})[stat] = _value(series)
        order = list(METRICS)
        known = sorted((key for key in rows if key[0] in METRICS), key=lambda key: (order.index(key[0]), key[1]))
        return [
            FigureRow(metric, instance, METRICS[metric].unit, *(rows[metric, instance].get(stat) for stat in stats))
            for metric, instance in known
        ]

    async def routes(self) -> list[RouteRow]:
        answered = f"increase(ytdl_http_requests_total{{{USERS_ROUTES}, {ANSWERED}}}{self._over})"
        failures = f"increase(ytdl_http_failures_total{{{USERS_ROUTES}%s}}{self._over})"
        # No two of them have the same labels, so `or` leaves out none.
        requests = await self._by("route", f"topk({TOP}, sum by (route) ({answered} or {failures % ''}) > 0)")
        if not requests:
            return []
        # The names are Prometheus' own labels; they are quoted like anybody's text all the same.
        these = f", route=~{quoted('|'.join(map(_literally, requests)))}"
        failed = await self._by("route", f"sum by (route) ({failures % these})")
        buckets = f"increase(ytdl_http_request_seconds_bucket{{{USERS_ROUTES}{these}}}{self._over})"
        slow = await self._by("route", f"histogram_quantile(0.95, sum by (route, le) ({buckets}))")
        rows = [RouteRow(route, n, failed.get(route, 0.0), slow.get(route)) for route, n in requests.items()]
        return sorted(rows, key=lambda row: (-row.requests, row.route))

    async def counted(self, label: str, counter: str) -> dict[str, float]:
        """The largest first; those that did not happen are left out."""
        found = await self._by(label, f"topk({TOP}, sum by ({label}) (increase({counter}{self._over})) > 0)")
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _sum(self, rate: str) -> str:
        """How many it comes to over the time, of what is recorded as a rate per second."""
        return f"sum_over_time(({rate}){self._often}) * {self.step:g}"

    async def _by(self, label: str, expression: str) -> dict[str, float]:
        found = ((series.labels.get(label, ""), _value(series)) for series in await self._ask(expression))
        return {name: value for name, value in found if value is not None}

    async def _ask(self, expression: str) -> list[Series]:
        return await self._prometheus.query(expression, self._until, most=MAX_ROWS)


def _objective(name: str, target: float, events: float, failures: float) -> Objective:
    if events <= 0:
        return Objective(name, target, 0.0, 0.0, None, None)
    allowed = events * (1 - target)
    left = 1 - failures / allowed if allowed > 0 else None
    return Objective(name, target, _rounded(events), _rounded(failures), _rounded(1 - failures / events), left)


def _alert(series: Series) -> tuple[str, str]:
    return series.labels.get("alertname", ""), series.labels.get("severity", "")


def _value(series: Series) -> float | None:
    value = series.points[0][1]
    return _rounded(value) if math.isfinite(value) else None


def _rounded(value: float) -> float:
    """What is beyond the sixth digit of an estimate says nothing."""
    return round(value, 6)


def _literally(text: str) -> str:
    """As a regular expression that is met by this text alone."""
    return "".join(c if _PLAIN.fullmatch(c) else f"\\x{{{ord(c):x}}}" for c in text)
