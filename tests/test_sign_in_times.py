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
# Where other work makes the times of pairs differ by chance, more pairs make up for it; what the code does stays.
ROUNDS = 6


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
    """The times of both kinds, pair by pair; which of a pair comes first takes turns."""
    times: dict[str, list[float]] = {known: [], unknown: []}
    for n in range(number):
        for name in (known, unknown) if n % 2 else (unknown, known):
            times[name].append(await timed(service, name))
    return times[known], times[unknown]


def told_apart(known: list[float], unknown: list[float]) -> str | None:
    """What a patient stranger would see, if anything: how a pair's two differ by the median, as a part of the time that
    one takes, and in how many pairs the name that nobody has took longer, as deviations from half of them."""
    differences = [b - a for a, b in zip(known, unknown, strict=True)]
    part = statistics.median(differences) / statistics.median(known)
    longer = sum(difference > 0 for difference in differences)
    z = (longer - len(differences) / 2) / (math.sqrt(len(differences)) / 2)
    # 2.576: by chance alone more in one of a hundred.
    return None if abs(part) < 0.05 and abs(z) < 2.576 else f"{len(known)} pairs: {part:+.3f} of the time, z {z:+.1f}"


@pytest.mark.slow
async def test_three_hundred_pairs_of_failures_do_not_tell_who_has_an_account(patient: Service) -> None:
    async with patient.person("carols"):
        await pairs_of_failures(patient, "carols", "nobody", number=30)
        known: list[float] = []
        unknown: list[float] = []
        seen = []
        for _ in range(ROUNDS):
            more = await pairs_of_failures(patient, "carols", "nobody")
            known += more[0]
            unknown += more[1]
            told = told_apart(known, unknown)
            if told is None:
                return
            seen.append(told)
    raise AssertionError(f"every look told them apart: {seen}")
