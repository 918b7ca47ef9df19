"""The metrics of the service as admins ask for them: what they read now, their course over time, and figures of it.

The course comes from Prometheus and is of all processes that it watches; what is read now is this process's. An answer
says which expression it is the answer to. Nothing of a request goes into one but the names of known metrics and labels,
and values as quoted texts.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ytdl import errors, readings
from ytdl.prometheus import MAX_POINTS, MAX_SERIES, NOT_ONE, Prometheus, Series, TooLong, TooMuch, quoted
from ytdl.readings import About, Metric, MetricList
from ytdl.record import Moment

LONGEST_WINDOW = timedelta(days=366)
# Prometheus knows nothing below milliseconds, and is asked for something every second at most.
SHORTEST_WINDOW = timedelta(seconds=1)
# What the service is called in prometheus/prometheus.yml, and what Prometheus adds to each series.
JOB = "ytdl"
TARGET = ("instance", "job")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# A histogram knows its observations by bucket only: these two come to the bounds of the first and last that has any.
BOUNDS = {"min": 1e-9, "max": 1.0}
# So many points where nothing is said about the step.
USUAL_POINTS = 250
# A rate is taken over this many scrapes, so that one may be missed.
SCRAPES = 4
Label = Annotated[str, Meta(max_length=64)]
By = Annotated[list[Label], Meta(max_length=10)]
Where = Annotated[list[Annotated[str, Meta(max_length=300)]], Meta(max_length=10)]
Of = Literal["values", "rate per second", "observations"]


class StatsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """`from` is an hour before `to` and `to` is now where they are left out. `by` are the labels to keep: without it
    each of the metric's, and of a histogram none; of a gauge `instance` in any case. Where these come to more series
    than are read, the answer has those with the most of it. `where` are labels with a value, as `status=500`."""

    from_: Moment | None = None
    to: Moment | None = None
    by: By = []
    where: Where = []


class CourseQuery(StatsQuery, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """With any of them the answer has the course of the metric. `step` is in seconds."""

    step: Annotated[int, Meta(ge=1, le=366 * 86_400)] | None = None


class Line(msgspec.Struct, frozen=True):
    """A series: pairs of seconds since 1970 and a value. One that is no number is null."""

    labels: dict[str, str]
    points: list[tuple[float, float | None]]


class Course(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """Of a counter the `rate per second`, of a histogram quantiles of its `observations`; `expression` says exactly
    what was asked of Prometheus."""

    of: Of
    expression: str
    from_: Moment
    to: Moment
    step_seconds: float
    series: list[Line]


class Now(Metric, frozen=True):
    """`samples` are this process's now; `course` is of all processes, and null where none was asked for."""

    course: Course | None


class Figures(msgspec.Struct, frozen=True):
    """Over the whole window; null where there was nothing in it."""

    labels: dict[str, str]
    min: float | None
    max: float | None
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class MetricStats(About, frozen=True, rename={"from_": "from"}):
    """`of` says what they are figures of: the `values` of a gauge at every step, the `rate per second` of a counter at
    every step, or a histogram's `observations`, for which `min` and `max` are bounds of its buckets."""

    of: Of
    expression: str
    from_: Moment
    to: Moment
    series: list[Figures]


