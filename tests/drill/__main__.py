"""`python -m tests.drill`: the fault drill, a line for each fault as it happens and a table at the end.

Exit code 1 when an alert or its message did not come, or did not end.
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import apart
from tests.drill.faults import FAULTS
from tests.drill.ground import prepared
from tests.drill.people import Admin, visited
from tests.drill.report import line, table, watchdog, write
from tests.drill.run import Course, Drill, heartbeats
from tests.drill.scaling import Scale


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description="Breaks things and sees who is told.")
    parser.add_argument("--only", action="append", choices=FAULTS, metavar="NAME", help="these faults; may be repeated")
    parser.add_argument("--list", action="store_true", help="the faults, and nothing else")
    parser.add_argument("--factor", type=float, default=Scale.factor, help="how much faster all times are (default 30)")
    parser.add_argument("--write", action="store_true", help="put these rows into the table in docs/MONITORING.md")
    parser.add_argument("--real-times", action="store_true", help="times as they ship; hours")
    parser.add_argument("--log", type=Path, help="file that gets what the service has logged")
    parser.add_argument("--seconds", type=float, default=180, help="patience with each step of a fault (default 180)")
    return parser.parse_args()


async def run(names: list[str], scale: Scale, patience: float, log: Path | None, courses: list[Course]) -> None:
    """Adds to `courses`, which has what was seen also when something goes wrong."""
    with tempfile.TemporaryDirectory(prefix="ytdl-drill-", ignore_cleanup_errors=True) as folder:
        async with prepared(Path(folder), scale) as ground:
            admin = Admin(ground)
            await admin.tell_everybody(scale.bounded(30.0), scale.bounded(300.0))
            async with visited(admin):
                drill = Drill(ground, admin, patience, lambda course: print(line(course), flush=True))
                for name in names:
                    courses.append(await drill.watch(FAULTS[name]))
                await drill.finish()
            if log:
                shutil.copy(Path(folder) / "service.log", log)
            print(watchdog(heartbeats(ground)), flush=True)


def main() -> int:
    arguments = parse_arguments()
    apart.go_apart("tests.drill")
    if arguments.list:
        print("\n".join(f"{fault.name:<20} {fault.alert:<28} {fault.what}" for fault in FAULTS.values()))
        return 0
    # Neither that servers ended is news here, nor what the mail server thinks of its library.
    for name in ("ytdl.embedded", "mail.log"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    scale = Scale(factor=1, longest=float("inf")) if arguments.real_times else Scale(arguments.factor)
    courses: list[Course] = []
    try:
        asyncio.run(run(arguments.only or list(FAULTS), scale, arguments.seconds, arguments.log, courses))
    except BaseException:
        # What was still to come is not told as if it had never come.
        courses[:] = [course for course in courses if course.ok]
        raise
    finally:
        print(f"\n{table(courses)}\n\n{scale.said()}")
        if arguments.write:
            write(courses, scale.said())
    return 0 if all(course.ok for course in courses) else 1


if __name__ == "__main__":
    sys.exit(main())
