"""Of one trouble one alert tells: which are silent while others fire, as a real Alertmanager does it, and only then."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests import rules, watching
from tests.instance import ROOT
from tests.watching import Watcher
from ytdl import routing

pytestmark = pytest.mark.asyncio(loop_scope="module")
RANKS = ("info", "warning", "critical")
HERE = {"job": "ytdl", "instance": "a"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shipped(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watcher]:
    """One for all: each test's alerts have a job of their own."""
    folder: Path = tmp_path_factory.mktemp("inhibitions")
    async with watching.alertmanager(folder, ROOT / "alertmanager" / "alertmanager.yml") as found:
        yield found


async def silent(server: Watcher, *alerts: dict[str, str], looks: int = 200) -> list[dict[str, str]]:
    """Those of the alerts that are told of by others, after some looks, as causes are taken up one by one."""
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    told = [{"labels": labels, "endsAt": ends} for labels in alerts]
    async with aiohttp.ClientSession() as client, client.post(f"{server.url}/api/v2/alerts", json=told) as answer:
        assert answer.status == 200, await answer.text()
    for _ in range(looks):
        found: list[dict[str, Any]] = await server.get("/api/v2/alerts", filter=f'job="{alerts[0]["job"]}"')
        assert len(found) == len(alerts)
        if told_of := [alert["labels"] for alert in found if alert["status"]["inhibitedBy"]]:
            return told_of
        await asyncio.sleep(0.1)
    return []


CASES = [
    ("ThresholdCritical", "ThresholdWarning", {"metric": "queue_length", "hold": "0"}, {"metric": "error_ratio"}),
    ("ThresholdCritical", "ThresholdWarning", {"metric": "queue_length"}, {"instance": "b"}),
    ("RedisDown", "RateLimiterDegraded", {}, {"instance": "b"}),
    ("RedisDown", "QueueStalled", {}, {"job": "other"}),
    ("DiskFull", "QueueStalled", {}, {"job": "other"}),
    ("ForkServerDown", "QueueStalled", {}, {"job": "other"}),
    ("DiskFull", "DiskWillFill", {}, {"instance": "b"}),
    ("DiskFull", "DownloadsPutOffForDisk", {}, {"job": "other"}),
    ("DiskFull", "NotReady", {"check": "disk"}, {"check": "ffmpeg"}),
    ("DiskFull", "NotReady", {"check": "disk"}, {"instance": "b"}),
    ("AllLanesPaused", "LanePaused", {"lane": "direct"}, {"job": "other"}),
    ("AllLanesPaused", "BotChecksRising", {"lane": "direct"}, {"job": "other"}),
]


@watching.needs_alertmanager
@pytest.mark.parametrize(("cause", "less", "labels", "elsewhere"), CASES)
async def test_what_another_alert_says_is_not_told_twice(
    shipped: Watcher, cause: str, less: str, labels: dict[str, str], elsewhere: dict[str, str]
) -> None:
    job = f"{cause}-{less}-{'-'.join(elsewhere)}"
    source = HERE | labels | {"alertname": cause, "job": job}
    same, other = source | {"alertname": less, "hold": "60"}, source | {"alertname": less} | elsewhere
    alerts = [source, same] + ([other] if other["job"] == job else [])
    assert await silent(shipped, *alerts) == [same]
    if other["job"] != job:
        assert await silent(shipped, other | {"job": f"{job}-other"}, looks=3) == []


@watching.needs_alertmanager
async def test_a_stalled_queue_is_told_where_none_of_its_causes_fires(shipped: Watcher) -> None:
    stalled = {"alertname": "QueueStalled", "job": "alone"}
    others = HERE | {"alertname": "RateLimiterDegraded", "job": "alone"}
    assert await silent(shipped, stalled, others, looks=3) == []


def alerts_of(names: str) -> list[rules.Rule]:
    found = [rule for rule in rules.ALERTS if rule.name in names.split("|")]
    assert {rule.name for rule in found} == set(names.split("|"))
    return found


@pytest.mark.parametrize("row", routing.LESS_SAID, ids=lambda row: f"{row.cause}>{row.less}")
async def test_alerts_have_the_labels_by_which_one_silences_the_other(row: routing.LessSaid) -> None:
    """Without them all would be equal, or none."""
    for rule in (*alerts_of(row.cause), *alerts_of(row.less)):
        assert set(row.equal) <= rules.labels_of(rule), rule
    assert all(label in rules.labels_of(rule) for rule in alerts_of(row.less) for label, _ in row.only)


@pytest.mark.parametrize("row", routing.LESS_SAID, ids=lambda row: f"{row.cause}>{row.less}")
async def test_nothing_is_silenced_by_what_is_less_urgent(row: routing.LessSaid) -> None:
    least = min(RANKS.index(rule.labels["severity"]) for rule in alerts_of(row.cause))
    assert all(RANKS.index(rule.labels["severity"]) <= least for rule in alerts_of(row.less))


async def test_each_of_them_is_tried() -> None:
    pairs = {(a, b) for row in routing.LESS_SAID for a in row.cause.split("|") for b in row.less.split("|")}
    assert pairs == {(cause, less) for cause, less, _, _ in CASES}
