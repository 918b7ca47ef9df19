"""The settings' table and what is made from it are the same."""

from tests.shape.source import ROOT, attributes_of
from ytdl import config, config_pages


def test_the_configuration_page_is_up_to_date() -> None:
    assert (ROOT / "docs/CONFIGURATION.md").read_text() == config_pages.markdown(), (
        "run: ytdl config --markdown > docs/CONFIGURATION.md"
    )


def test_the_example_is_up_to_date() -> None:
    assert (ROOT / ".env.example").read_text() == config_pages.env_example(), "run: ytdl config --env > .env.example"


def test_the_configuration_of_prometheus_is_that_of_the_defaults() -> None:
    assert (ROOT / "prometheus/prometheus.yml").read_text() == config_pages.prometheus(config.Config()), (
        "run: env -i .venv/bin/ytdl config --prometheus > prometheus/prometheus.yml"
    )


def test_every_setting_is_used() -> None:
    sources = [p.read_text() for p in (ROOT / "ytdl").rglob("*.py") if p.name != "config.py"]
    unused = [f.name for f in config.FIELDS.values() if not any(f".{f.name}" in s for s in sources)]
    assert unused == []


def test_only_config_reads_the_environment() -> None:
    reading = {module for module, names in attributes_of("os").items() if names & {"environ", "getenv"}}
    assert {m for m in reading if not m.startswith(("ytdl.child", "ytdl.embedded", "ytdl.fetcher"))} <= {"ytdl.config"}
