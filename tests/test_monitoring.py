"""Metrics over HTTP: what they read now, their course and figures from a real Prometheus, and what is refused."""

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Person
from tests.test_prometheus import asking, saying, series
from tests.watched import Watched, until, watching
from tests.watching import needs_prometheus
from ytdl import errors, metrics, readings
from ytdl.config import Config
from ytdl.monitoring import Monitoring, StatsQuery, _figures, _matchers
from ytdl.prometheus import NOT_ONE, Series

METRICS = "/monitoring/metrics"


async def json_of(person: Person, path: str, **query: Any) -> Any:
    answer = await person.get(path, params=query)
    found = await answer.json()
    assert answer.status == 200, found
    return found


async def test_every_metric_is_listed_with_what_it_is_and_reads(root: Person) -> None:
    items = {item["name"]: item for item in (await json_of(root, "/monitoring/metrics"))["items"]}
    slots = items["ytdl_worker_slots"]
    assert (slots["type"], slots["unit"], slots["labels"]) == ("gauge", "", [])
    assert slots["help"] and slots["samples"] == [{"labels": {}, "value": 0.0}]
    assert {"process_cpu_seconds_total", "ytdl_http_requests_total", "ytdl_loop_lag_seconds"} <= items.keys()
    assert {item["type"] for item in items.values()} == {"counter", "gauge", "histogram"}


async def test_the_list_has_the_names_that_prometheus_stores(root: Person) -> None:
    """Of a histogram the name is what is common to its three series."""
    text = await (await root.get("//metrics")).text()
    typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    listed = {item["name"] for item in (await json_of(root, METRICS))["items"]}
    assert listed == {name for name in typed if not name.endswith("_created")}


async def test_a_counter_reads_what_was_counted(root: Person) -> None:
    before = metrics.http_errors.labels("gone")._value.get()
    metrics.http_errors.labels("gone").inc(3)
    found = await json_of(root, f"{METRICS}/ytdl_http_errors_total")
    assert (found["type"], found["labels"], found["course"]) == ("counter", ["code"], None)
    assert {"labels": {"code": "gone"}, "value": before + 3} in found["samples"]


async def test_a_histogram_reads_as_one_sample_with_its_buckets(root: Person) -> None:
    metrics.downloads_seconds.observe(20.0)
    [sample] = (await json_of(root, f"{METRICS}/ytdl_downloads_seconds"))["samples"]
    assert sample["labels"] == {} and "value" not in sample
    assert sample["count"] >= 1 and sample["sum"] >= 20
    assert sample["buckets"]["+Inf"] == sample["count"] and sample["buckets"]["30.0"] >= 1


@pytest.mark.parametrize("path", ["ytdl_nothing", "ytdl_queue_jobs{}", "ytdl_http_requests", "ytdl_queue_jobs/stats/x"])
async def test_what_is_no_metric_is_not_found(root: Person, path: str) -> None:
    assert (await root.get(f"{METRICS}/{path}")).status == 404


async def test_metrics_are_for_admins(alice: Person) -> None:
    name = "ytdl_queue_jobs"
    for path in ("/monitoring/metrics", f"/monitoring/metrics/{name}", f"/monitoring/metrics/{name}/stats"):
        assert (await alice.get(path)).status == 403


@pytest.mark.parametrize("path", ["ytdl_queue_jobs?step=60", "ytdl_queue_jobs/stats"])
async def test_without_prometheus_its_setting_is_named(root: Person, path: str) -> None:
    answer = await root.get(f"{METRICS}/{path}")
    problem = await answer.json()
    assert (answer.status, problem["code"]) == (503, "unavailable") and "PROMETHEUS_URL" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2024-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"to": "0001-01-01T00:10:00Z"}, "to"),
        ({"from": "yesterday"}, "from"),
        ({"step": "0"}, "step"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "step": "60"}, "step"),
        ({"by": "nothing"}, "by"),
        ({"by": "state) or up or (x"}, "by"),
        ({"where": "state"}, "where"),
        ({"where": "nothing=1"}, "where"),
        ({"where": "__name__=up"}, "where"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00.0004Z"}, "from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00.999Z"}, "from"),
        ({"every": "1"}, "every"),
    ],
)
async def test_a_wrong_question_is_refused_by_its_field(root: Person, query: dict[str, str], field: str) -> None:
    answer = await root.get(f"{METRICS}/ytdl_queue_jobs", params=query)
    found = await answer.json()
    assert (answer.status, [e["field"] for e in found.get("errors", ())]) == (422, [field]), found


