"""A warning that nobody takes up becomes a critical alert, through real servers and by the project's own rule.

Prometheus finds the warning and tells Alertmanager, the service sees it there and shows since when it waits, and
Prometheus makes of that what wakes somebody. Minutes are seconds here.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Service, running
from tests.watching import PROMETHEUS_FOLDER, Watcher, alertmanager, needs_alertmanager, needs_prometheus, prometheus
from ytdl.api.keys import ALERTMANAGER
from ytdl.config import Config

pytestmark = [needs_prometheus, needs_alertmanager, pytest.mark.slow]
LONGEST_SECONDS = 90.0
# A warning while the series is there that a test may take away.
WARNING = {"alert": "Example", "expr": "vector(1)", "labels": {"severity": "warning"}}


def shortened() -> dict[str, Any]:
    """The rule as it is delivered, with its half an hour and its minute as seconds."""
    groups = yaml.safe_load((PROMETHEUS_FOLDER / "rules/monitoring.yml").read_text())["groups"]
    [rule] = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "WarningUnacknowledged"]
    expression = rule["expr"].replace("[1m]", "[3s]").replace("> 1800", "> 2")
    assert expression.count("[3s]") == expression.count("> 2") == 1
    return {**rule, "expr": expression}


@pytest.fixture
async def escalating(config: Config, tmp_path: Path) -> AsyncIterator[Service]:
    """All three, each knowing the next."""
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [WARNING, shortened()]}]}))
    async with AsyncExitStack() as stack:
        alerts = await stack.enter_async_context(alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml"))
        config = dataclasses.replace(config, alertmanager_url=alerts.url, alert_check_interval=0.2)
        service = await stack.enter_async_context(running(config))
        await stack.enter_async_context(prometheus(tmp_path / "p", watching(service, alerts, tmp_path / "rules.yml")))
        yield service


def watching(service: Service, alerts: Watcher, rules: Path) -> dict[str, Any]:
    def to(url: str) -> list[dict[str, list[str]]]:
        return [{"targets": [url.removeprefix("http://")]}]

    return {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ytdl", "static_configs": to(service.url)}],
        "alerting": {"alertmanagers": [{"static_configs": to(alerts.url)}]},
    }


async def fire(service: Service, *names: str) -> dict[str, Any]:
    """The alerts that fire, silenced or not, once they are those."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            found = {alert.labels["alertname"]: alert for alert in await service.app[ALERTMANAGER].alerts()}
            if set(found) == set(names):
                return found
            await asyncio.sleep(0.1)


async def test_a_warning_that_nobody_takes_up_wakes_somebody_until_somebody_does(escalating: Service) -> None:
    found = await fire(escalating, "Example", "WarningUnacknowledged")
    assert found["WarningUnacknowledged"].labels == {
        "alertname": "WarningUnacknowledged", "severity": "critical", "job": "ytdl", "warning": "Example"
    }  # fmt: skip
    async with escalating.person("root", role="admin") as root:
        wish = {"fingerprint": found["Example"].fingerprint, "comment": "I am at it."}
        assert (await root.post("/monitoring/alerts/acknowledge", wish)).status == 200
        await fire(escalating, "Example")
        # Given back it waits again, from now on.
        await root.delete(f"/monitoring/alerts/acknowledge/{found['Example'].fingerprint}")
        await fire(escalating, "Example", "WarningUnacknowledged")
