"""A report of the audit trail as a table for spreadsheets and as a text for people.

Cells and words may have come from clients: nothing in them is a formula to a spreadsheet, or a mark or a tag to what
shows the text.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from ytdl.security import Event, Report

# What begins a formula, also where something stands before it that a spreadsheet passes over.
_FORMULA = re.compile(r"[\s\u200b\ufeff]*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r]")
_MARK = re.compile(r"[\\`*_\[\]<>|~&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
Row = tuple[object, ...]


def csv_of(report: Report) -> str:
    """Columns `section`, `key`, `name`, `events`, `warnings`, `detail`; RFC 4180."""
    out = io.StringIO()
    writer = csv.writer(out)
    for row in (("section", "key", "name", "events", "warnings", "detail"), *_rows(report)):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _rows(report: Report) -> Iterator[Row]:
    yield ("window", "from", _moment(report.from_), "", "", "")
    yield ("window", "to", _moment(report.to), "", "", "")
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


def _cell(value: object) -> object:
    """A number as it is; a text that a spreadsheet would reckon with gets an apostrophe in front."""
    if isinstance(value, int):
        return value
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) else text


def markdown_of(report: Report) -> str:
    lines = [
        "# Security report",
        "",
        f"From {_moment(report.from_)} to {_moment(report.to)}, made at {_moment(report.made_at)}: "
        f"{report.events} events.",
    ]
    for title, heads, rows in _tables(report):
        lines += ["", f"## {title}", "", *(_table(heads, rows) if rows else ["None."])]
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
    notable = [(_moment(event.at), event.type, _sentence(event)) for event in report.notable]
    yield "Notable events", ("at", "type", "what"), list(notable)


def _table(heads: tuple[str, ...], rows: list[Row]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(_words(value) for value in row)} |"


def _words(value: object) -> str:
    """A text without lines of its own, and every mark taken for itself."""
    return _MARK.sub(r"\\\g<0>", " ".join(str(value).split()))


def _sentence(event: Event) -> str:
    parts = {
        "at": _moment(event.at),
        "result": event.result,
        "user": event.username or event.user_id,
        "object": f"{event.object.kind} {event.object.id or ''}".strip() if event.object else None,
        "address": event.ip,
        "request": event.request_id,
        **event.detail,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
