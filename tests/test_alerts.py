"""The rules: what they ask for exists, each alert is explained and tried, and promtool takes them.

Whatever lies in prometheus/rules is held to this, with the tests in prometheus/tests and the runbook of the file's
name in docs/runbooks. Without promtool the rules are still compared with the catalogue of metrics.
"""

import asyncio
import dataclasses
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import promql
from tests.conftest import Service, running
from tests.instance import ROOT
from tests.promql import Binary, Call, Matcher, Node, Selector
from tests.redises import OwnRedis
from tests.rules import (
    ALERTS,
    DASHBOARDS,
    DECLARED,
    FILES,
    PAGE,
    RECORDED,
    RULES,
    SCRAPE_SECONDS,
    TESTS,
    Rule,
    known,
    labels_of,
    labels_of_series,
    page,
    rules_of,
    unit_tests,
)
from tests.watching import PROMTOOL, needs_promtool
from ytdl import leases, metrics
from ytdl.config import Config

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
GROWTH = {"rate", "increase"}
OVER_TIME = {f"{how}_over_time" for how in ("max", "min", "avg", "last", "count", "absent", "quantile")} | {
    "changes", "delta", "deriv", "predict_linear",
}  # fmt: skip
# Always there, so that somebody notices when it is not.
CONSTANT = {"Watchdog"}
SAMPLES = [(sample.name, sample.labels) for family in metrics.REGISTRY.collect() for sample in family.samples]


def each(rules: Sequence[Rule]) -> Callable[[Callable[[Rule], None]], Callable[[], None]]:
    """Makes a test of all these out of one of a rule: as tests of their own, thousands would take a minute."""

    def decorate(test: Callable[[Rule], None]) -> Callable[[], None]:
        def all_of_them() -> None:
            for rule in rules:
                try:
                    test(rule)
                except AssertionError as e:
                    e.add_note(f"The rule is {rule}.")
                    raise

        all_of_them.__doc__ = test.__doc__
        return all_of_them

    return decorate


every_rule, every_alert = each(RULES), each(ALERTS)


def matches(labels: dict[str, str], matchers: Iterable[Matcher]) -> bool:
    def one(label: str, how: str, value: str) -> bool:
        found = labels.get(label, "")
        equal = re.fullmatch(value, found) is not None if "~" in how else value == found
        return equal is (how[0] == "=")

    return all(one(*matcher) for matcher in matchers if matcher.label not in ("job", "instance"))


def alternatives(matchers: Sequence[Matcher]) -> list[tuple[Matcher, ...]]:
    """Each value of `a|b` by itself, so that none is there in vain; one that is to be left out is looked for too."""
    each = [
        [Matcher(label, "=~", one) for one in _branches(value)] if "~" in how else [Matcher(label, how, value)]
        for label, how, value in matchers
    ]
    return list(product(*each))


def _branches(pattern: str) -> list[str]:
    """The alternatives of a regular expression at its outermost level."""
    found, depth = [""], 0
    for character in pattern:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and not depth:
            found.append("")
        else:
            found[-1] += character
    return found


def test_there_are_rules() -> None:
    assert FILES and ALERTS and TESTS


def test_no_two_rules_are_the_same() -> None:
    """Alertmanager could not tell them apart, nor could Prometheus."""
    told = [(rule.name, tuple(rule.labels.items())) for rule in RULES]
    assert len(told) == len(set(told))


@every_rule
def test_a_rule_asks_only_for_series_and_labels_that_exist(rule: Rule) -> None:
    asked = promql.selectors(rule.node)
    assert asked or rule.name in CONSTANT or not rule.alert
    for name, matchers, _ in map(dataclasses.astuple, asked):
        found = known(name)
        assert found, f"nobody has {name}"
        assert {label for label, _, _ in matchers} <= found.labels


@every_rule
def test_a_rule_asks_only_for_values_of_labels_that_exist(rule: Rule) -> None:
    for selector in promql.selectors(rule.node):
        made = [labels for series, labels in SAMPLES if series == selector.name]
        for one in alternatives(selector.matchers) if made else []:
            assert any(matches(labels, one) for labels in made), (selector.name, one)


@every_rule
def test_a_rule_adds_up_by_labels_that_exist(rule: Rule) -> None:
    for node, _ in promql.walk(rule.node):
        if isinstance(node, promql.Aggregate):
            inner = promql.labels_of(node.arguments[-1], labels_of_series) or frozenset()
            assert (node.by or node.without or frozenset()) <= inner
        if isinstance(node, Binary) and (node.matching.on or node.matching.ignoring):
            both = [promql.labels_of(side, labels_of_series) or frozenset() for side in (node.left, node.right)]
            assert (node.matching.on or frozenset()) <= both[0] & both[1]
            assert (node.matching.ignoring or frozenset()) <= both[0] | both[1]


