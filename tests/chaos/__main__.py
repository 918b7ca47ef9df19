"""`python -m tests.chaos`: a run of the fault harness, with a report at its end.

Exit code 1 when a rule was broken, and when too little happened for the run to show anything.
"""

import argparse
import asyncio
import dataclasses
import json
import logging
import sys
from pathlib import Path

from tests.chaos import apart
from tests.chaos.mutants import MUTANTS
from tests.chaos.report import page
from tests.chaos.run import Plan, run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Services under faults, and a check.")
    parser.add_argument("--seconds", type=float, default=300, help="how long faults come (default 300)")
    parser.add_argument("--seed", type=int, default=1, help="which faults come when (default 1)")
    parser.add_argument("--processes", type=int, default=3, help="services (default 3)")
    parser.add_argument("--users", type=int, default=20, help="at most 24 (default 20)")
    parser.add_argument("--rate", type=float, default=1.6, help="faults a second (default 1.6)")
    parser.add_argument("--source", type=Path, default=Plan.source, help="folder with the ytdl/ and sql/ to run")
    parser.add_argument("--mutant", choices=MUTANTS, help="a fault in the product, which the checker must see")
    parser.add_argument("--logs", type=Path, help="folder that gets the services' logs")
    parser.add_argument("--json", type=Path, help="writes the report there as well")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    apart.go_apart("tests.chaos")
    mutant = MUTANTS[arguments.mutant] if arguments.mutant else None
    # That they ended is no news here.
    logging.getLogger("ytdl.embedded").setLevel(logging.CRITICAL)
    plan = Plan(
        arguments.seconds, arguments.seed, arguments.processes, arguments.users, faults_per_second=arguments.rate,
        source=arguments.source, logs=arguments.logs, mutate=mutant.apply if mutant else None,
    )  # fmt: skip
    report = asyncio.run(run(plan, lambda text: print(text, flush=True)))
    if arguments.json:
        arguments.json.write_text(json.dumps(dataclasses.asdict(report), indent=1, default=str))
    print(page(report))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
