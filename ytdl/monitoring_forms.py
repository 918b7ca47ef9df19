"""A monitoring report as a table for spreadsheets and as a text for people; `tables` keeps texts from being more than
that."""

from collections.abc import Iterator

from ytdl import tables
from ytdl.monitoring_report import MonitoringReport
from ytdl.tables import Row, moment

HEADS = ("section", "name", "of", "figure", "value")


def csv_of(report: MonitoringReport) -> str:
    """Columns `section`, `name`, `of`, `figure` and `value`, a figure a row; RFC 4180."""
    return tables.csv_of(HEADS, _rows(report))


def _rows(report: MonitoringReport) -> Iterator[Row]:
    yield ("window", "from", "", "", moment(report.from_))
    yield ("window", "to", "", "", moment(report.to))
    for title, heads, rows in _tables(report):
        section = title.lower().replace(" ", "_")
        # What names a row comes first, and its figures follow.
        names = 2 if section in ("alerts", "figures") else 1
        for row in rows:
            name, of = (*row[:names], "")[:2]
            for head, value in zip(heads[names:], row[names:], strict=True):
                yield section, name, of, head, value


def markdown_of(report: MonitoringReport) -> str:
    lines = [
        "# Monitoring report",
        "",
        f"From {moment(report.from_)} to {moment(report.to)}, made at {moment(report.made_at)}, looked at every "
        f"{report.step_seconds:g} seconds.",
    ]
    if report.dashboard_url:
        lines += ["", f"Dashboard: <{report.dashboard_url}>"]
    for title, heads, rows in _tables(report):
        lines += ["", f"## {title}", "", *(tables.markdown_of(heads, rows) if rows else ["None."])]
    return "\n".join(lines) + "\n"


def _tables(report: MonitoringReport) -> Iterator[tuple[str, tuple[str, ...], list[Row]]]:
    objectives: list[Row] = [(o.name, o.target, o.events, o.failures, o.kept, o.budget_left) for o in report.objectives]
    yield "Objectives", ("objective", "target", "events", "failures", "kept", "budget left"), objectives
    alerts: list[Row] = [
        (a.name, a.severity, a.firing_seconds, "yes" if a.firing_at_end else "no") for a in report.alerts
    ]
    yield "Alerts", ("alert", "severity", "firing seconds", "firing at end"), alerts
    instances: list[Row] = [(i.instance, i.reached) for i in report.instances]
    yield "Instances", ("instance", "reached"), instances
    figures: list[Row] = [(f.metric_name, f.instance, f.min, f.mean, f.p95, f.max) for f in report.figures]
    yield "Figures", ("figure", "instance", "min", "mean", "p95", "max"), figures
    routes: list[Row] = [(r.route, r.requests, r.failed, r.p95_seconds) for r in report.routes]
    yield "Routes", ("route", "requests", "failed", "p95 seconds"), routes
    yield "Downloads", ("status", "downloads"), list(report.downloads.items())
    yield "Failed attempts", ("reason", "attempts"), list(report.failures.items())
