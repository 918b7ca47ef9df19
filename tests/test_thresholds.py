"""Thresholds of the service's figures: set, listed, removed, told to Prometheus by every process, and on record."""

import asyncio
import dataclasses
import math
from typing import Any

import pytest

from tests.conftest import Person, Service, running
from tests.queueing import sql
from ytdl import metrics
from ytdl.api.keys import DB as DB_KEY
from ytdl.api.keys import EVENTS
from ytdl.config import Config
from ytdl.thresholds import METRICS

PATH = "/monitoring/thresholds"


def told() -> dict[tuple[str, str, str], float]:
    """What the registry of this process has: metric, severity and hold."""
    [family] = metrics.threshold_value.collect()
    return {(s.labels["metric"], s.labels["severity"], s.labels["hold"]): s.value for s in family.samples}


async def set_(root: Person, metric: str, **wanted: Any) -> dict[str, Any]:
    answer = await root.post(f"/monitoring/thresholds/{metric}", wanted)
    found: dict[str, Any] = await answer.json()
    assert answer.status == 200, found
    return found


async def listed(root: Person) -> dict[str, dict[str, Any]]:
    items = (await (await root.get("/monitoring/thresholds")).json())["items"]
    return {item["metric_name"]: item for item in items}


async def test_all_figures_are_listed_and_none_has_a_threshold_at_first(root: Person) -> None:
    found = await listed(root)
    assert list(found) == list(METRICS) and len(METRICS) == 10
    assert {(t["warning"], t["critical"], t["for_seconds"], t["set_by"], t["set_at"]) for t in found.values()} == {
        (None, None, None, None, None)
    }
    assert told() == {}


async def test_a_threshold_is_listed_with_who_set_it_and_told_at_once(root: Person) -> None:
    answered = await set_(root, "error_ratio", warning=0.01, critical=0.05, for_seconds=60)
    assert told() == {("error_ratio", "warning", "60"): 0.01, ("error_ratio", "critical", "60"): 0.05}
    assert (await listed(root))["error_ratio"] == answered
    assert (answered["set_by"], answered["set_by_name"]) == (str(root.user_id), "root") and answered["set_at"]


async def test_only_what_is_set_is_told(root: Person) -> None:
    await set_(root, "queue_length", critical=1000)
    assert told() == {("queue_length", "critical", "300"): 1000}


async def test_another_hold_takes_the_place_of_the_former(root: Person) -> None:
    await set_(root, "queue_length", warning=10, for_seconds=0)
    await set_(root, "queue_length", warning=10, for_seconds=900)
    # A round that the first of them woke may tell of that once more.
    await until_told({("queue_length", "warning", "900"): 10})


@pytest.mark.parametrize("body", [{}, {"warning": None, "critical": None}])
async def test_neither_of_the_two_removes_what_was_set(root: Person, body: dict[str, None]) -> None:
    await set_(root, "queue_length", warning=10)
    answered = await set_(root, "queue_length", **body)
    assert answered["warning"] is answered["for_seconds"] is answered["set_by"] is None
    await until_told({})


@pytest.mark.parametrize(
    ("metric", "body", "field"),
    [
        ("queue_length", {"warning": 10, "critical": 9}, "warning"),
        ("queue_length", {"warning": -1}, "warning"),
        ("queue_length", {"critical": 1e19}, "critical"),
        ("queue_length", {"warning": "ten"}, "warning"),
        ("queue_length", {"warning": 1, "for_seconds": 61}, "for_seconds"),
        ("queue_length", {"warn": 1}, "warn"),
        ("error_ratio", {"critical": 1.01}, "critical"),
        ("cpu_usage_ratio", {"warning": 70}, "warning"),
        ("active_workers_ratio", {"warning": 1}, "warning"),
        ("response_time_p95_seconds", {"warning": 1, "critical": 5}, "critical"),
    ],
)
async def test_a_wrong_threshold_is_refused_by_its_field(
    root: Person, metric: str, body: dict[str, Any], field: str
) -> None:
    answer = await root.post(f"/monitoring/thresholds/{metric}", body)
    assert (answer.status, [e["field"] for e in (await answer.json())["errors"]]) == (422, [field])
    assert told() == {}


