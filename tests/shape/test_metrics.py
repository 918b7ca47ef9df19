"""The catalogue of metrics: names with units, nothing declared in vain, nothing used that is not declared."""

import re

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from tests.shape.source import attributes_of
from ytdl import metrics

DECLARED = {name: m for name, m in vars(metrics).items() if isinstance(m, MetricWrapperBase)}
USED = {name for module, names in attributes_of("metrics").items() if module != "ytdl.metrics" for name in names}
FORBIDDEN_LABELS = {"user", "user_id", "url", "video", "path", "ip", "error", "id"}


def _name(metric: MetricWrapperBase) -> str:
    return next(iter(metric.describe())).name


@pytest.mark.parametrize("variable", DECLARED)
def test_a_metric_is_named_by_the_rules(variable: str) -> None:
    metric = DECLARED[variable]
    name = _name(metric)
    assert re.fullmatch(r"ytdl_[a-z]+_[a-z_]+", name)
    # So that a search for one finds the other.
    assert name.startswith(f"ytdl_{variable}")
    if isinstance(metric, Histogram):
        assert name.endswith(("_seconds", "_bytes"))
    if isinstance(metric, Counter):
        assert not name.endswith("_count")
    if isinstance(metric, Gauge):
        assert not name.endswith(("_total", "_count"))
    assert "milli" not in name and "_ms" not in name


@pytest.mark.parametrize("variable", DECLARED)
def test_a_metric_is_explained_and_its_labels_are_bounded(variable: str) -> None:
    metric = DECLARED[variable]
    [described] = metric.describe()
    assert described.documentation.endswith(".")
    assert not set(metric._labelnames) & FORBIDDEN_LABELS


def test_every_metric_is_used() -> None:
    assert sorted(DECLARED.keys() - USED) == []


def test_every_metric_in_use_is_declared() -> None:
    assert sorted(name for name in USED if not hasattr(metrics, name)) == []
