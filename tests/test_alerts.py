"""The alert rules: what they ask for exists, each is explained and tried, and promtool takes them.

Whatever lies in prometheus/rules is held to this, with the tests in prometheus/tests and the runbook of the file's
name in docs/runbooks. Without promtool the rules are still compared with the catalogue of metrics.
"""

import asyncio
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Service, running
from tests.redises import OwnRedis
from ytdl import app, metrics
from ytdl.config import Config

ROOT = Path(__file__).parent.parent
RULES = sorted((ROOT / "prometheus/rules").glob("*.yml"))
TESTS = sorted((ROOT / "prometheus/tests").glob("*.yml"))
PROMTOOL = shutil.which("promtool") or shutil.which(str(ROOT / ".venv/bin/promtool"))
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: tests/install.sh unpacks it")
# What a scrape adds to every series.
TARGET = {"job", "instance"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
SELECTOR = re.compile(r"(ytdl_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def alerts_of(file: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for file in RULES for rule in alerts_of(file)}
every_alert = pytest.mark.parametrize("alert", ALERTS)


def series_names(metric: MetricWrapperBase) -> list[str]:
    name = next(iter(metric.describe())).name
    if isinstance(metric, Counter):
        return [f"{name}_total"]
    return [f"{name}_{end}" for end in ("bucket", "sum", "count")] if isinstance(metric, Histogram) else [name]


assert app  # the features make the values of some labels when they are loaded
DECLARED = {
    name: metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)
    for name in series_names(metric)
}  # fmt: skip
SAMPLES = [(sample.name, sample.labels) for family in metrics.REGISTRY.collect() for sample in family.samples]


def selectors(alert: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Every series that the alert's expression asks for: its name, and its matchers."""
    return [(name, MATCHER.findall(inside)) for name, inside in SELECTOR.findall(ALERTS[alert]["expr"])]


def matches(labels: dict[str, str], matchers: Iterable[tuple[str, str, str]]) -> bool:
    def one(label: str, how: str, value: str) -> bool:
        found = labels.get(label, "")
        equal = re.fullmatch(value, found) is not None if "~" in how else value == found
        return equal is (how[0] == "=")

    return all(one(*matcher) for matcher in matchers)


def alternatives(matchers: list[tuple[str, str, str]]) -> list[list[tuple[str, str, str]]]:
    """Each value of `a|b` by itself, so that none of them is there in vain."""
    return [[(label, how, one)] for label, how, value in matchers for one in value.split("|")] or [[]]


def test_there_are_rules() -> None:
    assert RULES and ALERTS
    assert sum(len(alerts_of(file)) for file in RULES) == len(ALERTS)


@every_alert
def test_an_alert_asks_only_for_metrics_and_labels_that_exist(alert: str) -> None:
    assert selectors(alert)
    for name, matchers in selectors(alert):
        assert name in DECLARED
        assert {label for label, _, _ in matchers} <= {*DECLARED[name]._labelnames, *TARGET}
        for one in alternatives(matchers):
            assert any(series == name and matches(labels, one) for series, labels in SAMPLES), (name, one)


@every_alert
def test_an_alert_asks_for_no_other_metric(alert: str) -> None:
    """A name that does not begin with ours would be taken for nothing and never be seen."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(by|without|on|ignoring)\s*\([^)]*\)', " ", ALERTS[alert]["expr"])
    names = set(re.findall(r"[A-Za-z_:][\w:]*(?![\w:]*\s*\()", bare)) - WORDS
    assert names == {name for name, _ in selectors(alert)}


@every_alert
def test_an_alert_adds_up_by_labels_that_exist(alert: str) -> None:
    grouped = re.findall(r"(?:by|without|on|ignoring)\s*\(([^)]*)\)", ALERTS[alert]["expr"])
    known = TARGET.union(*(DECLARED[name]._labelnames for name, _ in selectors(alert)))
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known


@every_alert
def test_a_missed_scrape_ends_no_alert_and_counts_are_seen_as_growth(alert: str) -> None:
    expression = ALERTS[alert]["expr"]
    for name, _ in selectors(alert):
        over = "(?:max|min|avg)_over_time" if isinstance(DECLARED[name], Gauge) else "(?:rate|increase)"
        asked = len(re.findall(rf"{name}\b", expression))
        assert len(re.findall(rf"\b{over}\({name}(?:\{{[^}}]*\}})?\[", expression)) == asked


@every_alert
def test_an_alert_says_how_bad_it_is_and_what_it_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch("([A-Z][a-z]+)+", alert)
    assert list(rule["labels"]) == ["severity"] and rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert list(rule["annotations"]) == ["summary", "description", "runbook_url"]
    assert rule["annotations"]["description"].endswith(".") and len(rule["annotations"]["summary"]) <= 60


@every_alert
def test_an_alert_names_only_labels_that_its_series_have(alert: str) -> None:
    """Where it adds up, only what it adds up by is left."""
    [grouped] = {tuple(re.findall(r"sum by \(([^)]*)\)", ALERTS[alert]["expr"]))[:1]}
    left = set(grouped[0].split(", ")) if grouped else TARGET
    text = " ".join(ALERTS[alert]["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= left
    assert re.findall(r"\{\{.*?\}\}", text) == re.findall(r"\{\{ \$labels\.\w+ \}\}", text)


@every_alert
def test_an_alert_points_to_its_section_of_a_runbook(alert: str) -> None:
    path, _, anchor = ALERTS[alert]["annotations"]["runbook_url"].partition("#")
    assert anchor == alert.lower()
    text = (ROOT / path).read_text().partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_a_runbook_has_the_alerts_of_its_file_in_their_order(file: Path) -> None:
    text = (ROOT / "docs/runbooks" / f"{file.stem}.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [rule["alert"] for rule in alerts_of(file)]


def courses() -> dict[str, list[list[bool]]]:
    """Of each alert that is tried: for each test, in the order of time, whether it fires."""
    found: dict[str, list[list[bool]]] = {}
    for test in (test for file in TESTS for test in yaml.safe_load(file.read_text())["tests"]):
        rows = test["alert_rule_test"]
        assert [int(row["eval_time"][:-1]) for row in rows] == sorted({int(row["eval_time"][:-1]) for row in rows})
        for alert in {row["alertname"] for row in rows}:
            course = [bool(row.get("exp_alerts")) for row in rows if row["alertname"] == alert]
            found.setdefault(alert, []).append(course)
    return found


def test_every_alert_is_tried_and_nothing_else() -> None:
    assert sorted(courses()) == sorted(ALERTS)


@every_alert
def test_an_alert_is_tried_before_while_and_after_it_fires_and_when_it_must_not(alert: str) -> None:
    tried = courses()[alert]
    assert any(course[0] is False and True in course and course[-1] is False for course in tried)
    assert any(True not in course for course in tried)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROMTOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_end(file: Path) -> None:
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


async def scraped(service: Service) -> list[tuple[str, dict[str, str]]]:
    async with service.client.get("/metrics") as answer:
        text = await answer.text()
    return [(s.name, s.labels) for family in text_string_to_metric_families(text) for s in family.samples]


async def test_a_service_that_has_just_started_tells_all_that_alerts_ask_for(service: Service) -> None:
    """A rate of what appears only with its first failure does not see that failure."""
    samples = await scraped(service)
    asked = [(name, one) for alert in ALERTS for name, some in selectors(alert) for one in alternatives(some)]
    assert [a for a in asked if not any(n == a[0] and matches(labels, a[1]) for n, labels in samples)] == []


async def degraded(service: Service) -> str:
    async with service.client.get("/api/v1/auth/profile") as answer:
        await answer.read()
    async with service.client.get("/metrics") as answer:
        return next(line for line in (await answer.text()).splitlines() if line.startswith("ytdl_ratelimit_degraded "))


async def test_a_service_whose_redis_dies_tells_until_it_is_back(config: Config, own_redis: OwnRedis) -> None:
    config = dataclasses.replace(config, redis_url=own_redis.url)
    async with running(config) as service:
        assert await degraded(service) == "ytdl_ratelimit_degraded 0.0"
        own_redis.kill()
        assert await degraded(service) == "ytdl_ratelimit_degraded 1.0"
        await own_redis.start()
        async with asyncio.timeout(10):
            while await degraded(service) != "ytdl_ratelimit_degraded 0.0":  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.1)
