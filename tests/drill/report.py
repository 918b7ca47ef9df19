"""What came of a drill, for people: a line a fault, and the table for the documentation."""

from collections.abc import Iterable
from datetime import UTC, datetime

from tests.drill.faults import FAULTS
from tests.drill.inbox import KINDS
from tests.drill.run import Course
from tests.instance import ROOT
from tests.rules import ALERTS

HEAD = ["Broken", "Alert", "Severity", "`for`", "Alert after", "Message after", "Channels", "Over after", "Fired too"]
FILE = ROOT / "docs/MONITORING.md"
BEGIN, END = "<!-- Made by `make drill DRILL=--write`. -->", "<!-- The end of the drill. -->"


def seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def channels(course: Course) -> str:
    """How many heard of it; who did not, where most did."""
    silent = sorted(KINDS - set(course.channels))
    missing = f", not {', '.join(silent)}" if 0 < len(silent) < 3 else ""
    return f"{len(KINDS) - len(silent)} of {len(KINDS)}{missing}"


def line(course: Course) -> str:
    if course.skipped:
        return f"skip {course.fault.name:<20} {course.fault.alert:<28} {course.skipped}"
    told = f"message {seconds(course.message_seconds)} by {channels(course)}"
    told += "".join(f", but no {name}" for name in course.missing + course.unheard)
    steps = f"alert {seconds(course.alert_seconds)}, {told}, over {seconds(course.end_seconds)}"
    return f"{'ok  ' if course.ok else 'FAIL'} {course.fault.name:<20} {course.fault.alert:<28} {steps}"


def table(courses: Iterable[Course], former: str = "") -> str:
    """In the order of the faults; `former` is a table whose rows stay, except for faults that came again."""
    rows = {_of(line): line for line in former.splitlines()[2:]}
    rows |= {course.fault.what: _row(_cells(course)) for course in courses if not course.skipped}
    order = [fault.what for fault in FAULTS.values() if fault.what in rows]
    return "\n".join([_row(HEAD), _row(["---"] * len(HEAD)), *(rows[what] for what in order)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _of(row: str) -> str:
    """What a row says was broken."""
    return row.split("|")[1].strip()


def _cells(course: Course) -> list[str]:
    fault, told = course.fault, [course.alert_seconds, course.message_seconds]
    return [
        fault.what, f"`{fault.alert}`", course.severity, _wait(course), *map(seconds, told), channels(course),
        seconds(course.end_seconds), ", ".join(course.others),
    ]  # fmt: skip


def _wait(course: Course) -> str:
    """How long the rule waits as it ships."""
    rules = [rule for rule in ALERTS if rule.name == course.fault.alert]
    found = {rule.holds for rule in rules if rule.labels["severity"] == course.severity}
    return "" if "0s" in found else min(found, default="")


def watchdog(beats: list[float]) -> str:
    """What whoever listens for silence has heard."""
    if not beats:
        return "The watchdog was heard less than twice."
    return f"The watchdog was heard {len(beats) + 1} times, at most {max(beats):.0f} s apart."


def write(courses: Iterable[Course], said: str) -> None:
    """Puts the rows between the marks of the documentation, with what is `said` of all of them."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    former, _, after = rest.partition(END)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    rows = former[former.index("| ") :].strip() if "| " in former else ""
    FILE.write_text(f"{before}{BEGIN}\n\nOf {day}. {said}\n\n{table(courses, rows)}\n\n{END}{after}")