@every_rule
def test_a_missed_scrape_ends_no_alert_and_counts_are_seen_as_growth(rule: Rule) -> None:
    for node, above in promql.walk(rule.node):
        found = known(node.name) if isinstance(node, Selector) else None
        if found is None or found.kind == "recorded":
            continue
        around = above[-1] if above else None
        function = around.function if isinstance(around, Call) else ""
        # What was not there before cannot be seen as growth: `x unless x offset 15m` is how that is asked.
        new = any(isinstance(node, Binary) and node.operator == "unless" for node in above)
        assert function in (OVER_TIME if found.kind == "gauge" or new else GROWTH), node


@every_rule
def test_a_window_has_four_scrapes_at_least(rule: Rule) -> None:
    windows = [node.range for node, _ in promql.walk(rule.node) if isinstance(node, Selector | promql.Subquery)]
    assert all(promql.seconds(window) >= 4 * SCRAPE_SECONDS for window in windows if window)


@every_rule
def test_a_quantile_is_of_buckets(rule: Rule) -> None:
    for node, _ in promql.walk(rule.node):
        if isinstance(node, Call) and node.function == "histogram_quantile":
            assert "le" in (promql.labels_of(node.arguments[1], labels_of_series) or ())


@every_rule
def test_a_regular_expression_is_needed_and_says_no_more_than_it_must(rule: Rule) -> None:
    """Prometheus compares the whole value, so anchors and edges of dots say nothing; and no rule is of one machine."""
    for matcher in (matcher for selector in promql.selectors(rule.node) for matcher in selector.matchers):
        assert matcher.label != "instance"
        if "~" in matcher.how:
            assert re.search(r"[|.*+?(\[]", matcher.value) and not re.match(r"\^|\.\*", matcher.value)
            assert not re.search(r"(\$|\.\*)$", matcher.value)


@every_rule
def test_two_sides_of_a_sum_or_a_comparison_have_the_same_labels(rule: Rule) -> None:
    """Else no series would find its other half, and the rule would be silent for ever."""
    for node, _ in promql.walk(rule.node):
        if not isinstance(node, Binary) or node.matching.on is not None or node.matching.ignoring is not None:
            continue
        left, right = (promql.labels_of(side, labels_of_series) for side in (node.left, node.right))
        assert left is None or right is None or left == right, (rule.expression, left, right)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_series_is_named_by_the_rules(name: str) -> None:
    assert re.fullmatch(r"ytdl:[a-z]+(_[a-z]+)*(:[a-z]+(_[a-z0-9]+)*[0-9]*[a-z]?)?", name)
    assert len({labels_of(rule) for rule in RECORDED[name]}) == 1


@every_alert
def test_what_an_alert_asks_of_recorded_series_is_recorded_before_it_in_its_group(rule: Rule) -> None:
    """Groups are evaluated in no order, so it would see the round before."""
    for name in {selector.name for selector in promql.selectors(rule.node)} & RECORDED.keys():
        for recording in RECORDED[name]:
            assert (recording.file, recording.group) == (rule.file, rule.group), name
            assert RULES.index(recording) < RULES.index(rule), name


def branches(node: Node) -> list[Node]:
    return (
        [*branches(node.left), *branches(node.right)] if isinstance(node, Binary) and node.operator == "or" else [node]
    )


@every_alert
def test_an_alert_is_a_condition(rule: Rule) -> None:
    """Without a comparison it would fire for whatever is there."""
    for branch in branches(rule.node) if rule.name not in CONSTANT else []:
        nodes = [node for node, _ in promql.walk(branch)]
        assert any(isinstance(n, Binary) and n.operator in promql.COMPARISONS for n in nodes) or any(
            isinstance(n, Call) and n.function.startswith("absent") for n in nodes
        )


@every_alert
def test_an_alert_without_patience_looks_back_five_minutes_at_least(rule: Rule) -> None:
    """Else it would come and go with every scrape. What an admin has chosen to hear of at once is the exception."""
    windows = [selector.range for selector in promql.selectors(rule.node) if selector.range]
    if rule.holds == "0s" and windows and "hold" not in rule.labels:
        assert rule.name == "WarningUnacknowledged" or all(promql.seconds(window) >= 300 for window in windows)


@every_alert
def test_an_alert_says_how_bad_it_is_and_what_it_is(rule: Rule) -> None:
    assert re.fullmatch("([A-Z][a-z]+[0-9]?)+", rule.name)
    assert list(rule.labels) in (["severity"], ["severity", "hold"])
    assert rule.labels["severity"] in {"critical", "warning", "info"}
    assert list(rule.annotations) == ["summary", "description", "runbook_url", "dashboard_url"]
    assert rule.annotations["description"].endswith(".") and len(rule.annotations["summary"]) <= 60


@every_alert
def test_an_alert_names_only_labels_that_its_series_have(rule: Rule) -> None:
    """Where it adds up, only what it adds up by is left. Values are in the message only: a label is who an alert is."""
    text = rule.annotations["summary"] + rule.annotations["description"]
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels_of(rule) | set(rule.labels)
    shown = re.findall(r"\{\{.*?\}\}", text)
    assert all(re.fullmatch(r"\{\{ (\$labels\.\w+|\$value( \| humanize\w*)?) \}\}", one) for one in shown)
    assert not any("{" in value for value in rule.labels.values())


