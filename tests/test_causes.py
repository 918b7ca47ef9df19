"""The alerts of causes leave no gap: every failure that is not the user's own is watched, and bounds can be told."""

import pytest
from prometheus_client import Histogram

from tests import promql
from tests.promql import Binary, Call, Literal, Selector
from tests.rules import ALERTS, Rule
from ytdl import metrics
from ytdl.reasons import REASONS, USERS_OWN

# Failures that alerts see by what follows from them and not by their reason.
BY_ANOTHER = {
    "bot_check": "ytdl_egress_paused_seconds_total",
    "rate_limited": "ytdl_egress_paused_seconds_total",
    "proxy_error": "ytdl_egress_paused_seconds_total",
    "disk_full": "ytdl_disk_deferred_total",
    "upstream_stalled": "ytdl_fetcher_deadlines_total",
    "deadline_exceeded": "ytdl_fetcher_deadlines_total",
    "worker_lost": "ytdl_downloads_given_up_total",
}
EDGES = {
    f"{next(iter(metric.describe())).name}_bucket": metric._upper_bounds
    for metric in vars(metrics).values()
    if isinstance(metric, Histogram)
}
SELECTORS = [selector for rule in ALERTS for selector in promql.selectors(rule.node)]
BOUNDED = [
    (rule, node)
    for rule in ALERTS
    for node, _ in promql.walk(rule.node)
    if isinstance(node, Binary) and isinstance(node.left, Call) and node.left.function == "histogram_quantile"
]


def reasons(selector: Selector) -> set[str]:
    named = [m.value.split("|") for m in selector.matchers if m.label == "reason" and m.how in ("=", "=~")]
    return {value for values in named for value in values}


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason not in USERS_OWN])
def test_a_failure_that_is_not_the_users_own_is_watched(reason: str) -> None:
    watched = {r for s in SELECTORS if s.name == "ytdl_downloads_failed_total" for r in reasons(s)}
    if reason in BY_ANOTHER:
        assert BY_ANOTHER[reason] in {selector.name for selector in SELECTORS} and reason not in watched
    else:
        assert reason in watched


def test_nobody_is_told_of_what_users_ask_for_in_vain() -> None:
    failed = [selector for selector in SELECTORS if selector.name == "ytdl_downloads_failed_total"]
    assert not {reason for selector in failed for reason in reasons(selector)} & USERS_OWN


@pytest.mark.parametrize(("rule", "node"), BOUNDED, ids=[str(rule) for rule, _ in BOUNDED])
def test_a_bound_of_a_quantile_is_an_edge_of_its_buckets(rule: Rule, node: Binary) -> None:
    """Between two edges Prometheus guesses."""
    assert isinstance(node.right, Literal)
    [bucket] = promql.selectors(node.left)
    assert float(node.right.value) in EDGES[bucket.name]
