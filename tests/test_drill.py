"""The fault drill in short, as people run it: alerts and their messages come and end, and nothing is left behind.

Which alerts the whole drill leaves out is said here, each with the reason.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import promql
from tests.drill import scaling
from tests.drill.faults import FAULTS
from tests.drill.inbox import KINDS, Message
from tests.drill.report import line, table
from tests.drill.run import Course, last_told
from tests.drill.scaling import SECONDS_IN, Scale
from tests.instance import ROOT
from tests.rules import ALERTS, RULES
from tests.test_demo import leashed_to
from tests.watching import needs_alertmanager, needs_prometheus

MACHINE = "would take the machine from whoever else works on it"
TWO = "needs two services; the chaos run has them"
# Alerts that no fault of the drill causes. All have tests of their rules; these say why nothing is broken for them.
UNTRIED = {
    "AlertmanagerDown": "nobody can be told; the fault alertmanager-away waits until Prometheus has it",
    "CacheMissesHigh": "needs more data than the cache of PostgreSQL holds",
    "CookiesRefused": "needs several users, because cookies that were refused are not used again",
    "DownloadKillsWorkers": "needs one download to be lost three times, among all that run",
    "FencedWritesSeen": TWO,
    "FreshnessBudgetBurn": "what waited is counted when it is taken, which is after the fault",
    "JavaScriptMissing": "needs an installation without the runtime",
    "JobMemoryHigh": "needs downloads of a size that would take minutes",
    "LanePaused": "needs a second proxy; AllLanesPaused is tried with one",
    "MachineCpuHigh": MACHINE,
    "MachineMemoryLow": MACHINE,
    "MetricsStale": "what stops the refresh from outside stops the scrape as well",
    "NotificationsBudgetBurn": "one channel of six that fails for some seconds does not spend the budget",
    "OffencesNotScored": "needs thousands of addresses",
    "PrometheusNotReached": "the service asks the same Prometheus that has to see it",
    "PrometheusStorageFailing": "needs a disk of its own for Prometheus",
    "ScrapeSlow": "a scrape that takes a second is given up where scrapes come twice a second",
    "ServiceCpuHigh": MACHINE,
    "StreamsDropping": "needs hundreds of slow readers",
    "TooManySeries": "the number of series is bounded by the declarations",
    "TracesDropped": "the drill has no collector of traces",
    "VersionsDiffer": TWO,
    "Watchdog": "always fires; the drill counts how often it is heard",
    "YtdlpOld": "needs a yt-dlp of two months ago",
}
SHORT = ("stolen-token", "threshold", "redis-down", "rule-failing")


@pytest.mark.slow
@needs_prometheus
@needs_alertmanager
def test_alerts_reach_every_channel_and_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drill", *(f"--only={name}" for name in SHORT)]
    surroundings = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [text.split()[:3] for text in done.stdout.splitlines() if " by 6 of 6, " in text]
    assert sorted(told) == sorted(["ok", name, FAULTS[name].alert] for name in SHORT)
    assert (list(tmp_path.iterdir()), leashed_to(tmp_path)) == ([], [])


def test_an_alert_that_does_not_end_is_no_success() -> None:
    course = Course(FAULTS["redis-down"], alert_seconds=1.0, message_seconds=2.0)
    assert not course.ok and line(course).startswith("FAIL redis-down") and "over never" in line(course)
    course.end_seconds = 3.0
    course.channels = dict.fromkeys(KINDS, 2.0)
    assert course.ok


@pytest.mark.parametrize(("fault", "ok"), [("service-killed", True), ("redis-down", False)])
def test_a_channel_is_silent_only_where_something_on_its_way_is_broken(fault: str, ok: bool) -> None:
    course = Course(FAULTS[fault], alert_seconds=1.0, message_seconds=2.0, end_seconds=3.0)
    course.channels = dict.fromkeys(KINDS - {"twilio"}, 2.0)
    assert course.ok is ok and (", but no twilio" in line(course)) is not ok


def test_an_alert_is_over_when_that_was_told() -> None:
    fault = FAULTS["redis-down"]
    came, went = (Message(at, how, {"alertname": fault.alert}, {}) for at, how in ((1.0, "firing"), (2.0, "resolved")))
    other = Message(3.0, "firing", {"alertname": "Other"}, {})
    assert [last_told(told, fault) for told in ([], [other], [came], [went, came, other])] == [
        "",
        "",
        "firing",
        "resolved",
    ]


def test_a_row_that_came_again_takes_the_place_of_the_former_one() -> None:
    first, other = (
        Course(FAULTS[name], "warning", alert_seconds=1.0, message_seconds=2.0, end_seconds=3.0)
        for name in ("redis-down", "threshold")
    )
    former = table([first, other])
    first.alert_seconds = 9.0
    changed = table([first], former).splitlines()
    assert [row for row in changed if row not in former.splitlines()] == [table([first]).splitlines()[2]]
    assert len(changed) == 4 and "9.0 s" in "".join(changed)


def test_faults_are_told_apart_by_what_is_broken() -> None:
    assert len({fault.what for fault in FAULTS.values()}) == len(FAULTS)


def test_every_alert_is_caused_by_a_fault_or_it_is_said_why_not() -> None:
    caused = set[str]().union(*(fault.alerts for fault in FAULTS.values()))
    assert caused | set(UNTRIED) == {rule.name for rule in ALERTS}
    assert caused & set(UNTRIED) == set()


@pytest.mark.parametrize(
    ("written", "scaled"),
    [
        ("rate(x[15m])", "rate(x[30000ms])"),
        ("rate(x[1m])", "rate(x[3000ms])"),
        ("max_over_time(x[3d:5m] offset 15m)", "max_over_time(x[60000ms:10000ms] offset 30000ms)"),
        ('x{handler="[5m]"} > 300', 'x{handler="[5m]"} > 300'),
    ],
)
def test_windows_are_scaled_and_nothing_else(written: str, scaled: str) -> None:
    [rule] = scaling.rules({"groups": [{"rules": [{"record": "r", "expr": written}]}]}, Scale())["groups"][0]["rules"]
    assert rule["expr"] == scaled


def test_every_rule_asks_for_the_same_when_it_is_scaled() -> None:
    for rule in RULES:
        written = {"groups": [{"rules": [{"alert" if rule.alert else "record": rule.name, "expr": rule.expression}]}]}
        [scaled] = scaling.rules(written, Scale())["groups"][0]["rules"]
        asked = [(one.name, one.matchers) for one in promql.selectors(promql.parse(scaled["expr"]))]
        assert asked == [(one.name, one.matchers) for one in promql.selectors(rule.node)]


def test_numbers_that_are_scaled_are_in_the_rules() -> None:
    written = {name: " ".join(rule.expression for rule in ALERTS if rule.name == name) for name in SECONDS_IN}
    assert [name for name, numbers in SECONDS_IN.items() if not all(n in written[name] for n in numbers)] == []