async def test_a_threshold_is_taken_up_to_what_its_figure_comes_to(root: Person) -> None:
    bounds = {metric: measure.below for metric, measure in METRICS.items() if measure.below is not None}
    assert all(metric in bounds for metric in METRICS if metric.endswith("_ratio"))
    for metric, below in bounds.items():
        await set_(root, metric, critical=math.nextafter(below, 0), for_seconds=0)


def test_times_of_requests_are_told_apart_up_to_the_bound_of_their_threshold() -> None:
    assert METRICS["response_time_p95_seconds"].below == metrics.HTTP_SECONDS[-1]


async def test_a_number_beyond_all_numbers_is_refused(root: Person) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await root.request("POST", f"{PATH}/queue_length", data=b'{"warning": 1e999}', headers=headers)
    assert answer.status in (400, 422) and told() == {}


@pytest.mark.parametrize("name", ["nothing", "ytdl_queue_jobs", 'error_ratio"}', "Error_ratio"])
async def test_what_is_no_such_figure_has_no_threshold(root: Person, name: str) -> None:
    assert (await root.post(f"{PATH}/{name}", {"warning": 1})).status == 404


async def test_thresholds_are_for_admins(service: Service, alice: Person) -> None:
    assert (await alice.get("/monitoring/thresholds")).status == 403
    assert (await alice.post("/monitoring/thresholds/queue_length", {"warning": 1})).status == 403


async def test_a_change_is_on_record(service: Service, root: Person) -> None:
    await set_(root, "queue_length", warning=10)
    await set_(root, "queue_length")
    await set_(root, "queue_length")
    rows = await sql(
        service.app[DB_KEY],
        "SELECT type, user_id, object_id, detail FROM audit_events WHERE object_kind = 'threshold' ORDER BY at",
    )
    assert [row[:3] for row in rows] == [
        ("sensitive_update", root.user_id, "queue_length"),
        ("sensitive_delete", root.user_id, "queue_length"),
    ]
    assert rows[0][3] == {"warning": 10, "critical": None, "for_seconds": 300}


async def test_a_restart_tells_what_was_set(config: Config) -> None:
    async with running(config) as service, service.person("root", role="admin") as root:
        await set_(root, "queue_length", warning=10)
    assert told() == {}
    async with running(config):
        await until_told({("queue_length", "warning", "300"): 10})


async def test_what_another_process_sets_is_told_without_waiting_for_a_round(service: Service, root: Person) -> None:
    """The row is written behind this process's back, and the word of it comes as another's would."""
    await sql(
        service.app[DB_KEY],
        "INSERT INTO thresholds (metric, critical, for_seconds) VALUES ('disk_usage_ratio', 0.9, 0)",
    )
    assert told() == {}
    await service.app[EVENTS].tell("thresholds", "disk_usage_ratio")
    await until_told({("disk_usage_ratio", "critical", "0"): 0.9})


async def test_a_lost_word_costs_no_more_than_a_round(config: Config) -> None:
    async with running(dataclasses.replace(config, metrics_collection_interval=0.2)) as service:
        await asyncio.sleep(0.5)
        await sql(
            service.app[DB_KEY], "INSERT INTO thresholds (metric, warning, for_seconds) VALUES ('queue_length', 1, 0)"
        )
        await until_told({("queue_length", "warning", "0"): 1})


async def test_the_threshold_outlives_who_set_it(service: Service, root: Person) -> None:
    await set_(root, "queue_length", warning=10)
    await sql(service.app[DB_KEY], "UPDATE thresholds SET set_by = NULL")
    found = (await listed(root))["queue_length"]
    assert (found["warning"], found["set_by"], found["set_by_name"]) == (10, None, None)


async def until_told(wanted: dict[tuple[str, str, str], float]) -> None:
    async with asyncio.timeout(20):
        while told() != wanted:  # noqa: ASYNC110 - nobody says when it is told
            await asyncio.sleep(0.02)