@pytest.mark.parametrize("value", ["%FF", "%ED%A0%80", "%EF%BF%BD"])
@pytest.mark.parametrize("path", ["ytdl_queue_jobs", "ytdl_queue_jobs/stats", "ytdl_http_request_seconds/stats"])
async def test_what_is_no_text_is_refused_where_it_stands(root: Person, path: str, value: str) -> None:
    """A text that Prometheus would take for broken."""
    label = "route" if "http" in path else "state"
    answer = await root.get(f"{METRICS}/{path}?where={label}={value}")
    assert (answer.status, [e["field"] for e in (await answer.json()).get("errors", ())]) == (422, ["where"])


def test_a_value_stays_a_value_whatever_is_in_it() -> None:
    metric = readings.find("ytdl_queue_jobs")
    assert metric
    nasty = 'x"} or up{a="\\'
    assert _matchers(metric, [f"state={nasty}"]) == r'{state="x\"} or up{a=\"\\"}'


@pytest.mark.parametrize(
    ("name", "where", "wanted"),
    [
        ("ytdl_queue_jobs", [], ""),
        ("process_open_fds", [], '{job="ytdl"}'),
        ("process_open_fds", ["job=prometheus"], '{job="prometheus"}'),
    ],
)
def test_what_others_have_too_is_asked_of_the_service(name: str, where: list[str], wanted: str) -> None:
    metric = readings.find(name)
    assert metric and _matchers(metric, where) == wanted


def test_figures_are_of_the_numbers_only() -> None:
    values = [math.nan, *map(float, range(101)), math.inf]
    found = _figures(Series({}, list(enumerate(values))))
    assert (found.min, found.max, found.mean, found.p50, found.p95, found.p99) == (0, 100, 50, 50, 95, 99)


async def test_figures_of_nobody_knows_what_are_no_answer() -> None:
    async with asking(series({"metric": {"route": "/"}, "value": [1, "1"]})) as prometheus:
        with pytest.raises(errors.Unavailable, match=NOT_ONE):
            await Monitoring(prometheus, interval=15).stats("ytdl_http_request_seconds", StatsQuery())


async def test_a_time_too_long_to_work_out_is_a_fault_of_its_beginning() -> None:
    async with asking(saying(422, errorType="execution")) as prometheus:
        with pytest.raises(errors.Invalid) as raised:
            await Monitoring(prometheus, interval=15).stats("ytdl_queue_jobs", StatsQuery())
    assert [fault.field for fault in raised.value.faults] == ["from"]


def test_nothing_has_no_figures() -> None:
    found = _figures(Series({"a": "b"}, [(0.0, math.nan)]))
    assert (found.labels, found.min, found.mean, found.p99) == ({"a": "b"}, None, None, None)


@pytest.fixture
async def watched(config: Config, tmp_path: Path) -> AsyncIterator[Watched]:
    # What tests before observed would bend the mean: Prometheus guesses what was before it looked by what it saw first.
    metrics.downloads_seconds._metric_init()
    async with watching(config, tmp_path / "prometheus") as watched:
        yield watched


# A rate is over one step, in which a busy machine may miss scrapes; of so long a time figures have the same step.
STEP_SECONDS, WINDOW_SECONDS = 3, 2000


def lately() -> dict[str, str]:
    now = datetime.now(UTC)
    since = now - timedelta(seconds=WINDOW_SECONDS)
    return {"from": since.isoformat(), "to": now.isoformat(), "step": str(STEP_SECONDS)}


async def grown(root: Person) -> tuple[dict[str, str], float]:
    """How fast downloads were made at most lately, after some more of them, and when that was."""
    for n in range(20):
        metrics.queue_jobs.labels("queued").set(n)
        metrics.downloads_seconds.observe(20.0)
        metrics.downloads_created.inc()
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    counter = (await json_of(root, f"{METRICS}/ytdl_downloads_created_total", **(times := lately())))["course"]
    return times, max((value for line in counter["series"] for _, value in line["points"]), default=0.0)