class Monitoring:
    """`interval` is how many seconds lie between two scrapes."""

    def __init__(self, prometheus: Prometheus, *, interval: float) -> None:
        self._prometheus = prometheus
        self._interval = interval

    async def metrics(self) -> MetricList:
        return MetricList(await asyncio.to_thread(readings.all_metrics))

    async def metric(self, name: str, query: CourseQuery) -> Now:
        """Raises `errors.NotFound`, and for a course `errors.Invalid` and `errors.Unavailable`."""
        found = await _find(name)
        course = None if query == CourseQuery() else await self._course(found, query)
        return Now(**msgspec.structs.asdict(found), course=course)

    async def _course(self, metric: Metric, query: CourseQuery) -> Course:
        since, until = window(query.from_, query.to, usual=timedelta(hours=1))
        step = self._step(since, until, query.step)
        expression, found = await self._asked(metric, query, since, until, step)
        lines = await asyncio.to_thread(_lines, found)
        return Course(_of(metric), expression, since, until, step, lines)

    async def stats(self, name: str, query: StatsQuery) -> MetricStats:
        """Raises `errors.NotFound`, `errors.Invalid` and `errors.Unavailable`."""
        metric = await _find(name)
        since, until = window(query.from_, query.to, usual=timedelta(hours=1))
        if metric.type == "histogram":
            labels, matchers = _labels(metric, query.by), _matchers(metric, query.where)
            expression = _distribution(metric.name, labels, matchers, until - since)
            figures = _put_together(await self._once(expression, until))
        else:
            step = self._step(since, until, None, points=MAX_POINTS)
            expression, found = await self._asked(metric, query, since, until, step)
            figures = await asyncio.to_thread(_all_figures, found)
        about = {name: getattr(metric, name) for name in About.__struct_fields__}
        return MetricStats(**about, of=_of(metric), expression=expression, from_=since, to=until, series=figures)

    def _step(self, since: datetime, until: datetime, wanted: int | None, *, points: int = USUAL_POINTS) -> float:
        """Seconds. One that is chosen here is never shorter than what is scraped."""
        seconds = (until - since).total_seconds()
        if wanted is None:
            return max(self._interval, math.ceil(seconds / (points - 1)))
        least = math.ceil(seconds / (MAX_POINTS - 1))
        if wanted < least:
            raise errors.invalid("step", f"must be at least {least}, as no more than {MAX_POINTS} points are read")
        return wanted

    def _expression(self, metric: Metric, labels: Sequence[str], matchers: str, step: float) -> str:
        over = _duration(max(SCRAPES * self._interval, step))
        by = ", ".join(labels)
        if metric.type == "counter":
            return f"sum by ({by}) (rate({metric.name}{matchers}[{over}]))"
        if metric.type == "gauge":
            return f"{_together(metric)} by ({by}) ({metric.name}{matchers})"
        buckets = f"sum by ({', '.join([*labels, 'le'])}) (rate({metric.name}_bucket{matchers}[{over}]))"
        return _named("quantile", {str(q): f"histogram_quantile({q}, {buckets})" for q in QUANTILES.values()})

    async def _asked(
        self, metric: Metric, query: StatsQuery, since: datetime, until: datetime, step: float
    ) -> tuple[str, list[Series]]:
        """With the expression that it is the answer to. Only who chose labels is told to choose fewer."""
        labels, matchers = _labels(metric, query.by), _matchers(metric, query.where)
        expression = self._expression(metric, labels, matchers, step)
        with _refusing():
            try:
                return expression, await self._prometheus.query_range(expression, since, until, step)
            except TooLong:
                raise
            except TooMuch:
                if query.by or metric.type == "histogram":
                    raise
            expression += f" and {_greatest(metric, labels, matchers, until - since)}"
            return expression, await self._prometheus.query_range(expression, since, until, step)

    async def _once(self, expression: str, at: datetime) -> list[Series]:
        with _refusing():
            return await self._prometheus.query(expression, at, most=MAX_SERIES * len(Figures.__struct_fields__))


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except TooLong as e:
        raise errors.invalid("from", f"is too early: the answer {e}") from None
    except TooMuch as e:
        raise errors.invalid("by", f"{e}; `by` and `where` say which") from None


def window(since: datetime | None, until: datetime | None, *, usual: timedelta) -> tuple[datetime, datetime]:
    """Raises `errors.Invalid`."""
    until = until or datetime.now(UTC)
    try:
        since = since or until - usual
    except OverflowError:
        raise errors.invalid("to", "is too near to the first moment there is") from None
    if since >= until:
        raise errors.invalid("from", "must be before to")
    if until - since < SHORTEST_WINDOW:
        raise errors.invalid("from", f"must be at least {SHORTEST_WINDOW.seconds} second before to")
    if until - since > LONGEST_WINDOW:
        raise errors.invalid("from", f"must be at most {LONGEST_WINDOW.days} days before to")
    return since, until


async def _find(name: str) -> Metric:
    found = await asyncio.to_thread(readings.find, name)
    if found is None:
        raise errors.NotFound("There is no metric of that name; GET /api/v1/monitoring/metrics lists them.")
    return found


