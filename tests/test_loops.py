"""Background rounds: they survive what goes wrong in them, do not race, and end when they are told to."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from ytdl import errors, loops, metrics


class Rounds:
    """Work that is done, counted, and made to fail by a list of failures, the first first."""

    def __init__(self, *failures: BaseException) -> None:
        self.done = 0
        self.failures = list(failures)

    async def __call__(self) -> int:
        self.done += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.done


@contextlib.asynccontextmanager
async def repeating(rounds: Rounds, seconds: float, first: float = 0.0) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loops.repeat("sweep", seconds, rounds, first=first))]
    try:
        yield
    finally:
        await loops.stop(tasks)


async def until_done(rounds: Rounds, count: int) -> None:
    async with asyncio.timeout(10):
        while rounds.done < count:  # noqa: ASYNC110 - rounds say nothing to whoever waits
            await asyncio.sleep(0.005)


async def test_a_round_is_repeated() -> None:
    rounds, begun = Rounds(), time.monotonic()
    async with repeating(rounds, 0.01):
        await until_done(rounds, 6)
    assert rounds.done <= 1 + (time.monotonic() - begun) / (0.01 * (1 - loops.JITTER))


def gauge(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"ytdl_worker_loop_{name}", {"loop": "sweep"})


async def test_a_loop_says_that_it_runs_from_before_its_first_round_until_it_is_stopped() -> None:
    """Else nobody could tell one that hangs in its first round from one that this process does not run."""
    before = time.time()
    async with repeating(Rounds(), 60.0, first=10):
        await asyncio.sleep(0.01)
        assert (gauge("last_success_timestamp_seconds") or 0) >= before
        assert gauge("interval_seconds") == 60.0
    assert gauge("last_success_timestamp_seconds") == 0


async def test_a_loop_that_ends_without_being_told_to_looks_like_one_that_hangs() -> None:
    task = asyncio.create_task(loops.repeat("sweep", 60.0, Rounds(asyncio.CancelledError())))
    await asyncio.wait([task])
    assert task.cancelled() and (gauge("last_success_timestamp_seconds") or 0) > 0


async def test_the_first_round_can_be_put_off() -> None:
    rounds = Rounds()
    async with repeating(rounds, 0.01, first=10):
        await asyncio.sleep(0.05)
    assert rounds.done == 0


@pytest.mark.parametrize("failure", [errors.Unavailable("Gone."), ValueError("A mistake of ours.")])
async def test_a_failed_round_is_followed_by_the_next(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FAILED_SECONDS", 0.01)
    rounds = Rounds(failure)
    async with repeating(rounds, 0.01):
        await until_done(rounds, 2)


async def test_a_loop_without_distance_does_not_run_hot_when_its_rounds_fail() -> None:
    rounds = Rounds(*[errors.Unavailable("Gone.")] * 100_000)
    async with repeating(rounds, 0):
        await asyncio.sleep(0.3)
    assert rounds.done == 1


async def test_settle_tries_until_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(errors.Unavailable("Gone."), errors.Unavailable("Gone."))
    assert await loops.settle(rounds, lambda: False) == 3


async def test_settle_gives_up_when_told() -> None:
    rounds = Rounds(*[errors.Unavailable("Gone.")] * 3)
    with pytest.raises(errors.Unavailable):
        await loops.settle(rounds, lambda: rounds.done == 2)
    assert rounds.done == 2


async def test_settle_does_not_repeat_what_is_wrong_in_itself() -> None:
    rounds = Rounds(ValueError("A mistake of ours."))
    with pytest.raises(ValueError, match="mistake"):
        await loops.settle(rounds, lambda: False)
    assert rounds.done == 1


async def test_stopping_goes_on_when_a_cancellation_is_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "CANCEL_SECONDS", 0.05)
    swallowed = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(deaf_once())]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await loops.stop(tasks)
    assert swallowed.is_set()
    assert tasks == []


async def test_stopping_nothing_is_well() -> None:
    await loops.stop([])
