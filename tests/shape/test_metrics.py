"""The catalogue of metrics: names with units, nothing declared in vain, nothing used that is not declared."""

import fnmatch
import re

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from tests.shape.source import ROOT, attributes_of
from ytdl import metrics, metrics_pages

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


def test_the_catalogue_on_file_is_that_of_the_declarations() -> None:
    page = (ROOT / "docs/MONITORING.md").read_text()
    assert page == metrics_pages.into(page), "run: ytdl metrics --into docs/MONITORING.md"


def test_the_catalogue_has_every_metric_and_what_it_counts_in() -> None:
    shown = metrics_pages.markdown()
    for metric in DECLARED.values():
        name = f"{_name(metric)}_total" if isinstance(metric, Counter) else _name(metric)
        assert f"| `{name}` | {metric._type} |" in shown
    assert "| `ytdl_streams_open` | gauge | `kind` (sse websocket) |  | Open progress streams. |" in shown
    assert "| `ytdl_downloads_seconds` | histogram |  | seconds |" in shown
    assert "| `process_open_fds` | gauge |" in shown


def test_the_page_names_only_metrics_that_there_are() -> None:
    names = {_name(metric) for metric in DECLARED.values()}
    names |= {f"{_name(metric)}_total" for metric in DECLARED.values() if isinstance(metric, Counter)}
    asked = set(re.findall(r"`(ytdl_[a-z_*]+)`", (ROOT / "docs/MONITORING.md").read_text()))
    assert asked > names - {f"{_name(m)}" for m in DECLARED.values() if isinstance(m, Counter)}
    assert [name for name in asked if not fnmatch.filter(names, name)] == []


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the catalogue"):
        metrics_pages.into("# A page\n")


def test_what_an_objective_speaks_of_is_an_edge() -> None:
    assert 0.2 in metrics.HTTP_SECONDS
    assert 60.0 in metrics.WAIT_SECONDS


def test_every_metric_is_used() -> None:
    assert sorted(DECLARED.keys() - USED) == []


def test_every_metric_in_use_is_declared() -> None:
    assert sorted(name for name in USED if not hasattr(metrics, name)) == []
