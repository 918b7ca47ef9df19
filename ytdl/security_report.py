"""A report of the audit trail as a table for spreadsheets and as a text for people; `tables` keeps texts from being
more than that."""

from collections.abc import Iterator, Mapping

from ytdl import tables
from ytdl.security import Event, Report
from ytdl.tables import Row, moment


def csv_of(report: Report) -> str:
    """Columns `section`, `key`, `name`, `events`, `warnings`, `detail`; RFC 4180."""
    return tables.csv_of(("section", "key", "name", "events", "warnings", "detail"), _rows(report))


def _rows(report: Report) -> Iterator[Row]:
    yield ("window", "from", moment(report.from_), "", "", "")
    yield ("window", "to", moment(report.to), "", "", "")
    yield ("total", "", "", report.events, report.by_severity["warning"] + report.by_severity["critical"], "")
    for section, counts in _sections(report).items():
        yield from ((section, name, "", events, "", "") for name, events in counts.items())
    for day in report.by_day:
        warnings = day.events - day.by_severity["info"]
        yield ("by_day", day.day, "", day.events, warnings, "")
    yield from (("top_addresses", a.ip, "", a.events, a.warnings, "") for a in report.top_addresses)
    yield from (("top_users", p.user_id, p.username or "", p.events, p.warnings, "") for p in report.top_users)
    yield from (("notable", event.id, event.type, "", "", _sentence(event)) for event in report.notable)


def _sections(report: Report) -> dict[str, Mapping[str, int]]:
    return {"by_type": report.by_type, "by_severity": report.by_severity, "by_result": report.by_result}


def markdown_of(report: Report) -> str:
    lines = [
        "# Security report",
        "",
        f"From {moment(report.from_)} to {moment(report.to)}, made at {moment(report.made_at)}: "
        f"{report.events} events.",
    ]
    for title, heads, rows in _tables(report):
        lines += ["", f"## {title}", "", *(tables.markdown_of(heads, rows) if rows else ["None."])]
    return "\n".join(lines) + "\n"


def _tables(report: Report) -> Iterator[tuple[str, tuple[str, ...], list[Row]]]:
    titles = {"by_type": "By type", "by_severity": "By severity", "by_result": "By result"}
    for section, counts in _sections(report).items():
        yield titles[section], (titles[section][3:], "events"), list(counts.items())
    counted = ("events", "warnings")
    days = [(day.day, day.events, day.events - day.by_severity["info"]) for day in report.by_day]
    yield "By day", ("day", *counted), list(days)
    yield "Top addresses", ("address", *counted), [(a.ip, a.events, a.warnings) for a in report.top_addresses]
    people = [(p.username or p.user_id, p.events, p.warnings) for p in report.top_users]
    yield "Top users", ("user", *counted), list(people)
    notable = [(moment(event.at), event.type, _sentence(event)) for event in report.notable]
    yield "Notable events", ("at", "type", "what"), list(notable)


def _sentence(event: Event) -> str:
    parts = {
        "at": moment(event.at),
        "result": event.result,
        "user": event.username or event.user_id,
        "object": f"{event.object.kind} {event.object.id or ''}".strip() if event.object else None,
        "address": event.ip,
        "request": event.request_id,
        **event.detail,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
