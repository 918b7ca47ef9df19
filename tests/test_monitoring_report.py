"""The monitoring report from a real Prometheus with the project's rules, its forms, and thresholds that alert."""

import asyncio
import contextlib
import csv
import io
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Person
from tests.instance import ROOT
from tests.test_prometheus import asking, saying, series
from tests.watched import Watched, until, watching
from tests.watching import PROMTOOL, needs_prometheus, prometheus
from ytdl import errors, metrics
from ytdl.config import Config
from ytdl.monitoring_forms import csv_of, markdown_of
from ytdl.monitoring_report import (
    FigureRow,
    Fired,
    Instance,
    MonitoringReport,
    MonitoringWish,
    Objective,
    Reporter,
    RouteRow,
    _literally,
    _objective,
)
from ytdl.prometheus import NOT_ONE, Prometheus
from ytdl.thresholds import METRICS

RULES = [ROOT / "prometheus/rules" / name for name in ("objectives.yml", "thresholds.yml")]
# On a busy machine one scrape after the other may take longer than it is given.
soon = partial(until, seconds=180.0)


def lately(**more: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {"from": (now - timedelta(minutes=5)).isoformat(), "to": now.isoformat(), **more}


@pytest.fixture
async def watched(config: Config, tmp_path: Path) -> AsyncIterator[Watched]:
    async with watching(config, tmp_path / "prometheus", RULES) as watched:
        yield watched


async def report(root: Person, wish: dict[str, str]) -> Any:
    answer = await root.post("/monitoring/report", wish)
    assert answer.status == 200, await answer.text()
    return await answer.json()


@needs_prometheus
@pytest.mark.slow
async def test_a_threshold_alerts_and_the_report_tells_of_it(watched: Watched) -> None:
    root = watched.root
    await soon(watched.prometheus, 'ytdl:measure{metric="database_connections_ratio"} > 0')
    answer = await root.post(
        "/monitoring/thresholds/database_connections_ratio", {"warning": 0.000001, "for_seconds": 0}
    )
    assert answer.status == 200
    firing = 'ALERTS{alertname="ThresholdWarning", alertstate="firing", metric="database_connections_ratio"}'
    await soon(watched.prometheus, firing)
    failed = metrics.downloads_failed.labels("timeout")
    for times in (1, 30):
        for _ in range(times):
            await root.get("/auth/profile")
            failed.inc()
        # Growth is seen from where a series was first scraped; tests before may have counted as well.
        await soon(watched.prometheus, f'ytdl_downloads_failed_total{{reason="timeout"}} >= {failed._value.get()}')
    # The report looks at every full second.
    for recorded in (firing, 'ytdl:objective_events:rate5m{objective="availability"} > 0'):
        await soon(watched.prometheus, f"count_over_time(({recorded})[1m:1s]) > 0")

    found = await report(root, lately())
    assert found["dashboard_url"].startswith("http://g.test/d/ytdl-overview?from=")
    [instance] = found["instances"]
    assert 0 < instance["reached"] <= 1
    objectives = {o["name"]: o for o in found["objectives"]}
    assert objectives.keys() == {"availability", "latency", "freshness", "success", "notifications"}
    availability = objectives["availability"]
    assert (availability["target"], availability["kept"], availability["budget_left"]) == (0.999, 1, 1)
    assert availability["events"] > 0 and objectives["freshness"]["kept"] is None
    [fired] = found["alerts"]
    assert (fired["name"], fired["severity"], fired["firing_at_end"]) == ("ThresholdWarning", "warning", True)
    assert 0 < fired["firing_seconds"] < 300
    figures = {row["metric_name"]: row for row in found["figures"]}
    assert figures["database_connections_ratio"]["min"] > 0 and figures.keys() <= METRICS.keys()
    routes = {row["route"]: row for row in found["routes"]}
    assert routes["/api/v1/auth/profile"]["requests"] >= 20 and routes["/api/v1/auth/profile"]["failed"] == 0
    assert 0 < routes["/api/v1/auth/profile"]["p95_seconds"] < 5
    assert found["failures"]["timeout"] > 5 and "/metrics" not in routes

    answer = await root.post("/monitoring/thresholds/database_connections_ratio", {"warning": 0.99, "for_seconds": 0})
    assert answer.status == 200
    await soon(watched.prometheus, f"absent({firing})")


@needs_prometheus
@pytest.mark.slow
async def test_a_report_counts_the_first_failures_of_a_route(watched: Watched) -> None:
    """The series of their status begins with them, so its growth is none."""
    route = "/api/v1/monitoring/alerts"
    counted = f'ytdl_http_failures_total{{route="{route}"}}[1m]'
    await soon(watched.prometheus, f"count_over_time({counted})")
    for _ in range(5):
        assert (await watched.root.get("/monitoring/alerts")).status == 503
    await soon(watched.prometheus, f"increase({counted}) >= 5")
    [row] = [row for row in (await report(watched.root, lately()))["routes"] if row["route"] == route]
    # Prometheus thinks on to the ends of the window, the further the longer a scrape took.
    assert row["requests"] == row["failed"] and 3 < row["failed"] < 15


@contextlib.asynccontextmanager
async def closing(asked: Prometheus) -> AsyncIterator[Prometheus]:
    yield asked
    await asked.close()


def _redeploys(until: int, names: int) -> str:
    """Instances with all figures, of which the later ones were watched longer."""
    lines = []
    for n in range(names):
        times = range(until - 60 * (n + 2), until + 1, 60)
        lines += [f'up{{job="ytdl",instance="a{n:03}"}} 1 {at}' for at in times]
    for metric in METRICS:
        for n in range(names):
            times = range(until - 60 * (n + 2), until + 1, 60)
            series = f'ytdl:measure{{job="ytdl",instance="a{n:03}",metric="{metric}"}}'
            lines += [f"{series} {n} {at}" for at in times]
    lines += [f'ALERTS{{alertname="A{n:03}",alertstate="firing",severity="info"}} 1 {until}' for n in range(120)]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here is much, and a busy machine may take its time for it."""
    monkeypatch.setattr("ytdl.prometheus.ANSWER_SECONDS", 60.0)
    monkeypatch.setattr("ytdl.monitoring_report.REPORT_SECONDS", 600.0)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.usefixtures("patient")
async def test_a_report_has_room_for_many_redeploys_and_an_end_of_them(tmp_path: Path) -> None:
    until = int(datetime.now(UTC).timestamp()) // 60 * 60 - 60
    await asyncio.to_thread(_backfill, tmp_path / "p/data", _redeploys(until, 60))
    async with prometheus(tmp_path / "p", {}) as watcher, closing(Prometheus(watcher.url)) as asked:
        to = datetime.fromtimestamp(until, UTC)
        wish = MonitoringWish(from_=to - timedelta(hours=2), to=to)
        found = await Reporter(asked, interval=15, grafana="").report(wish)
    longest = [f"a{n:03}" for n in range(10, 60)]
    assert [row.instance for row in found.instances] == longest
    assert [row.instance for row in found.figures if row.metric_name == "queue_length"] == longest
    assert len(found.figures) == len(METRICS) * len(longest) and len(found.alerts) == 100
    assert csv_of(found) and markdown_of(found)


REPORT = MonitoringWish(from_=datetime(2026, 5, 1, tzinfo=UTC), to=datetime(2026, 5, 2, tzinfo=UTC))


@pytest.mark.parametrize("labels", [{}, {"instance": "a"}, {"metric": "queue_length"}, {"metric": "x", "stat": "y"}])
async def test_a_report_lives_with_series_without_the_names_it_knows(labels: dict[str, str]) -> None:
    async with asking(series({"metric": labels, "value": [1, "1"]})) as prometheus:
        found = await Reporter(prometheus, interval=15, grafana="").report(REPORT)
    assert found.instances == [Instance(labels.get("instance", ""), 1)]


async def test_more_rows_than_were_asked_for_are_no_fault_of_the_wish() -> None:
    many = [{"metric": {"n": str(n)}, "value": [1, "1"]} for n in range(1001)]
    async with asking(series(*many)) as prometheus:
        with pytest.raises(errors.Unavailable, match=NOT_ONE):
            await Reporter(prometheus, interval=15, grafana="").report(REPORT)


async def test_a_time_too_long_to_work_out_is_a_fault_of_its_beginning() -> None:
    async with asking(saying(422, errorType="execution")) as prometheus:
        with pytest.raises(errors.Invalid) as raised:
            await Reporter(prometheus, interval=15, grafana="").report(REPORT)
    assert [fault.field for fault in raised.value.faults] == ["from"]


def _overlap(since: float, until: float, outages: list[tuple[float, float]]) -> float:
    return sum(max(0.0, min(until, last) - max(since, first)) for first, last in outages)


def _history(since: int, until: int, outages: list[tuple[float, float]]) -> str:
    """As the rules record every minute what comes to ten requests a second, one of them failing in the outages."""
    times = range(since, until + 1, 60)
    failures = [(at, _overlap(at - 300, at, outages) / 300) for at in times]
    series = {
        'ytdl:objective:target{objective="availability"}': [(at, 0.999) for at in times],
        'ytdl:objective_events:rate5m{job="ytdl",objective="availability"}': [(at, 10.0) for at in times],
        'ytdl:objective_failures:rate5m{job="ytdl",objective="availability"}': failures,
        'ALERTS{alertname="Broken",alertstate="firing",severity="critical"}': [
            (at, 1.0) for at, rate in failures if rate
        ],
    }
    lines = [f"{name} {value} {at}" for name, samples in series.items() for at, value in samples]
    return "\n".join([*lines, "# EOF\n"])


def _backfill(folder: Path, history: str) -> None:
    folder.mkdir(parents=True)
    file = folder.parent / "history"
    file.write_text(history)
    command = [str(PROMTOOL), "tsdb", "create-blocks-from", "openmetrics", str(file), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.usefixtures("patient")
async def test_a_report_of_a_long_time_counts_short_outages(tmp_path: Path) -> None:
    """Of ten days, of which nine are known: a thousand looks would be 864 seconds apart, and none in an outage."""
    step = 864
    until = int(datetime.now(UTC).timestamp()) // step * step
    outages = [(at + 100.0, at + 460.0) for at in (until - 500 * step, until - 200 * step)]
    await asyncio.to_thread(_backfill, tmp_path / "p/data", _history(until - 9 * 86_400, until, outages))
    async with prometheus(tmp_path / "p", {}) as watcher, closing(Prometheus(watcher.url)) as asked:
        since, to = (datetime.fromtimestamp(at, UTC) for at in (until - 1000 * step, until))
        wish = MonitoringWish(from_=since, to=to)
        found = await Reporter(asked, interval=15, grafana="").report(wish)
    [availability], [broken] = found.objectives, found.alerts
    assert availability.failures == pytest.approx(720, rel=0.01)
    assert availability.events == pytest.approx(9 * 86_400 * 10, rel=0.01)
    assert broken.firing_seconds == pytest.approx(2 * 660, abs=2 * 2 * found.step_seconds)


async def test_without_prometheus_its_setting_is_named(root: Person) -> None:
    answer = await root.post("/monitoring/report", lately())
    assert answer.status == 503 and "PROMETHEUS_URL" in (await answer.json())["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": "2030-01-01T00:00:00Z"}, "from"),
        ({"from": "2020-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00.0004Z"}, "from"),
        ({"format": "pdf"}, "format"),
        ({"to": "now"}, "to"),
    ],
)
async def test_a_wrong_wish_is_refused_by_its_field(root: Person, change: dict[str, str], field: str) -> None:
    answer = await root.post("/monitoring/report", lately() | change)
    assert (answer.status, [e["field"] for e in (await answer.json())["errors"]]) == (422, [field])


async def test_a_report_is_for_admins(alice: Person) -> None:
    assert (await alice.post("/monitoring/report", lately())).status == 403


@pytest.mark.parametrize(
    ("events", "failures", "kept", "left"),
    [(1000, 0, 1, 1), (1000, 5, 0.995, 0.5), (1000, 20, 0.98, -1), (0, 0, None, None)],
)
def test_a_budget_is_what_the_target_leaves(
    events: float, failures: float, kept: float | None, left: float | None
) -> None:
    found = _objective("latency", 0.99, events, failures)
    assert found.kept == kept and found.budget_left == (None if left is None else pytest.approx(left))


def test_a_name_is_no_pattern() -> None:
    assert _literally("/a/{id}.x") == r"/a/\x{7b}id\x{7d}\x{2e}x"


AT = datetime(2026, 5, 17, 12, tzinfo=UTC)
MADE = MonitoringReport(
    from_=AT - timedelta(hours=1), to=AT, made_at=AT, step_seconds=15, dashboard_url="http://g.test/d/x",
    instances=[Instance("=1+1", 0.5)],
    objectives=[Objective("latency", 0.99, 1000, 5, 0.995, 0.5)],
    alerts=[Fired("Broken", "critical", 90, True)],
    figures=[FigureRow("queue_length", "a:1", "jobs", 0, 1.5, 3, None)],
    routes=[RouteRow("/a", 10, 1, None)],
    downloads={"completed": 7}, failures={},
)  # fmt: skip


def test_a_report_as_csv_has_a_figure_a_row() -> None:
    rows = list(csv.reader(io.StringIO(csv_of(MADE))))
    assert rows[0] == ["section", "name", "of", "figure", "value"]
    assert {len(row) for row in rows} == {5}
    assert ["objectives", "latency", "", "budget left", "0.5"] in rows
    assert ["alerts", "Broken", "critical", "firing seconds", "90"] in rows
    assert ["figures", "queue_length", "a:1", "max", ""] in rows
    assert ["instances", "'=1+1", "", "reached", "0.5"] in rows


def test_a_report_as_markdown_has_a_table_for_each_part() -> None:
    text = markdown_of(MADE)
    assert "| latency | 0.99 | 1000 | 5 | 0.995 | 0.5 |" in text
    assert "| Broken | critical | 90 | yes |" in text
    assert "## Failed attempts\n\nNone." in text and "<http://g.test/d/x>" in text
