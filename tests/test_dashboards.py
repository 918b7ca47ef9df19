"""The dashboards: what Grafana's own linter asks of them, and that whatever they ask for is there.

Whether each panel shows something while the service works is seen where a real Prometheus scrapes it.
"""

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from tests import dashboards
from tests.dashboards import DASHBOARDS, panels
from tests.instance import ROOT
from tests.watching import PROMTOOL, needs_promtool
from ytdl import metrics
from ytdl.config import Config
from ytdl.routes import ROUTES

NAMES = ["analytics", "downloads", "fetcher", "http", "overview", "queue", "security", "servers", "system"]
PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in panels(dashboard)]
TARGETS = [(name, panel["title"], target) for name, panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [(name, title, target["expr"]) for name, title, target in TARGETS if "expr" in target]
MARKS = [(name, one["name"], one["expr"]) for name, board in DASHBOARDS.items() for one in board["annotations"]["list"]]
# Those that are shown; a unit of another name would be printed after the number.
UNITS = {
    "none", "short", "string", "s", "bytes", "binBps", "percentunit", "reqps", "ops", "dateTimeAsIso",
}  # fmt: skip
WORDS = {"and", "or", "unless", "offset", "bool"}
GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# What other programs tell of themselves, and what Prometheus makes of rules and scrapes.
FOREIGN = re.compile(r"ALERTS|up|scrape_\w+|(alertmanager|prometheus|process|python)_\w+")
RULES = [
    rule for file in sorted((ROOT / "prometheus/rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
]  # fmt: skip
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def _series(metric: MetricWrapperBase) -> list[str]:
    name = next(iter(metric.describe())).name
    if isinstance(metric, Counter):
        return [f"{name}_total"]
    return [f"{name}_{end}" for end in ("bucket", "sum", "count")] if isinstance(metric, Histogram) else [name]


# Histograms that are told of traces, wherever the service observes one with its exemplar.
TOLD = {"ytdl_http_request_seconds", "ytdl_downloads_seconds", "ytdl_queue_wait_seconds"}
METHODS = {row.path: row.method for row in ROUTES}
METRICS = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
DECLARED = {name: metric for metric in METRICS for name in _series(metric)}


def _named(expression: str) -> list[tuple[str, str]]:
    """Every series that is asked for, with what its braces hold."""
    bare = re.sub(r"\[[^]]*\]", "", GROUPED.sub(" ", re.sub(r'"[^"]*"', '""', expression)))
    # What a parenthesis or `by` follows is a function.
    found = re.finditer(r"(?<![\w:])([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?(?![\w:]|\s*\()", bare)
    return [(one[1], one[2] or "") for one in found if one[1] not in WORDS]


def _ids(rows: list[Any]) -> list[str]:
    titles = [row[1] if isinstance(row[1], str) else row[1]["title"] for row in rows]
    return [f"{row[0]}-{title}" for row, title in zip(rows, titles, strict=True)]


every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)
every_panel = pytest.mark.parametrize(("name", "panel"), PANELS, ids=_ids(PANELS))
every_expression = pytest.mark.parametrize(
    ("name", "title", "expression"), EXPRESSIONS, ids=[f"{one}-{n}" for n, one in enumerate(_ids(EXPRESSIONS))]
)


def test_the_files_are_what_is_made() -> None:
    """`make dashboards` writes them. In a process of its own, because the SDK warns when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "grafana.build", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_is_a_dashboard_of_each_part() -> None:
    assert sorted(DASHBOARDS) == NAMES


@every_dashboard
def test_a_dashboard_is_named_and_is_not_changed_in_grafana(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"ytdl-{name}" and dashboard["title"].startswith("ytdl: ")
    assert dashboard["description"].endswith(".") and dashboard["editable"] is False
    assert dashboard["tags"] == ["ytdl"] and dashboard["refresh"] and dashboard["time"]["to"] == "now"


@every_dashboard
def test_whoever_looks_chooses_data_source_job_and_instance(name: str) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARDS[name]["templating"]["list"]}
    assert next(iter(variables)) == "datasource" and variables["datasource"]["label"] == "Data source"
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for label in ("job", "instance"):
        one = variables[label]
        assert (one["type"], one["label"], one["multi"], one["allValue"]) == ("query", label.title(), True, ".+")
        assert one["refresh"] == 2 and one["includeAll"] and one["datasource"]["uid"] == "${datasource}"
        assert re.fullmatch(rf"label_values\(ytdl_build_info(\{{job=~\"\$job\"\}})?, {label}\)", one["query"])


@every_dashboard
def test_new_versions_and_alerts_are_marked(name: str) -> None:
    marks = {one["name"]: one for one in DASHBOARDS[name]["annotations"]["list"]}
    assert "ytdl_build_info" in marks["New versions"]["expr"] and "ALERTS" in marks["Alerts"]["expr"]
    assert all(one["enable"] and one["datasource"]["uid"] == "${datasource}" for one in marks.values())


@every_dashboard
def test_every_other_dashboard_is_one_step_away(name: str) -> None:
    [link] = DASHBOARDS[name]["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", ["ytdl"], True, True)


def test_the_overview_leads_to_every_other_dashboard() -> None:
    urls = [link["url"] for panel in panels(DASHBOARDS["overview"]) for link in panel.get("links", [])]
    led = {found[1] for url in urls if (found := re.match(r"/d/ytdl-(\w+)\?", url))}
    assert led == set(NAMES) - {"overview"}


@every_dashboard
def test_panels_have_numbers_and_places_of_their_own_and_room_for_a_thumb(name: str) -> None:
    shown = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert len({panel["title"] for panel in shown}) == len(shown)
    places = [panel["gridPos"] for panel in shown]
    cells = [
        (x, y)
        for p in places
        for x, y in itertools.product(range(p["x"], p["x"] + p["w"]), range(p["y"], p["y"] + p["h"]))
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    assert all(place["w"] >= 6 for place in places)


@every_panel
def test_a_panel_says_what_it_shows_what_is_normal_and_what_to_do(name: str, panel: dict[str, Any]) -> None:
    shows, normal, otherwise = panel["description"].split("\n\n")
    assert panel["title"] and normal.startswith("**Normal:** ") and otherwise.startswith("**Otherwise:** ")
    assert all(part.rstrip().endswith(".") for part in (shows, normal, otherwise))


@every_panel
def test_a_panel_asks_something_of_a_chosen_data_source(name: str, panel: dict[str, Any]) -> None:
    assert panel["targets"] and len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"]["uid"] in {"${datasource}", "${postgres_datasource}"}
        assert target["datasource"] == panel["datasource"]
        assert (target.get("expr") or target.get("rawSql")).strip()


@every_panel
def test_a_panel_has_a_unit_that_grafana_knows(name: str, panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    changed = [p for o in panel["fieldConfig"].get("overrides") or [] for p in o["properties"] if p["id"] == "unit"]
    assert all(one["value"] in UNITS for one in changed)


@every_panel
def test_a_panels_links_lead_to_what_exists(name: str, panel: dict[str, Any]) -> None:
    for link in panel.get("links") or []:
        if found := re.match(r"\$\{runbooks\}/(\w+)\.md#(\w+)$", link["url"]):
            text = (ROOT / "docs/runbooks" / f"{found[1]}.md").read_text()
            assert f"\n## {found[2]}\n" in text.lower() and link["title"].lower().endswith(found[2])
        else:
            board = re.match(r"/d/ytdl-(\w+)\?", link["url"])
            assert board and board[1] in NAMES and board[1] != name


@every_panel
def test_a_panel_speaks_of_addresses_and_settings_that_exist(name: str, panel: dict[str, Any]) -> None:
    named = re.findall(r"(?:([A-Z]+) )?/api/v1(/[\w/{}-]+)", panel["description"])
    assert {(method or METHODS[path], path) for method, path in named} <= {(row.method, row.path) for row in ROUTES}
    settings = {field.name.upper() for field in dataclasses.fields(Config)}
    assert set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b", panel["description"])) <= settings


@every_panel
def test_what_is_called_an_objective_is_the_one_that_alerts_speak_of(name: str, panel: dict[str, Any]) -> None:
    """Each counts some routes and leaves out others, which nothing but its rule knows."""
    leads = any("/objectives.md#" in link["url"] for link in panel.get("links") or [])
    if leads or "objective" in panel["description"].partition("**Otherwise")[0].replace("objectives", ""):
        assert all("ytdl:objective" in target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("alert", ALERTS)
def test_the_dashboard_of_an_alert_leads_to_its_runbook(alert: str) -> None:
    name = ALERTS[alert]["annotations"]["dashboard_url"].rpartition("/d/ytdl-")[2]
    urls = {link["url"] for panel in panels(DASHBOARDS[name]) for link in panel.get("links") or []}
    assert any(url.endswith(f"#{alert.lower()}") for url in urls)


@every_expression
def test_an_expression_asks_only_for_series_that_exist(name: str, title: str, expression: str) -> None:
    named = {series for series, _ in _named(expression)}
    unknown = {one for one in named if one not in DECLARED and one not in RECORDED and not FOREIGN.fullmatch(one)}
    assert not unknown


@every_expression
def test_an_expression_names_only_labels_that_its_series_have(name: str, title: str, expression: str) -> None:
    for series, inside in _named(expression):
        if series in DECLARED:
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
            assert asked <= {*DECLARED[series]._labelnames, "job", "instance", "le"}, series


@every_expression
def test_an_expression_is_narrowed_to_the_chosen_job_and_instance(name: str, title: str, expression: str) -> None:
    for series, _ in _named(expression):
        whole = re.findall(rf"\b{re.escape(series)}(\{{[^}}]*\}})?", expression)
        if series in DECLARED or series.startswith(("process_", "python_")):
            assert all('job=~"$job"' in braces and 'instance=~"$instance"' in braces for braces in whole), series
        elif series in RECORDED:
            assert all('job=~"$job"' in braces for braces in whole), series


@every_expression
def test_rates_are_taken_over_the_interval_that_fits_the_page(name: str, title: str, expression: str) -> None:
    """A fixed one would show nothing where the scrape interval is longer, or gaps where the page spans weeks."""
    assert set(re.findall(r"\b(?:rate|irate)\(\s*[^\[]*\[([^]]*)\]", expression)) <= {"$__rate_interval"}
    assert set(re.findall(r"\[([^]]*)\]", expression)) <= {"$__rate_interval", "$__range"}


@every_expression
def test_what_is_counted_is_seen_as_growth(name: str, title: str, expression: str) -> None:
    for series, _ in _named(expression):
        if series.endswith(("_total", "_count", "_sum", "_bucket")):
            asked = len(re.findall(rf"\b{series}\b", expression))
            assert len(re.findall(rf"\b(?:rate|irate|increase)\({series}\b", expression)) == asked


@every_expression
def test_failures_are_asked_of_a_series_that_is_there_before_them(name: str, title: str, expression: str) -> None:
    """That of a status begins with its first answer, which no growth sees."""
    assert not re.search(r'status=~?"5', expression)


@every_panel
def test_a_histogram_that_names_traces_is_asked_for_them(name: str, panel: dict[str, Any]) -> None:
    """Where a line or a cell has a place on the time axis, so that they can stand beside it."""
    drawn = panel["type"] in {"timeseries", "heatmap"}
    for target in panel["targets"]:
        told = {f"{series}_bucket" for series in TOLD} & {series for series, _ in _named(target.get("expr", ""))}
        assert target.get("exemplar", False) is (drawn and bool(told))


def test_the_source_leads_from_a_trace_to_where_traces_are_read() -> None:
    file = ROOT / "grafana/provisioning/datasources/ytdl.yml"
    [source] = [one for one in yaml.safe_load(file.read_text())["datasources"] if one["type"] == "prometheus"]
    [leads] = source["jsonData"]["exemplarTraceIdDestinations"]
    # Grafana leaves one of two dollars where no variable of its environment is meant.
    assert (leads["name"], leads["url"]) == ("trace_id", "$GRAFANA_TRACES_URL$${__value.raw}")


@needs_promtool
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": dashboards.prom(expression)}
        for n, (_, _, expression) in enumerate([*EXPRESSIONS, *MARKS])
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", "--lint=none", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Declared, and seen nowhere but on /metrics, each for a reason.
UNSEEN: dict[str, str] = {}


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    asked = " ".join([*(expression for _, _, expression in EXPRESSIONS), *(str(rule["expr"]) for rule in RULES)])
    names = set(re.findall(r"[a-z_]\w*", asked))
    missing = {next(iter(metric.describe())).name for metric in METRICS if not names & set(_series(metric))}
    assert sorted(missing) == sorted(UNSEEN)


def test_panels_that_may_be_empty_exist() -> None:
    assert {*dashboards.QUIET, *dashboards.VARYING} <= {(name, panel["title"]) for name, panel in PANELS}


def test_data_sources_are_those_that_dashboards_name_and_hold_no_secret() -> None:
    file = ROOT / "grafana/provisioning/datasources/ytdl.yml"
    sources = {one["uid"]: one for one in yaml.safe_load(file.read_text())["datasources"]}
    chosen = {
        v["current"]["value"] for d in DASHBOARDS.values() for v in d["templating"]["list"] if v["type"] == "datasource"
    }
    assert sources.keys() == chosen
    assert not any(one["editable"] for one in sources.values())
    held = [sources["ytdl-postgres"][key] for key in ("url", "user")] + [sources["ytdl-prometheus"]["url"]]
    held += [*sources["ytdl-postgres"]["secureJsonData"].values()]
    assert all(re.fullmatch(r"\$[A-Z_]+", text) for text in held)


def test_grafana_reads_the_dashboards_from_their_folder_and_keeps_them() -> None:
    file = ROOT / "grafana/provisioning/dashboards/ytdl.yml"
    [provider] = yaml.safe_load(file.read_text())["providers"]
    assert provider["type"] == "file" and provider["allowUiUpdates"] is False
    assert provider["options"]["path"] == "$GRAFANA_DASHBOARDS"