@needs_prometheus
@pytest.mark.slow
async def test_prometheus_tells_course_and_figures(watched: Watched) -> None:
    """One watched service for all, as it takes some seconds until there is something to tell."""
    root = watched.root
    only = {"by": "state", "where": "state=queued"}
    async with asyncio.timeout(120):
        # A busy machine misses scrapes, and then nothing was seen to grow, and gauges have no value until the next.
        while True:
            times, most = await grown(root)
            gauge = (await json_of(root, f"{METRICS}/ytdl_queue_jobs", **only, **times))["course"]
            if most > 1 and gauge["series"]:
                break

    assert (gauge["of"], gauge["expression"]) == (
        "values",
        'sum by (state, instance) (ytdl_queue_jobs{state="queued"})',
    )
    [line] = gauge["series"]
    assert line["labels"]["state"] == "queued" and 1 <= len(line["points"]) <= WINDOW_SECONDS / STEP_SECONDS + 1

    counter = (await json_of(root, f"{METRICS}/ytdl_downloads_created_total", **times))["course"]
    [line] = counter["series"]
    assert counter["of"] == "rate per second" and list(line["labels"]) == ["instance"]

    histogram = (await json_of(root, f"{METRICS}/ytdl_downloads_seconds", **times))["course"]
    assert {line["labels"]["quantile"] for line in histogram["series"]} == {"0.5", "0.95", "0.99"}

    window = {name: text for name, text in times.items() if name != "step"}
    found = await json_of(root, "/monitoring/metrics/ytdl_downloads_seconds/stats", **window)
    [figures] = found["series"]
    assert (found["of"], found["unit"], found["type"]) == ("observations", "seconds", "histogram")
    # All were 20 seconds, which lie in the bucket from 15 to 30.
    assert (figures["min"], figures["max"]) == (pytest.approx(15, abs=1e-3), 30)
    assert 15 < figures["p50"] < figures["p99"] < 30 and figures["mean"] == pytest.approx(20)

    found = await json_of(root, f"{METRICS}/ytdl_downloads_created_total/stats", **window)
    [figures] = found["series"]
    assert found["of"] == "rate per second" and figures["max"] > 1 and 0 <= figures["min"] <= figures["mean"]


async def crowded(root: Person, path: str) -> tuple[dict[str, str], Any]:
    """Its course once it has as many series as are told, and when that was. A scrape that comes late leaves a gap, in
    which each moment that is asked for may lie."""
    async with asyncio.timeout(60):
        while True:
            course = (await json_of(root, path, **(times := lately())))["course"]
            if len(course["series"]) == 100:
                return times, course
            await asyncio.sleep(0.3)


@needs_prometheus
@pytest.mark.slow
async def test_of_too_many_series_the_greatest_are_told_and_a_choice_of_too_many_is_refused(watched: Watched) -> None:
    for n in range(120):
        metrics.blocks_offences.labels(f"offence{n}").inc()
        metrics.queue_jobs.labels(f"state{n}").set(n)
    await until(watched.prometheus, "count(rate(ytdl_blocks_offences_total[3s])) > 120")
    for n in range(70, 120):
        metrics.blocks_offences.labels(f"offence{n}").inc(5)
    await until(watched.prometheus, "count(increase(ytdl_blocks_offences_total[10s]) > 4) >= 50")
    for name, label in (("ytdl_blocks_offences_total", "offence"), ("ytdl_queue_jobs", "state")):
        path = f"{METRICS}/{name}"
        times, course = await crowded(watched.root, path)
        told = {line["labels"][label] for line in course["series"]}
        assert {f"{label}{n}" for n in range(70, 120)} <= told and "topk(100, " in course["expression"]
        window = {name: text for name, text in times.items() if name != "step"}
        found = await json_of(watched.root, f"{path}/stats", **window)
        assert len(found["series"]) == 100 and found["expression"] == course["expression"]
        answer = await watched.root.get(path, params=times | {"by": label})
        assert (answer.status, [e["field"] for e in (await answer.json())["errors"]]) == (422, ["by"])
    path = f"{METRICS}/ytdl_blocks_offences_total"
    assert len((await json_of(watched.root, path, by="job", **lately()))["course"]["series"]) == 1
    for n in range(120):
        metrics.blocks_offences.remove(f"offence{n}")
        metrics.queue_jobs.remove(f"state{n}")


@needs_prometheus
@pytest.mark.slow
async def test_a_prometheus_that_dies_is_503_and_comes_back(watched: Watched) -> None:
    path = f"{METRICS}/ytdl_queue_jobs"
    assert (await watched.root.get(path, params=lately())).status == 200
    await watched.prometheus.kill()
    answer = await watched.root.get(path, params=lately())
    assert answer.status == 503 and "PROMETHEUS_URL" in (await answer.json())["detail"]
    assert (await watched.root.get(f"{METRICS}/ytdl_queue_jobs")).status == 200
    await watched.prometheus.start()
    assert (await watched.root.get(path, params=lately())).status == 200
