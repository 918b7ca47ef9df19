"""A minute of faults, and the proof that the checker would have seen something. `make chaos` does it for longer."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.chaos.ground import copy_source
from tests.chaos.mutants import MUTANTS
from tests.instance import ROOT
from ytdl import sql

SECONDS = 60
LEAST_FAULTS = 30


async def output_of(*arguments: str, seconds: float) -> tuple[int | None, str]:
    """Exit code and words of a module of the harness; it ends with this process, and leaves the processor to tests
    that hold time budgets."""
    setpriv = shutil.which("setpriv")
    leash = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    process = await asyncio.create_subprocess_exec(
        *leash, "nice", "-n", "10", sys.executable, "-m", *arguments, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, out.decode(errors="replace")


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_under_a_minute_of_faults(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, words = await output_of("tests.chaos", "--seconds", str(SECONDS), "--json", str(report), seconds=900)
    assert code == 0, words[-8000:]
    found = json.loads(report.read_text())
    assert sum(found["faults"].values()) >= LEAST_FAULTS
    assert found["jobs"]["completed"] > 0 and found["jobs"]["open"] == 0
    # The rule of beats saw what it judges.
    assert found["writes"]["beats heard"] > 0 and found["writes"]["confirmations heard"] > 0


@pytest.mark.slow
async def test_the_checker_sees_each_fault_that_is_made_on_purpose() -> None:
    code, words = await output_of("tests.chaos.mutants", seconds=1500)
    assert code == 0, words
    assert words.count("red by") == len(MUTANTS) and words.count("green") == 1


def test_the_history_has_the_workers_fence_and_not_the_rows() -> None:
    # Read from the row it would always look right, and no zombie's write could be told from others.
    queries = sql.load("queue").all
    ends = [queries[name].text.decode() for name in ("complete", "fail", "hand_back")]
    assert all("(job_id, fence, event)" in text and "SELECT id, %(fence)s," in text for text in ends)


def test_each_mutant_still_has_its_text(tmp_path: Path) -> None:
    for mutant in MUTANTS.values():
        mutant.apply(copy_source(tmp_path / mutant.name))


def test_a_mutant_whose_text_is_gone_is_told(tmp_path: Path) -> None:
    mutant = MUTANTS["fence"]
    source = copy_source(tmp_path / "once")
    mutant.apply(source)
    with pytest.raises(ValueError, match="0 times"):
        mutant.apply(source)
