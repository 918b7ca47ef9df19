"""Tables for spreadsheets and for people: CSV and Markdown in which no text is more than text.

Cells and words may have come from clients: nothing in them is a formula to a spreadsheet, or a mark or a tag to what
shows the text.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

# What begins a formula, also where something stands before it that a spreadsheet passes over.
_FORMULA = re.compile(r"[\s\u200b\ufeff]*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r]")
_MARK = re.compile(r"[\\`*_\[\]<>|~&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
Row = tuple[object, ...]


def csv_of(heads: Row, rows: Iterable[Row]) -> str:
    """RFC 4180."""
    out = io.StringIO()
    writer = csv.writer(out)
    for row in (heads, *rows):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> object:
    """A number as it is; a text that a spreadsheet would reckon with gets an apostrophe in front."""
    if isinstance(value, int | float):
        return value
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) else text


def markdown_of(heads: tuple[str, ...], rows: Iterable[Row]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(_words(value) for value in row)} |"


def _words(value: object) -> str:
    """A text without lines of its own, and every mark taken for itself."""
    return _MARK.sub(r"\\\g<0>", " ".join(("" if value is None else str(value)).split()))


def moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
