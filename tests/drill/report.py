"""What came of a drill, for people: a line a fault, and the table for the documentation."""

from tests.drill.run import Course
from tests.fakes import chat

KINDS = {"mail", *chat.KINDS}
HEAD = ["Broken", "Alert", "Severity", "Alert after", "Message after", "Channels", "Over after", "Fired too"]


def seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def channels(course: Course) -> str:
    """How many heard of it; who did not, where somebody did."""
    silent = sorted(KINDS - set(course.channels))
    return f"{len(KINDS) - len(silent)} of {len(KINDS)}" + (
        f", not {', '.join(silent)}" if len(silent) < 3 and silent else ""
    )


def line(course: Course) -> str:
    if course.skipped:
        return f"skip {course.fault.name:<20} {course.fault.alert:<28} {course.skipped}"
    steps = f"alert {seconds(course.alert_seconds)}, message {seconds(course.message_seconds)} by {channels(course)}"
    verdict = "ok  " if course.ok else "FAIL"
    return f"{verdict} {course.fault.name:<20} {course.fault.alert:<28} {steps}, over {seconds(course.end_seconds)}"


def table(courses: list[Course]) -> str:
    rows = [_cells(course) for course in courses if not course.skipped]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [HEAD, ["---"] * len(HEAD), *rows])


def _cells(course: Course) -> list[str]:
    fault, others = course.fault, ", ".join(course.others)
    times = [seconds(value) for value in (course.alert_seconds, course.message_seconds, course.end_seconds)]
    return [fault.what, f"`{fault.alert}`", course.severity, *times[:2], channels(course), times[2], others]
