"""The measurements run, count what they say they count, and fail aloud."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import bench, bench_client, bench_figures
from tests.conftest import Person, Service
from tests.instance import ROOT


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["speed"])
    assert "no such part: speed; there are downloads, requests, scrape, queue" in capsys.readouterr().err


def test_a_ratio_stands_beside_its_two_figures() -> None:
    lines = bench_figures.table([bench_figures.Row("memory", "MB", 10, 4, "a cat", 0)]).splitlines()
    assert lines[2].split() == ["memory", "MB", "10", "4", "2.50", "a", "cat"]


def test_memory_is_what_the_kernel_says() -> None:
    filled = bytearray(os.urandom(30_000_000))
    with_it = bench_figures.pss_bytes([psutil.Process()])
    del filled
    assert 25e6 < with_it - bench_figures.pss_bytes([psutil.Process()]) < 35e6


async def test_the_load_generator_counts_answers_and_takes_no_error_for_one(alice: Person, service: Service) -> None:
    url = f"{service.url}/api/v1/auth/profile"
    found = await bench_client.load(url, alice.token, 2, 0.3)
    assert found["requests_per_second"] > 10
    with pytest.raises(RuntimeError, match="401"):
        await bench_client.load(url, "nobody", 2, 0.3)


@pytest.mark.slow
def test_a_part_can_be_measured_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "queue"]
    surroundings = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no-op jobs claimed and completed" in done.stdout
    assert not list(tmp_path.iterdir())
