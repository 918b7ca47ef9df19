"""The prometheus.yml that the settings make: Prometheus takes it, and it says what was set."""

import asyncio
import dataclasses
import re
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


def promtool(*arguments: str) -> str:
    """What it says where it does not agree."""
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def made(**settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(config_pages.prometheus(dataclasses.replace(Config(), **settings)))
    return found


def test_the_intervals_are_those_of_the_settings() -> None:
    said = made(metrics_collection_interval=5.0, alert_check_interval=0.25)["global"]
    assert (said["scrape_interval"], said["evaluation_interval"]) == ("5s", "250ms")


def test_prometheus_scrapes_often_enough_for_the_rules_whatever_is_set() -> None:
    said = made(metrics_collection_interval=90.0)["global"]
    assert said["scrape_interval"] == "30s"


@pytest.mark.parametrize("seconds", [60.0, 300.0])
def test_prometheus_tries_the_rules_often_enough_whatever_is_set(seconds: float) -> None:
    assert made(alert_check_interval=seconds)["global"]["evaluation_interval"] == "60s"


@pytest.mark.parametrize(("name", "most"), [("ALERT_CHECK_INTERVAL", 300), ("METRICS_COLLECTION_INTERVAL", 120)])
def test_a_look_that_comes_later_than_the_rules_allow_is_refused(name: str, most: int) -> None:
    assert getattr(load({name: str(most)}), name.lower()) == most
    with pytest.raises(ConfigError, match=f"{name} must be at most {most}"):
        load({name: "86400"})


def targets(said: dict[str, Any]) -> dict[str, list[str]]:
    return {job["job_name"]: job["static_configs"][0]["targets"] for job in said["scrape_configs"]}


@pytest.mark.parametrize(
    ("settings", "service", "prometheus", "alertmanager"),
    [
        ({}, "127.0.0.1:8000", "localhost:9090", "localhost:9093"),
        ({"host": "::1"}, "[::1]:8000", "localhost:9090", "localhost:9093"),
        ({"host": "10.1.2.3"}, "10.1.2.3:8000", "prometheus:9090", "alertmanager:9093"),
        ({"host": "0.0.0.0"}, "ytdl:8000", "prometheus:9090", "alertmanager:9093"),
        ({"host": "::", "alertmanager_url": "http://am"}, "ytdl:8000", "prometheus:9090", "am:80"),
        ({"host": "0.0.0.0", "prometheus_url": "http://[::1]:1"}, "localhost:8000", "[::1]:1", "localhost:9093"),
    ],
)
def test_the_service_is_scraped_where_its_settings_say(
    settings: dict[str, str], service: str, prometheus: str, alertmanager: str
) -> None:
    said = made(**settings)
    assert targets(said) == {"ytdl": [service], "prometheus": [prometheus], "alertmanager": [alertmanager]}
    assert said["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == [alertmanager]


def test_several_instances_are_named_to_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--prometheus", "--target", "a.example:81", "--target", "[::1]:82"]) == 0
    assert targets(yaml.safe_load(capsys.readouterr().out))["ytdl"] == ["a.example:81", "[::1]:82"]


@pytest.mark.parametrize("target", ["a", "a:0", "a:65536", "http://a:80", "a:80/metrics", "::1:80", 'a":80'])
def test_a_target_that_is_none_is_refused(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["config", "--prometheus", "--target", target])
    assert "is not HOST:PORT" in capsys.readouterr().err


def test_a_target_without_a_file_to_go_into_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--check", "--target", "a:81"]) == 2
    assert "--target goes with --prometheus" in capsys.readouterr().err


def test_the_links_of_alerts_are_those_of_the_settings() -> None:
    said = made(runbooks_url="https://git.example.org/ytdl/", grafana_url='https://grafana.example.org/"#')["global"]
    assert said["external_labels"] == {
        "runbooks": "https://git.example.org/ytdl",
        "grafana": 'https://grafana.example.org/"#',
    }


def test_a_server_is_watched_where_the_settings_say_without_its_password() -> None:
    said = made(alertmanager_url="https://me:secret@[::1]/alerts/", prometheus_url="http://watch:9999", port=81)
    assert targets(said) == {"ytdl": ["127.0.0.1:81"], "prometheus": ["watch:9999"], "alertmanager": ["[::1]:443"]}
    assert said["scrape_configs"][2]["metrics_path"] == "/alerts/metrics"
    [told] = said["alerting"]["alertmanagers"]
    assert (told["scheme"], told["path_prefix"], told["static_configs"][0]["targets"]) == (
        "https", "/alerts/", ["[::1]:443"],
    )  # fmt: skip
    assert "secret" not in str(said)


@needs_prometheus
def test_a_password_that_is_left_out_is_told_of_and_can_be_filled_in(tmp_path: Path) -> None:
    settings = dataclasses.replace(Config(), alertmanager_url="http://olga:secret@a", prometheus_url="http://token@p")
    text = config_pages.prometheus(settings)
    assert not re.search("secret|token|olga", text)
    assert text.count("PROMETHEUS_URL has a name or a password") == 1
    assert text.count("ALERTMANAGER_URL has a name or a password") == 2
    for name in ("prometheus.password", "alertmanager.password"):
        (tmp_path / name).touch()
    (tmp_path / "prometheus.yml").write_text(text.replace("# basic_auth", "basic_auth"))
    jobs = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert [job.get("basic_auth", {}).get("password_file") for job in jobs] == [
        None, "prometheus.password", "alertmanager.password",
    ]  # fmt: skip
    assert promtool("check", "config", str(tmp_path / "prometheus.yml")) == ""


def test_nothing_is_said_of_passwords_where_there_are_none() -> None:
    assert "basic_auth" not in config_pages.prometheus(Config())


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALERT_CHECK_INTERVAL", "7")
    assert cli.main(["config", "--prometheus"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["global"]["evaluation_interval"] == "7s"


def test_a_link_to_runbooks_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="RUNBOOKS_URL must begin with http"):
        load({"RUNBOOKS_URL": "docs/runbooks"})


@needs_prometheus
def test_promtool_takes_the_file() -> None:
    assert promtool("check", "config", str(ROOT / "prometheus/prometheus.yml")) == ""


@needs_prometheus
@needs_alertmanager
async def test_an_alert_arrives_with_whole_links_and_without_labels_that_only_make_them(tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    async with alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml") as receiver:
        settings = load({**LINKS, "ALERTMANAGER_URL": receiver.url, "ALERT_CHECK_INTERVAL": "0.2"})
        said = yaml.safe_load(config_pages.prometheus(settings))
        said["rule_files"] = [str(ROOT / "prometheus/rules/monitoring.yml")]
        async with prometheus(tmp_path / "p", said), asyncio.timeout(60):
            while not (alerts := await receiver.get("/api/v2/alerts", filter='alertname="Watchdog"')):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.2)
    assert alerts[0]["labels"] == {"alertname": "Watchdog", "severity": "info"}
    assert alerts[0]["annotations"]["runbook_url"] == "https://git.example.org/ytdl/monitoring.md#watchdog"
    assert alerts[0]["annotations"]["dashboard_url"] == "https://grafana.example.org/d/ytdl-overview"
