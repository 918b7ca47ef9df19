"""Which fault explains what, when a run has shown nothing, and that each kind of fault gets its turn."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import nemesis
from tests.chaos.causes import AFTER_SECONDS, Fault, Life, words_explained
from tests.chaos.history import unexplained
from tests.chaos.nemesis import MIX, Nemesis, dealt
from tests.chaos.report import Report, page

CRASH, FULL = Fault("crash Postgres", 1000.0, 1000.1), Fault("fill disk", 1000.0, 1003.0)
NONE = "No space left on device"
GONE = "The database cannot be reached just now"


@pytest.mark.parametrize(("text", "fault"), [(NONE, FULL), (GONE, CRASH), ("PostgreSQL does not answer", CRASH)])
def test_a_fault_explains_its_words_only_while_it_lasts_and_just_after(text: str, fault: Fault) -> None:
    assert words_explained([fault], text, 1001, 1001)
    assert words_explained([fault], text, fault.ended + AFTER_SECONDS, 9999)
    assert not words_explained([fault], text, 990, 999)
    assert not words_explained([fault], text, fault.ended + AFTER_SECONDS + 1, 9999)


@pytest.mark.parametrize(("text", "fault"), [(NONE, CRASH), (GONE, FULL), ("KeyError", CRASH)])
def test_a_fault_explains_no_other_words(text: str, fault: Fault) -> None:
    assert not words_explained([fault], text, 1001, 1001)


def test_a_start_may_fail_when_a_server_is_away_and_not_at_other_times() -> None:
    start = Life("0.1", began=1001.0, ended=1002.0, code=1)
    assert start.cause([CRASH]) == "failed start"
    assert replace(start, ready=True).cause([CRASH]) is None
    assert start.cause([Fault("kill -9 a service", 1000, 1001)]) is None
    assert replace(start, began=1100.0, ended=1101.0).cause([CRASH]) is None
    assert replace(start, began=900.0, ended=901.0).cause([CRASH]) is None


def line(second: int, trace: str | None = None) -> dict[str, Any]:
    return {"time": f"1970-01-01T00:{second // 60:02}:{second % 60:02}.000Z", "event": "x"} | (
        {"traceback": trace} if trace else {}
    )


def test_an_exception_in_a_log_is_excused_by_a_fault_of_its_time_alone() -> None:
    fault = Fault("crash Postgres", 1000.0, 1001.0)
    assert list(unexplained([line(999), line(1005, GONE)], [fault])) == []
    assert len(list(unexplained([line(999), line(1100, GONE)], [fault]))) == 1
    assert len(list(unexplained([line(1005, "KeyError")], [fault]))) == 1


def test_words_without_a_time_came_between_those_that_have_one() -> None:
    words = {"event": "unreadable", "text": f"ytdl: {GONE}"}
    fault = Fault("crash Postgres", 1000.0, 1001.0)
    assert list(unexplained([line(990), words, line(1005)], [fault])) == []
    assert len(list(unexplained([line(990), words, line(995)], [fault]))) == 1
    assert len(list(unexplained([line(1100), words], [fault]))) == 1


def test_an_end_before_the_start_is_no_exception() -> None:
    words = {"event": "unreadable", "text": "ytdl: Stopped, with nothing running."}
    assert list(unexplained([line(990), words, line(995)], [])) == []
    assert len(list(unexplained([line(990), words | {"text": "ytdl: Stopped."}, line(995)], []))) == 1


def report(seconds: float = 300, **changes: Any) -> Report:
    """One of a run in which every kind of fault met something, 396 in all."""
    whole = Report(
        facts={"seconds": seconds, "seed": 1, "processes": 3, "users": 20, "faults_per_second": 1.6},
        violations=[], faults=dict.fromkeys(MIX, 18), writes=Counter(), answers={},
        jobs=Counter({"jobs": 9, "completed": 9}), tried=dict.fromkeys(MIX, 20), failed={}, left_out={}, ends={},
        times={"next claim": {}, "next claim of all": {}, "reap to claim": {}, "boot": {}, "drain": 1.0, "exits": []},
    )  # fmt: skip
    return replace(whole, **changes)


def test_a_run_in_which_enough_happened_is_green() -> None:
    assert report().ok and "GREEN" in page(report())


FEW = {"faults": dict.fromkeys(MIX, 13), "tried": dict.fromkeys(MIX, 22)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (FEW, "286 faults"),
        ({"seconds": 60, "faults": dict.fromkeys(MIX, 2)}, "44 faults"),
        ({"jobs": Counter()}, "0 jobs"),
        ({"jobs": Counter({"jobs": 9, "failed": 9})}, "0 completed"),
        ({"faults": dict.fromkeys(MIX, 20) | {"fill disk": 0}}, "fill disk"),
        ({"faults": dict.fromkeys(MIX, 20) | {"fill disk": 0}, "seconds": 60}, "fill disk"),
    ],
)
def test_a_run_that_shows_nothing_is_not_green(changes: dict[str, Any], reason: str) -> None:
    hollow = report(**changes)
    assert not hollow.ok and reason in " ".join(hollow.hollow())
    assert "HOLLOW" in page(hollow) and "GREEN" not in page(hollow)


def test_a_kind_that_cannot_come_here_is_named_and_hinders_nothing() -> None:
    kinds = dict.fromkeys(set(MIX) - {"fill disk"}, 20)
    without = report(faults=kinds, tried=kinds, left_out={"fill disk": "no disk"})
    assert without.ok and "left out: fill disk, for no disk" in page(without)


def test_a_kind_that_had_hardly_a_chance_in_a_short_run_is_shown_with_none() -> None:
    faults = dict.fromkeys(MIX, 3) | {"narrow a link": 0}
    short = report(60, faults=faults, tried=dict.fromkeys(MIX, 3))
    assert short.ok and "    0  narrow a link" in page(short)


def test_each_kind_comes_before_any_comes_twice_and_then_as_it_weighs() -> None:
    cards = dealt(random.Random(1), {"often": 5, "seldom": 1})
    first, second = [next(cards) for _ in range(2)], [next(cards) for _ in range(6)]
    assert sorted(first) == ["often", "seldom"]
    assert Counter(second) == {"often": 5, "seldom": 1}


async def test_a_fault_that_does_not_come_to_its_point_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_: Nemesis) -> bool:
        raise ConnectionRefusedError

    async def nobody(_: Nemesis) -> bool:
        return False

    monkeypatch.setitem(nemesis.KINDS, "FLUSHALL", gone)
    monkeypatch.setitem(nemesis.KINDS, "slice a link", nobody)
    one = Nemesis(Nowhere(), [], seed=1)  # type: ignore[arg-type]
    raging = asyncio.create_task(one.rage(60, 60, {"FLUSHALL": 1, "slice a link": 1}))
    async with asyncio.timeout(30):
        while not one.tried or not all(one.tried.values()):  # noqa: ASYNC110 - the dice say when
            await asyncio.sleep(0.01)
    raging.cancel()
    await asyncio.gather(raging, return_exceptions=True)
    assert one.counts() == {"FLUSHALL": 0, "slice a link": 0}
    assert one.failed == {"FLUSHALL: ConnectionRefusedError": one.tried["FLUSHALL"]}
    assert one.tried["FLUSHALL"] > 0 and one.tried["slice a link"] > 0


class Nowhere:
    disk_is_own = False
