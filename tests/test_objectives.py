"""The rules of objectives, thresholds and watching say what they are meant to, in each of their many copies."""

import asyncio
import contextlib
import re
from collections.abc import Collection
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import promql
from tests.instance import ROOT
from tests.rules import ALERTS, FOREIGN, RECORDED, RULES, TARGET, Rule
from tests.watching import alertmanager, needs_alertmanager, needs_prometheus, prometheus
from ytdl.routes import ROUTES
from ytdl.thresholds import METRICS

OBJECTIVES = {"availability", "latency", "freshness", "success", "notifications"}
WINDOWS = ("30m", "1h", "2h", "6h", "1d", "3d")
BURNING = [rule for rule in ALERTS if rule.file.stem == "objectives"]
# Those that Prometheus makes itself, with or about what it scrapes.
MADE_BY_SCRAPES = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS"}


def left_out() -> set[str]:
    """The patterns by which rules leave routes out."""
    asked = [selector for rule in RULES for selector in promql.selectors(rule.node)]
    return {m.value for selector in asked for m in selector.matchers if (m.label, m.how) == ("route", "!~")}


def test_there_are_few_notions_of_what_counts() -> None:
    """Of all requests, of the simple ones, and of those that a figure for admins is about."""
    assert len(left_out()) == 3


def test_simple_routes_are_what_is_left() -> None:
    [pattern] = {pattern for pattern in left_out() if "login" in pattern}
    slow = {
        row.path for row in ROUTES if re.fullmatch(pattern, row.full_path) and not row.path.startswith("/monitoring/")
    }
    assert slow == {
        "/healthz", "/readyz", "/metrics", "/auth/login", "/auth/register", "/auth/change-password", "/security/token",
        "/security/report", "/security/stats",
    }  # fmt: skip
    assert re.fullmatch(pattern, "/api/v1/monitoring/report") and not re.fullmatch(pattern, "/api/v1/downloads/{id}")


def test_every_objective_is_recorded_and_has_its_alerts() -> None:
    for name in ("ytdl:objective:target", "ytdl:objective_events:rate5m", "ytdl:objective_failures:rate5m"):
        assert {rule.labels["objective"] for rule in RECORDED[name]} == OBJECTIVES
    told = {(rule.name, rule.labels["severity"]) for rule in BURNING}
    assert told == {(f"{o.title()}BudgetBurn", severity) for o in OBJECTIVES for severity in ("critical", "warning")}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_longer_window_is_recorded_as_the_shortest_is(window: str) -> None:
    for name in ("ytdl:objective_events:rate", "ytdl:objective_failures:rate"):
        [rule] = RECORDED[name + window]
        assert rule.expression == f"avg_over_time({name}5m[{window}])"
    for name in ("ytdl:objective_errors:ratio_rate", "ytdl:objective_errors:burn_rate"):
        [long], [short] = RECORDED[name + window], RECORDED[name + "5m"]
        assert long.expression == re.sub(r"rate5m\b", f"rate{window}", short.expression)


@pytest.mark.parametrize("rule", BURNING, ids=str)
def test_objectives_are_judged_alike(rule: Rule) -> None:
    """Long and short window with one bound, and so many failures in the long one."""
    bounds = {"critical": [("1h", "5m", "14.4"), ("6h", "30m", "6")], "warning": [("1d", "2h", "3"), ("3d", "6h", "1")]}
    objective = rule.name.removesuffix("BudgetBurn").lower()
    pairs = [
        f'( ytdl:objective_errors:burn_rate{long}{{objective="{objective}"}} > {bound} '
        f'and ytdl:objective_errors:burn_rate{short}{{objective="{objective}"}} > {bound} '
        f'and sum_over_time(ytdl:objective_failures:rate5m{{objective="{objective}"}}[{long}:1m]) * 60 > 10 )'
        for long, short, bound in bounds[rule.labels["severity"]]
    ]
    assert rule.expression.split() == " or ".join(pairs).split()


def test_the_page_says_what_was_promised() -> None:
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) % \|", (ROOT / "docs/MONITORING.md").read_text(), re.MULTILINE))
    promised = {r.labels["objective"]: r.expression[len("vector(") : -1] for r in RECORDED["ytdl:objective:target"]}
    assert {name: float(said[name]) for name in OBJECTIVES} == {
        name: pytest.approx(float(promised[name]) * 100) for name in OBJECTIVES
    }


def test_every_figure_that_may_have_a_threshold_is_recorded() -> None:
    assert [rule.labels["metric"] for rule in RECORDED["ytdl:measure"]] == list(METRICS)


def test_every_time_that_may_be_chosen_has_its_two_alerts() -> None:
    alerts = [rule for rule in ALERTS if rule.file.stem == "thresholds"]
    told = {
        (rule.name.removeprefix("Threshold").lower(), rule.labels["hold"], promql.seconds(rule.holds))
        for rule in alerts
    }
    assert told == {(s, str(h), h) for s in ("warning", "critical") for h in (0, 60, 300, 900, 3600)}
    for rule in alerts:
        asked = {m.label: m.value for m in promql.selectors(rule.node)[1].matchers}
        assert asked == rule.labels


@needs_prometheus
@needs_alertmanager
async def test_a_series_of_prometheus_or_alertmanager_exists(tmp_path: Path) -> None:
    """With a rule and an Alertmanager to be counted by; ours tell some of the same, being Python programs."""
    asked = {name: known for name, known in FOREIGN.items() if name not in MADE_BY_SCRAPES and "python" not in name}
    (tmp_path / "a.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    async with alertmanager(tmp_path / "a", tmp_path / "a.yml") as receiver:
        told = [{"static_configs": [{"targets": [receiver.url.removeprefix("http://")]}]}]
        rules = [str(ROOT / "prometheus/rules/monitoring.yml")]
        config = {"global": {"evaluation_interval": "1s"}, "rule_files": rules, "alerting": {"alertmanagers": told}}
        async with prometheus(tmp_path / "p", config) as watcher:
            found = await _all_labels(asked.keys(), watcher.url, receiver.url)
    assert {name: found.get(name) for name in asked} == {name: known.labels - TARGET for name, known in asked.items()}


async def _all_labels(names: Collection[str], *urls: str) -> dict[str, frozenset[str]]:
    """Once they are all there, as Prometheus comes to know its Alertmanager; else what there is in the end."""
    found: dict[str, frozenset[str]] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while not found.keys() >= set(names):
                await asyncio.sleep(0.1)
                for url in urls:
                    found |= await _labels(url)
    return found


async def _labels(url: str) -> dict[str, frozenset[str]]:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return {s.name: frozenset(s.labels) for family in text_string_to_metric_families(text) for s in family.samples}