@every_alert
def test_an_alert_keeps_the_job_that_it_is_of(rule: Rule) -> None:
    assert "job" in labels_of(rule) or rule.name in CONSTANT


@every_alert
def test_an_alert_points_to_its_section_of_a_runbook_and_to_a_dashboard(rule: Rule) -> None:
    file = f"{rule.file.stem}.md"
    assert rule.annotations["runbook_url"] == "{{ $externalLabels.runbooks }}/" + f"{file}#{rule.name.lower()}"
    address, _, dashboard = rule.annotations["dashboard_url"].rpartition("/")
    assert address == "{{ $externalLabels.grafana }}/d" and dashboard in DASHBOARDS
    text = (ROOT / "docs/runbooks" / file).read_text().partition(f"\n## {rule.name}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_runbook_has_the_alerts_of_its_file_in_their_order(file: Path) -> None:
    text = (ROOT / "docs/runbooks" / f"{file.stem}.md").read_text()
    alerts = dict.fromkeys(rule.name for rule in rules_of(file) if rule.alert)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(alerts)


def test_the_page_lists_all_alerts() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "run: python -m tests.rules"


def courses() -> dict[str, list[list[bool]]]:
    """Of each alert that is tried: for each test, in the order of time, whether it fires."""
    found: dict[str, list[list[bool]]] = {}
    for test in unit_tests():
        rows = test.get("alert_rule_test", [])
        for alert in {row["alertname"] for row in rows}:
            own = [row for row in rows if row["alertname"] == alert]
            moments = [promql.seconds(row["eval_time"]) for row in own]
            assert moments == sorted(set(moments)), (alert, moments)
            found.setdefault(alert, []).append([bool(row.get("exp_alerts")) for row in own])
    return found


def test_every_alert_is_tried_and_nothing_else() -> None:
    assert sorted(courses()) == sorted({rule.name for rule in ALERTS})


@every_alert
def test_an_alert_is_tried_before_while_and_after_it_fires_and_when_it_must_not(rule: Rule) -> None:
    tried = courses()[rule.name]
    if rule.name not in CONSTANT:
        assert any(course[0] is False and True in course and course[-1] is False for course in tried)
        assert any(True not in course for course in tried)


@every_alert
def test_each_rule_of_an_alert_is_seen_to_fire(rule: Rule) -> None:
    """One alert may have several rules, told apart by their labels."""
    rows = [row for test in unit_tests() for row in test.get("alert_rule_test", []) if row["alertname"] == rule.name]
    fired = [alert["exp_labels"] for row in rows for alert in row.get("exp_alerts") or []]
    assert any(rule.labels.items() <= labels.items() for labels in fired)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROMTOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *FILES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_end(file: Path) -> None:
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


async def scraped(service: Service) -> list[tuple[str, dict[str, str]]]:
    async with service.client.get("/metrics") as answer:
        text = await answer.text()
    return [(s.name, s.labels) for family in text_string_to_metric_families(text) for s in family.samples]


async def untold(service: Service) -> list[tuple[str, tuple[Matcher, ...]]]:
    """What rules ask for and a scrape does not have."""
    samples = await scraped(service)
    asked = {selector for rule in RULES for selector in promql.selectors(rule.node) if selector.name in DECLARED}
    return [
        (one.name, matchers)
        for one in asked
        if DECLARED[one.name].exists
        for matchers in alternatives(one.matchers)
        if not any(name == one.name and matches(labels, matchers) for name, labels in samples)
    ]


async def test_a_service_that_has_just_started_tells_all_that_rules_ask_for(downloading: Service) -> None:
    """A rate of what appears only with its first failure does not see that failure. Gauges follow with a first look."""
    assert [name for name, _ in await untold(downloading) if DECLARED[name].kind != "gauge"] == []
    deadline = time.monotonic() + 30
    while missing := await untold(downloading):
        assert time.monotonic() < deadline, missing
        await asyncio.sleep(0.1)


async def degraded(service: Service) -> str:
    async with service.client.get("/api/v1/auth/profile") as answer:
        await answer.read()
    async with service.client.get("/metrics") as answer:
        return next(line for line in (await answer.text()).splitlines() if line.startswith("ytdl_ratelimit_degraded "))


async def test_a_service_whose_redis_dies_tells_until_it_is_back(
    config: Config, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Redis that answers late is no dead one, and a service that stopped while it had none goes on saying so.
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 30.0)
    metrics.ratelimit_degraded.set(0)
    config = dataclasses.replace(config, redis_url=own_redis.url)
    async with running(config) as service:
        assert await degraded(service) == "ytdl_ratelimit_degraded 0.0"
        own_redis.kill()
        assert await degraded(service) == "ytdl_ratelimit_degraded 1.0"
        await own_redis.start()
        async with asyncio.timeout(30):
            while await degraded(service) != "ytdl_ratelimit_degraded 0.0":  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.1)
