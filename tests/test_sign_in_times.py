"""Whether the time of a failed sign-in tells if somebody has the name: many of both kinds, in turn, over HTTP."""

import dataclasses
import math
import statistics
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Service, running
from ytdl.config import Config

PAIRS = 300
# The machine is shared: what differs every time is the code, what differs once is somebody else's work.
ROUNDS = 4


@pytest.fixture
async def patient(config: Config) -> AsyncIterator[Service]:
    """It locks nobody, and its hashes cost so little that everything around them shows."""
    async with running(dataclasses.replace(config, max_login_attempts=10**6), cost=4) as service:
        yield service


async def timed(service: Service, username: str) -> float:
    begun = time.perf_counter()
    body = {"username": username, "password": "wrong"}
    async with service.client.post("/api/v1/auth/login", json=body) as answer:
        await answer.read()
        assert answer.status == 401
    return time.perf_counter() - begun


async def pairs_of_failures(
    service: Service, known: str, unknown: str, number: int = PAIRS
) -> tuple[list[float], list[float]]:
    """Which of a pair comes first takes turns."""
    times: dict[str, list[float]] = {known: [], unknown: []}
    for n in range(number):
        for name in (known, unknown) if n % 2 else (unknown, known):
            times[name].append(await timed(service, name))
    return times[known], times[unknown]


def z_of_ranks(a: list[float], b: list[float]) -> float:
    """Mann and Whitney's statistic as standard deviations from "no difference"; times hardly ever tie."""
    ranks = {value: rank for rank, value in enumerate(sorted(a + b), 1)}
    above = sum(ranks[value] for value in a) - len(a) * (len(a) + 1) / 2
    mean = len(a) * len(b) / 2
    return (above - mean) / math.sqrt(mean * (len(a) + len(b) + 1) / 6)


def told_apart(known: list[float], unknown: list[float]) -> str | None:
    """What a patient stranger would see, if anything."""
    medians = statistics.median(unknown) / statistics.median(known)
    least = min(unknown) / min(known)
    z = z_of_ranks(unknown, known)
    seen = f"medians {medians:.3f}, least {least:.3f}, z {z:.1f}"
    # p > 0.01 on both sides.
    return None if abs(medians - 1) < 0.05 and abs(least - 1) < 0.1 and abs(z) < 2.576 else seen


@pytest.mark.slow
async def test_three_hundred_pairs_of_failures_do_not_tell_who_has_an_account(patient: Service) -> None:
    async with patient.person("carols"):
        await pairs_of_failures(patient, "carols", "nobody", number=30)
        seen = []
        for _ in range(ROUNDS):
            told = told_apart(*await pairs_of_failures(patient, "carols", "nobody"))
            if told is None:
                return
            seen.append(told)
    raise AssertionError(f"each round told them apart: {seen}")
