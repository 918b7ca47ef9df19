"""The prometheus.yml that the settings make: Prometheus takes it, and it says what was set."""

import asyncio
import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.instance import ROOT
from tests.watching import PROMTOOL, alertmanager, needs_alertmanager, needs_prometheus, prometheus
from ytdl import cli, config_pages
from ytdl.config import Config, ConfigError, load

LINKS = {"RUNBOOKS_URL": "https://git.example.org/ytdl/", "GRAFANA_URL": "https://grafana.example.org"}


def made(**settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(config_pages.prometheus(dataclasses.replace(Config(), **settings)))
    return found


def test_the_intervals_are_those_of_the_settings() -> None:
    said = made(metrics_collection_interval=5.0, alert_check_interval=0.25)["global"]
    assert (said["scrape_interval"], said["evaluation_interval"]) == ("5s", "250ms")


def test_prometheus_scrapes_often_enough_for_the_rules_whatever_is_set() -> None:
    said = made(metrics_collection_interval=90.0)["global"]
    assert said["scrape_interval"] == "30s"


def test_the_links_of_alerts_are_those_of_the_settings() -> None:
    said = made(runbooks_url="https://git.example.org/ytdl/", grafana_url='https://grafana.example.org/"#')["global"]
    assert said["external_labels"] == {
        "runbooks": "https://git.example.org/ytdl",
        "grafana": 'https://grafana.example.org/"#',
    }


def test_a_server_is_watched_where_the_settings_say_without_its_password() -> None:
    said = made(alertmanager_url="https://me:secret@[::1]/alerts/", prometheus_url="http://watch:9999", port=81)
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in said["scrape_configs"]}
    assert targets == {"ytdl": "ytdl:81", "prometheus": "watch:9999", "alertmanager": "[::1]:443"}
    assert said["scrape_configs"][2]["metrics_path"] == "/alerts/metrics"
    [told] = said["alerting"]["alertmanagers"]
    assert (told["scheme"], told["path_prefix"], told["static_configs"][0]["targets"]) == (
        "https", "/alerts/", ["[::1]:443"],
    )  # fmt: skip
    assert "secret" not in str(said)


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALERT_CHECK_INTERVAL", "7")
    assert cli.main(["config", "--prometheus"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["global"]["evaluation_interval"] == "7s"


def test_a_link_to_runbooks_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="RUNBOOKS_URL must begin with http"):
        load({"RUNBOOKS_URL": "docs/runbooks"})


@needs_prometheus
def test_promtool_takes_the_file() -> None:
    command = [str(PROMTOOL), "check", "config", str(ROOT / "prometheus/prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
@needs_alertmanager
async def test_an_alert_arrives_with_whole_links_and_without_labels_that_only_make_them(tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    async with alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml") as receiver:
        settings = load({**LINKS, "ALERTMANAGER_URL": receiver.url, "ALERT_CHECK_INTERVAL": "0.2"})
        said = yaml.safe_load(config_pages.prometheus(settings))
        said["rule_files"] = [str(ROOT / "prometheus/rules/monitoring.yml")]
        async with prometheus(tmp_path / "p", said), asyncio.timeout(20):
            while not (alerts := await receiver.get("/api/v2/alerts", filter='alertname="Watchdog"')):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.2)
    assert alerts[0]["labels"] == {"alertname": "Watchdog", "severity": "info"}
    assert alerts[0]["annotations"]["runbook_url"] == "https://git.example.org/ytdl/monitoring.md#watchdog"
    assert alerts[0]["annotations"]["dashboard_url"] == "https://grafana.example.org/d/ytdl-overview"
