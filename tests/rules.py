"""The project's rules for Prometheus, read for tests: alerts and recorded series, and what each may ask for.

A series is ours (declared in `ytdl.metrics`), recorded by a rule, or of the programs that stand around the service;
of those only what is listed here is used, and a test holds the list against the programs.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from tests import promql
from tests.instance import ROOT
from tests.promql import Node, Selector
from ytdl import app, metrics

assert app  # the features make the values of some labels when they are loaded
FILES = sorted((ROOT / "prometheus/rules").glob("*.yml"))
TESTS = sorted((ROOT / "prometheus/tests").glob("*.yml"))
# What a scrape adds to every series.
TARGET = frozenset({"job", "instance"})
# How often the rules expect a scrape; a window has four of them, so that it is never empty by chance.
SCRAPE_SECONDS = 15.0
DASHBOARDS = frozenset(
    f"ytdl-{name}"
    for name in ("overview", "downloads", "queue", "fetcher", "http", "security", "analytics", "servers", "system")
)


@dataclass(frozen=True)
class Known:
    """`kind` is counter, gauge or histogram; `exists` is false for what is there only after something was set."""

    kind: str
    labels: frozenset[str]
    exists: bool = True


def _of(kind: str, *labels: str) -> Known:
    return Known(kind, TARGET | set(labels))


# Series of Prometheus, of Alertmanager and of every process that uses Prometheus' library for Python.
FOREIGN = {
    "up": _of("gauge"),
    "scrape_duration_seconds": _of("gauge"),
    "scrape_samples_scraped": _of("gauge"),
    "ALERTS": Known("gauge", TARGET | {"alertname", "alertstate", "severity"}),
    "process_start_time_seconds": _of("gauge"),
    "process_resident_memory_bytes": _of("gauge"),
    "process_cpu_seconds_total": _of("counter"),
    "process_open_fds": _of("gauge"),
    "process_max_fds": _of("gauge"),
    "python_gc_collections_total": _of("counter", "generation"),
    "prometheus_config_last_reload_successful": _of("gauge"),
    "prometheus_notifications_alertmanagers_discovered": _of("gauge"),
    "prometheus_notifications_dropped_total": _of("counter"),
    "prometheus_notifications_errors_total": _of("counter", "alertmanager"),
    "prometheus_rule_evaluation_failures_total": _of("counter", "rule_group"),
    "prometheus_tsdb_compactions_failed_total": _of("counter"),
    "prometheus_tsdb_wal_corruptions_total": _of("counter"),
    "prometheus_tsdb_wal_writes_failed_total": _of("counter"),
    "alertmanager_config_last_reload_successful": _of("gauge"),
    "alertmanager_notifications_total": _of("counter", "integration"),
    "alertmanager_notifications_failed_total": _of("counter", "integration"),
}
# Ours, but told only while there is something to tell; a rule that finds nothing there is right.
SOMETIMES = frozenset({"ytdl_threshold_value", "ytdl_alerts_unacknowledged_timestamp_seconds"})


@dataclass(frozen=True)
class Rule:
    """`name` is the alert's or the recorded series'; `node` is the expression as a tree."""

    file: Path
    group: str
    name: str
    alert: bool
    expression: str
    node: Node
    labels: dict[str, str]
    annotations: dict[str, str]
    holds: str

    def __str__(self) -> str:
        extra = "-".join(self.labels.values())
        return f"{self.file.stem}:{self.name}" + (f"-{extra}" if extra else "")


def rules_of(file: Path) -> list[Rule]:
    groups = yaml.safe_load(file.read_text())["groups"]
    return [_rule(file, group["name"], one) for group in groups for one in group["rules"]]


def _rule(file: Path, group: str, one: dict[str, Any]) -> Rule:
    expression = str(one["expr"])
    return Rule(
        file=file,
        group=group,
        name=one.get("alert") or one["record"],
        alert="alert" in one,
        expression=expression,
        node=promql.parse(expression),
        labels=one.get("labels", {}),
        annotations=one.get("annotations", {}),
        holds=one.get("for", "0s"),
    )


RULES = [rule for file in FILES for rule in rules_of(file)]
ALERTS = [rule for rule in RULES if rule.alert]
RECORDED: dict[str, list[Rule]] = {}
for recording in RULES:
    if not recording.alert:
        RECORDED.setdefault(recording.name, []).append(recording)


def series_names(metric: MetricWrapperBase) -> list[str]:
    name = next(iter(metric.describe())).name
    if isinstance(metric, Counter):
        return [f"{name}_total"]
    return [f"{name}_{end}" for end in ("bucket", "sum", "count")] if isinstance(metric, Histogram) else [name]


def _declared(metric: MetricWrapperBase, series: str) -> Known:
    kind = "counter" if isinstance(metric, Counter) else "histogram" if isinstance(metric, Histogram) else "gauge"
    labels = TARGET.union(metric._labelnames, {"le"} if series.endswith("_bucket") else ())
    return Known(kind, labels, series not in SOMETIMES)


DECLARED = {
    name: _declared(metric, name) for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)
    for name in series_names(metric)
}  # fmt: skip


@functools.cache
def known(name: str) -> Known | None:
    """What is known of a series, of whatever origin; None for one that nobody has."""
    if name in RECORDED:
        found = [promql.labels_of(rule.node, labels_of_series) or frozenset() for rule in RECORDED[name]]
        return Known("recorded", frozenset.intersection(*found) | set(RECORDED[name][0].labels))
    return DECLARED.get(name) or FOREIGN.get(name)


def labels_of_series(selector: Selector) -> frozenset[str]:
    found = known(selector.name)
    assert found, f"nobody has {selector.name}"
    return found.labels


def labels_of(rule: Rule) -> frozenset[str]:
    """Those of what an alert's or a recording rule's expression results in, without the rule's own."""
    return promql.labels_of(rule.node, labels_of_series) or frozenset()


@functools.cache
def unit_tests() -> list[dict[str, Any]]:
    """All of promtool's."""
    return [test for file in TESTS for test in yaml.load(file.read_text(), yaml.CSafeLoader)["tests"]]


PAGE = ROOT / "docs/MONITORING.md"
MARKS = ("<!-- Made by `python -m tests.rules` from prometheus/rules. -->", "<!-- The end of that. -->")


def table() -> str:
    """All alerts, for docs/MONITORING.md: those of one name in one row."""
    rows = ["| alert | severity | what it says |", "| --- | --- | --- |"]
    for file in FILES:
        named: dict[str, list[Rule]] = {}
        for rule in (rule for rule in ALERTS if rule.file == file):
            named.setdefault(rule.name, []).append(rule)
        rows += [_row(name, rules) for name, rules in named.items()]
    return "\n".join(rows)


def _row(name: str, rules: list[Rule]) -> str:
    severities = ", ".join(dict.fromkeys(rule.labels["severity"] for rule in rules))
    said = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", rules[-1].annotations["summary"])
    return f"| [{name}](runbooks/{rules[0].file.stem}.md#{name.lower()}) | {severities} | {said} |"


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
