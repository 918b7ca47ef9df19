"""The measurements run, count what they say they count, and fail aloud."""

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import bench, bench_client, bench_figures
from tests.conftest import Person, Service
from tests.instance import ROOT
from ytdl import metrics


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["speed"])
    assert "no such part: speed; there are downloads, requests, scrape, queue" in capsys.readouterr().err


def test_a_ratio_stands_beside_its_two_figures() -> None:
    lines = bench_figures.table([bench_figures.Row("memory", "MB", 10, 4, "a cat", 0)]).splitlines()
    assert lines[2].split() == ["memory", "MB", "10", "4", "2.50", "a", "cat"]


def test_memory_is_what_the_kernel_says() -> None:
    """So much that neither what others let go of meanwhile counts, nor libraries that one process more has part in."""
    gc.collect()
    filled = bytearray(b"x") * 100_000_000
    with_it = bench_figures.pss_bytes([psutil.Process()])
    del filled
    assert 75e6 < with_it - bench_figures.pss_bytes([psutil.Process()]) < 125e6


def answered(status: int) -> float:
    labels = {"method": "GET", "route": "/api/v1/auth/profile", "status": str(status)}
    return metrics.REGISTRY.get_sample_value("ytdl_http_requests_total", labels) or 0.0


async def test_the_load_generator_counts_answers_and_takes_no_error_for_one(alice: Person, service: Service) -> None:
    url, before = f"{service.url}/api/v1/auth/profile", answered(200)
    found = await bench_client.load(url, alice.token, 2, 0.3)
    number = round(found["requests_per_second"] * 0.3)
    # The service counts an answer a moment after it was sent.
    async with asyncio.timeout(10):
        while answered(200) - before < number:  # noqa: ASYNC110 - what it waits for is the service
            await asyncio.sleep(0.01)
    assert answered(200) - before == number >= 2
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
