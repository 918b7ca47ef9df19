"""`python -m tests.fuzz`: the API for some minutes, each parser for some seconds; what `make fuzz` runs.

Prints a line for each with its figures and its seed, the words of whatever found something, and ends with 1 then.
"""

import argparse
import asyncio
import importlib.util
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import running
from tests.fuzz import api
from tests.fuzz.targets import TARGETS
from tests.servers import Servers
from ytdl import users
from ytdl.config import Config

SEEDS = 2**31
ROLES: tuple[users.Role, ...] = ("admin", "user")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=240, help="for the API, over all roles; 0 leaves it out")
    parser.add_argument("--parser-seconds", type=int, default=30, help="for each parser; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=random.randrange(SEEDS), help="of an earlier run")
    arguments = parser.parse_args()
    # What the service thinks of such requests fills pages; a fault of its own is shown.
    logging.basicConfig(level=logging.ERROR)
    found = []
    if arguments.parser_seconds:
        found += [_parse(name, arguments.parser_seconds, arguments.seed) for name in TARGETS]
    if arguments.seconds:
        found += asyncio.run(_ask(arguments.seconds // len(ROLES), arguments.seed))
    print(f"{sum(found)} of {len(found)} found something; --seed {arguments.seed} begins in the same way.")
    return int(any(found))


def _parse(name: str, seconds: int, seed: int) -> bool:
    """Whether a parser broke; guided by coverage where there is something that can."""
    guided = importlib.util.find_spec("atheris") is not None
    command = (
        [sys.executable, "-m", "tests.fuzz.parsers", name, str(seconds), str(seed)]
        if guided
        else [sys.executable, "-m", "pytest", "-q", "-n0", "-k", name, f"--hypothesis-seed={seed}", "tests/fuzz"]
    )
    begun = time.monotonic()
    done = subprocess.run(command, check=False, cwd=api.ROOT, capture_output=True, text=True)
    runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    _tell(name, int(runs[1]) if runs else None, time.monotonic() - begun, done.returncode != 0)
    if done.returncode:
        print(done.stdout[-5000:], done.stderr[-5000:], sep="\n")
    return done.returncode != 0


async def _ask(seconds: int, seed: int) -> list[bool]:
    with Servers() as servers, tempfile.TemporaryDirectory() as folder:
        return [await _ask_as(role, seconds, seed, api.settings(servers, Path(folder, role))) for role in ROLES]


async def _ask_as(role: users.Role, seconds: int, seed: int, config: Config) -> bool:
    begun = time.monotonic()
    async with running(config) as service:
        limits = [f"--max-time={seconds}", "--max-examples=1000", f"--seed={seed}", "--continue-on-failure"]
        outcome = await api.against(service, role, limits)
    _tell(f"API as {role}", outcome.cases, time.monotonic() - begun, bool(outcome.found))
    if outcome.found:
        print(outcome.said)
    return bool(outcome.found)


def _tell(what: str, cases: int | None, seconds: float, found: bool) -> None:
    counted = "cases not counted" if cases is None else f"{cases} cases"
    print(f"{what:14} {counted:>18} in {seconds:5.0f} s: {'FOUND SOMETHING' if found else 'nothing'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
