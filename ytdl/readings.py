"""What the metrics of this process read just now, and what each of them is.

The names are those that Prometheus stores: a counter's ends in `_total`, a histogram's has no ending. Going through all
of them takes some milliseconds, so callers do it in a thread.
"""

from typing import Literal

import msgspec
from prometheus_client import Metric as Family

from ytdl import metrics

Kind = Literal["counter", "gauge", "histogram"]
# What a name ends in, the longer ones first, and the unit that says.
UNITS = {
    "_timestamp_seconds": "seconds since 1970",
    "_bytes_per_second": "bytes per second",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "ratio",
}


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """A histogram has `count`, `sum` and `buckets`, observations up to each bound, in place of `value`."""

    labels: dict[str, str]
    value: float | None = None
    count: float | None = None
    sum: float | None = None
    buckets: dict[str, float] = {}


class About(msgspec.Struct, frozen=True):
    """`unit` is empty for what is counted one by one."""

    name: str
    type: Kind
    unit: str
    help: str
    labels: list[str]


class Metric(About, frozen=True):
    """`samples` are what it reads now."""

    samples: list[Reading]


class MetricList(msgspec.Struct, frozen=True):
    items: list[Metric]


def all_metrics() -> list[Metric]:
    """Every metric of this process, by name."""
    return sorted(map(_metric, metrics.REGISTRY.collect()), key=lambda metric: metric.name)


def find(name: str) -> Metric | None:
    return next((metric for metric in all_metrics() if metric.name == name), None)


def _metric(family: Family) -> Metric:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    kind: Kind = "counter" if family.type == "counter" else "histogram" if family.type == "histogram" else "gauge"
    samples = _distributions(family) if kind == "histogram" else _values(family)
    return Metric(name, kind, _unit(family.name), family.documentation, _labels(family), samples)


def _unit(name: str) -> str:
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


_DECLARED = {declared.name.removesuffix("_total"): list(declared.labels) for declared in metrics.CATALOGUE}


def _labels(family: Family) -> list[str]:
    """Those that it is declared with; of the library's own, those that its samples have."""
    seen = {label for sample in family.samples for label in sample.labels}
    return _DECLARED[family.name] if family.name in _DECLARED else sorted(seen - {"le"})


def _values(family: Family) -> list[Reading]:
    return [Reading(s.labels, value=s.value) for s in family.samples if not s.name.endswith("_created")]


def _distributions(family: Family) -> list[Reading]:
    """A histogram's samples put together, for each of its label sets."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    buckets: dict[tuple[str, ...], dict[str, float]] = {}
    names = [label for label in _labels(family) if label != "le"]
    for sample in family.samples:
        key = tuple(sample.labels[label] for label in names)
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, {})[sample.labels["le"]] = sample.value
        else:
            found.setdefault(key, {})[sample.name.removeprefix(f"{family.name}_")] = sample.value
    return [
        Reading(dict(zip(names, key, strict=True)), count=ends["count"], sum=ends["sum"], buckets=buckets.get(key, {}))
        for key, ends in found.items()
    ]
