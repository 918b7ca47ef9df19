"""Whether the time of a failed sign-in tells if somebody has the name: many of both kinds, in turn, over HTTP."""

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Service, running
from ytdl.config import Config

# Fixed before anything is measured, and it is decided once.
ROUNDS = 300
# As many rounds as there are orders of three.
BLOCK = 6
# A part of the time that a sign-in takes, and deviations of it and of a count from a half: by chance more in one of ten
# thousand.
PART, DEVIATIONS = 0.05, 4.0
# Two who have accounts, and a name that nobody has: what tells the two apart is the noise of the machine.
KNOWN, ALSO_KNOWN, UNKNOWN = "carols", "davids", "nobody"


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


async def failures(service: Service, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """The times of each name, round by round; which comes first takes turns, so that a drift meets all alike."""
    orders = list(itertools.permutations((KNOWN, ALSO_KNOWN, UNKNOWN)))
    times: dict[str, list[float]] = {KNOWN: [], ALSO_KNOWN: [], UNKNOWN: []}
    for n in range(rounds):
        for name in orders[n % len(orders)]:
            times[name].append(await timed(service, name))
    return times


def told_apart(one: list[float], other: list[float]) -> str | None:
    """What a patient stranger would see, if anything: how far medians are apart, as a part of the time that one takes,
    and in how many rounds the other took longer. Medians are those of a few rounds each, as other work on the machine
    comes and goes: what is far apart in time is not compared."""
    medians = [(statistics.median(a), statistics.median(b)) for a, b in zip(blocks(one), blocks(other), strict=True)]
    parts = [(b - a) / a for a, b in medians]
    part = statistics.median(parts)
    far = max(PART, DEVIATIONS * deviation(parts))
    longer = sum(b > a for a, b in zip(one, other, strict=True))
    z = (longer - len(one) / 2) / (math.sqrt(len(one)) / 2)
    return None if abs(part) < far and abs(z) < DEVIATIONS else f"medians {part:+.3f} apart, z {z:+.1f}"


def deviation(parts: list[float]) -> float:
    """Of their median, were they spread normally, from their median absolute deviation: outliers count for little."""
    middle = statistics.median(parts)
    spread = 1.4826 * statistics.median(abs(part - middle) for part in parts)
    return math.sqrt(math.pi / 2 / len(parts)) * spread


def blocks(times: list[float]) -> list[list[float]]:
    return [times[n : n + BLOCK] for n in range(0, len(times), BLOCK)]


@pytest.mark.slow
async def test_three_hundred_pairs_of_failures_do_not_tell_who_has_an_account(patient: Service) -> None:
    async with patient.person(KNOWN), patient.person(ALSO_KNOWN):
        await failures(patient, 30)
        times = await failures(patient)
        if noise := told_apart(times[KNOWN], times[ALSO_KNOWN]):
            # The machine tells two apart of whom all is the same: it is measured anew as a whole, and only once.
            print(f"measured again, for two who have accounts were told apart: {noise}")
            times = await failures(patient)
    assert told_apart(times[KNOWN], times[UNKNOWN]) is None