def _labels(metric: Metric, by: Sequence[str]) -> list[str]:
    """Those that are kept. Of a gauge the instance always is: what all of them tell of one database, as what waits,
    must not be added up, and nothing says which those are."""
    known = [*metric.labels, *TARGET]
    for label in by:
        if label not in known:
            raise errors.invalid("by", f"must be of {', '.join(known)}")
    if by:
        return list(dict.fromkeys([*by, "instance"] if metric.type == "gauge" else by))
    return [] if metric.type == "histogram" else [*metric.labels, "instance"]


def _matchers(metric: Metric, where: Iterable[str]) -> str:
    known = [*metric.labels, *TARGET]
    found = []
    for text in where:
        label, equals, value = text.partition("=")
        if label not in known or not equals:
            raise errors.invalid("where", f"must be label=value, with a label of {', '.join(known)}")
        # What was read for bytes that are no text. Prometheus takes it for a broken text, even where it was meant.
        if "\ufffd" in value:
            raise errors.invalid("where", "must be in UTF-8, without the character U+FFFD")
        found.append(f"{label}={quoted(value)}")
    # Prometheus and Alertmanager have metrics of these names too.
    if not metric.name.startswith("ytdl_") and not any(text.startswith("job=") for text in found):
        found.append(f"job={quoted(JOB)}")
    return f"{{{', '.join(found)}}}" if found else ""


def _greatest(metric: Metric, labels: Sequence[str], matchers: str, length: timedelta) -> str:
    """As many series as are read: those of a counter that counted most until the end, and the highest of a gauge."""
    over = _duration(length.total_seconds())
    put, function = ("sum", "increase") if metric.type == "counter" else (_together(metric), "max_over_time")
    return f"topk({MAX_SERIES}, {put} by ({', '.join(labels)}) ({function}({metric.name}{matchers}[{over}] @ end())))"


def _of(metric: Metric) -> Of:
    of: dict[str, Of] = {"counter": "rate per second", "gauge": "values", "histogram": "observations"}
    return of[metric.type]


def _together(metric: Metric) -> str:
    """What several gauges come to: moments and ratios cannot be added up."""
    return "max" if metric.unit in ("seconds since 1970", "ratio") else "sum"


def _distribution(name: str, labels: Sequence[str], matchers: str, length: timedelta) -> str:
    over = _duration(length.total_seconds())
    by = ", ".join(labels)
    buckets = f"sum by ({', '.join([*labels, 'le'])}) (increase({name}_bucket{matchers}[{over}]))"
    mean = " / ".join(f"sum by ({by}) (increase({name}_{end}{matchers}[{over}]))" for end in ("sum", "count"))
    wanted = {stat: f"histogram_quantile({q}, {buckets})" for stat, q in (BOUNDS | QUANTILES).items()}
    return _named("stat", wanted | {"mean": mean})


def _named(label: str, expressions: dict[str, str]) -> str:
    """Several expressions as one, the series of each with its name in a label."""
    parts = (f'label_replace({what}, "{label}", "{name}", "", "")' for name, what in expressions.items())
    return " or ".join(parts)


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(found: list[Series]) -> list[Line]:
    return [Line(series.labels, [(at, _number(value)) for at, value in series.points]) for series in found]


def _put_together(found: list[Series]) -> list[Figures]:
    """What Prometheus worked out, a figure a series, by label set."""
    rows: dict[frozenset[tuple[str, str]], dict[str, float | None]] = {}
    for series in found:
        labels = dict(series.labels)
        stat = labels.pop("stat", "")
        if not stat:
            # Each expression that is asked gives its series one.
            raise errors.Unavailable(NOT_ONE)
        rows.setdefault(frozenset(labels.items()), {})[stat] = _number(series.points[0][1])
    names = [name for name in Figures.__struct_fields__ if name != "labels"]
    return [Figures(dict(labels), **{name: row.get(name) for name in names}) for labels, row in rows.items()]


def _all_figures(found: list[Series]) -> list[Figures]:
    return [_figures(series) for series in found]


def _figures(series: Series) -> Figures:
    values = sorted(value for _, value in series.points if math.isfinite(value))
    if not values:
        return Figures(series.labels, None, None, None, None, None, None)
    between = {name: _quantile(values, q) for name, q in QUANTILES.items()}
    return Figures(series.labels, values[0], values[-1], math.fsum(values) / len(values), **between)


def _quantile(values: list[float], q: float) -> float:
    """Between the two nearest values, in proportion, as Prometheus does it."""
    rank = q * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (rank - low)
