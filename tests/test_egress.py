"""Lanes: their pace, their pauses, and what downloads see of them."""

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Person, Service, running
from tests.fakes.youtube import YouTube
from tests.following import Download, ask, ended, look, until
from tests.queueing import count, sql
from ytdl import egress, metrics, worker
from ytdl.api.keys import DB as DB_KEY
from ytdl.api.keys import DOWNLOADS
from ytdl.config import Config
from ytdl.db import DB
from ytdl.egress import Egress, Lane, Permit, lanes_of
from ytdl.fetcher import Failed
from ytdl.reasons import REASONS

A, B = Lane("a:1", "http://a:1"), Lane("b:1", "http://b:1")
REFUSED = Failed("rate_limited", "HTTP Error 429", True)
UNREACHED = Failed("network_error", "No way.", True)
PRIVATE = Failed("video_private", "Private.", False)


@pytest.fixture
def lanes_named(db: DB) -> Any:
    """Makes what a process has of lanes; called again it is another process's."""

    async def make(*lanes: Lane, rate: float = 60.0, burst: float = 100.0, pause: float = 0.3) -> Egress:
        made = Egress(db, lanes or [A], starts_per_minute=rate, burst=burst, pause_seconds=pause)
        await made.open()
        return made

    return make


async def lane(db: DB, name: str = A.name) -> dict[str, Any]:
    names = ("state", "reason", "pauses", "probe", "seconds")
    (row,) = await sql(
        db,
        "SELECT state, reason, pauses, probe, extract(epoch FROM paused_until - now())::float8"
        " FROM egress_lanes WHERE name = %s",
        name,
    )
    return dict(zip(names, row, strict=True))


async def paused(lanes: Egress, failure: Failed = REFUSED, number: int = 1) -> Permit:
    """A lane that the site has just refused, with the permit that met it."""
    (permit,) = await lanes.lend(1)
    for _ in range(number):
        await lanes.failed(permit, failure, heard=False)
    return permit


async def passed(db: DB, name: str = A.name) -> None:
    """The pause is over."""
    await sql(db, "UPDATE egress_lanes SET paused_until = now() WHERE name = %s AND state = 'paused'", name)


async def probing(lanes: Egress, db: DB) -> Permit:
    """A lane whose pause is over, with its probe under way."""
    await paused(lanes)
    await passed(db)
    (permit,) = await lanes.lend(10)
    return permit


# the breaker


async def test_a_video_that_alone_is_refused_again_and_again_closes_the_lane_once(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=60_000)
    await lanes.answered(await probing(lanes, db))
    await asyncio.sleep(0.05)
    again, other = await lanes.lend(2)
    for _ in range(3):
        assert await lanes.failed(again, REFUSED, heard=False, suspect=7) is None
    assert (await lane(db))["state"] == "open"
    assert await lanes.failed(other, REFUSED, heard=False, suspect=8)
    assert (await lane(db))["state"] == "paused"


async def test_a_video_that_was_refused_before_counts_as_a_probe_and_on_a_closed_lane(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    probe = await probing(lanes, db)
    assert await lanes.failed(probe, REFUSED, heard=False, suspect=7)
    assert await lanes.failed(Permit(A), REFUSED, heard=False, suspect=7)
    assert (await lane(db))["pauses"] == 2


async def test_when_the_lane_opens_nobody_is_suspected_any_more(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=60_000)
    await lanes.answered(await probing(lanes, db))
    assert await lanes.failed(Permit(A), REFUSED, heard=False, suspect=7) is None
    await lanes.failed(Permit(A), REFUSED, heard=False)
    await passed(db)
    (probe,) = await lanes.lend(5)
    await lanes.answered(probe)
    assert await lanes.failed(Permit(A), REFUSED, heard=False, suspect=8) is None


async def test_a_refused_lane_lets_nobody_start(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(pause=300)
    await paused(lanes)
    assert await lanes.lend(10) == []
    found = await lane(db)
    assert (found["state"], found["reason"], found["pauses"]) == ("paused", "rate_limited", 1)
    assert 280 < found["seconds"] <= 330


async def test_after_the_pause_exactly_one_probe_goes_out(lanes_named: Any, db: DB) -> None:
    ours, theirs = await lanes_named(), await lanes_named()
    await paused(ours)
    await passed(db)
    got = await asyncio.gather(*(lanes.lend(10) for lanes in (ours, theirs) * 3))
    assert [permit.probe for permits in got for permit in permits] == [1]
    assert (await lane(db))["state"] == "probing"


async def test_a_probe_that_is_answered_opens_the_lane(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=60_000)
    await lanes.answered(await probing(lanes, db))
    assert (await lane(db))["state"] == "open"
    await asyncio.sleep(0.05)
    assert len(await lanes.lend(5)) == 5


async def test_a_lane_that_opens_again_begins_with_its_pace_and_not_with_its_burst(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=6)
    await lanes.answered(await probing(lanes, db))
    assert await lanes.lend(10) == []


async def test_each_refused_probe_doubles_the_pause_up_to_a_bound(
    lanes_named: Any, db: DB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "LONGEST_PAUSE_SECONDS", 700.0)
    lanes = await lanes_named(pause=100)
    permit, seconds = await paused(lanes), []
    for _ in range(5):
        seconds.append((await lane(db))["seconds"])
        await passed(db)
        (permit,) = await lanes.lend(1)
        await lanes.failed(permit, REFUSED, heard=False)
    for wanted, found in zip((100, 200, 400, 700, 700), seconds, strict=True):
        assert wanted - 20 < found <= wanted * (1 + egress.JITTER)
    assert (await lane(db))["pauses"] == 6


async def test_attempts_that_are_refused_together_pause_the_lane_once(lanes_named: Any, db: DB) -> None:
    ours, theirs = await lanes_named(pause=100), await lanes_named(pause=100)
    permits = await ours.lend(10)
    before = count(metrics.egress_pauses, lane=A.name, reason="bot_check")
    bot_check = Failed("bot_check", "Sign in.", True)
    await asyncio.gather(*(lanes.failed(p, bot_check, heard=False) for p in permits for lanes in (ours, theirs)))
    found = await lane(db)
    assert found["pauses"] == 1 and 80 < found["seconds"] < 120
    assert count(metrics.egress_pauses, lane=A.name, reason="bot_check") == before + 1


@pytest.mark.parametrize("counted", [1, 2])
async def test_a_pause_is_as_long_as_the_site_asks(lanes_named: Any, db: DB, counted: int) -> None:
    """Also when the one who was refused first was not told how long."""
    lanes = await lanes_named(pause=10)
    permit = await paused(lanes, number=counted - 1)
    wait = await lanes.failed(permit, Failed("rate_limited", "Slow.", True, 500.0), heard=False)
    assert (await lane(db))["seconds"] > 480 and (await lane(db))["pauses"] == 1
    assert wait is not None and 480 < wait < 610


async def test_a_calm_time_makes_earlier_pauses_forgotten(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=60_000)
    await paused(lanes)
    for minutes, pauses in ((5, 2), (11, 1)):
        await passed(db)
        await lanes.answered((await lanes.lend(1))[0])
        await sql(db, "UPDATE egress_lanes SET changed_at = now() - make_interval(mins => %s)", minutes)
        await asyncio.sleep(0.02)
        await paused(lanes)
        assert (await lane(db))["pauses"] == pauses


async def test_a_probe_that_meets_a_private_video_was_answered(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    assert await lanes.failed(await probing(lanes, db), PRIVATE, heard=False) is None
    assert (await lane(db))["state"] == "open"


# The site was not reached, broke off or was not understood, or the failure is our own.
SILENCES = frozenset(
    {
        "address_forbidden", "child_crashed", "child_killed", "cookies_invalid", "deadline_exceeded", "disk_full",
        "extractor_broken", "ffmpeg_missing", "internal", "network_error", "out_of_memory", "processing_failed",
        "tls_error", "unsupported_url", "upstream_error", "upstream_forbidden", "upstream_stalled",
        "upstream_truncated", "verification_failed", "worker_lost",
    }
)  # fmt: skip


def test_every_reason_is_a_refusal_or_an_answer_or_a_silence() -> None:
    assert sorted([*egress.REFUSALS, *egress.ANSWERS, *SILENCES]) == sorted(REASONS)


@pytest.mark.parametrize("code", ["extractor_broken", "upstream_truncated"])
async def test_a_probe_that_understands_nothing_opens_nothing(lanes_named: Any, db: DB, code: str) -> None:
    lanes = await lanes_named()
    await lanes.failed(await probing(lanes, db), Failed(code, "What?", True), heard=False)
    assert (await lane(db))["state"] == "paused"


async def test_a_probe_that_reaches_nobody_is_repeated_soon_and_without_blame(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(pause=100)
    assert await lanes.failed(await probing(lanes, db), UNREACHED, heard=False) is None
    found = await lane(db)
    assert (found["state"], found["pauses"], found["seconds"] <= egress.AGAIN_SECONDS) == ("paused", 1, True)


async def test_a_probe_whose_transfer_breaks_off_was_answered(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    await lanes.failed(await probing(lanes, db), UNREACHED, heard=True)
    assert (await lane(db))["state"] == "open"


async def test_only_the_probe_opens_a_paused_lane(lanes_named: Any, db: DB) -> None:
    """What another attempt hears was on its way before the refusal."""
    lanes = await lanes_named()
    other, permit = await lanes.lend(2)
    await lanes.failed(permit, REFUSED, heard=False)
    await lanes.answered(other)
    await lanes.failed(other, PRIVATE, heard=True)
    assert (await lane(db))["state"] == "paused"


async def test_an_old_refusal_during_anothers_probe_counts_for_nothing(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    old, permit = await lanes.lend(2)
    await lanes.failed(permit, REFUSED, heard=False)
    await passed(db)
    (probe,) = await lanes.lend(1)
    await lanes.failed(old, REFUSED, heard=False)
    assert ((await lane(db))["state"], (await lane(db))["pauses"]) == ("probing", 1)
    await lanes.answered(probe)
    assert (await lane(db))["state"] == "open"


async def test_a_refusal_that_is_told_twice_counts_once(lanes_named: Any, db: DB) -> None:
    """The second time the pause that it caused is over, and the lane open again."""
    # A minute before that, so that no statement of ours is late enough to make them look alike.
    lanes, at = await lanes_named(), time.monotonic() - 60
    await sql(db, "UPDATE egress_lanes SET changed_at = now() - interval '5 minutes'")
    (permit,) = await lanes.lend(1)
    await lanes.failed(permit, REFUSED, heard=False, at=at)
    await passed(db)
    await lanes.answered((await lanes.lend(1))[0])
    await lanes.failed(permit, REFUSED, heard=False, at=at)
    assert ((await lane(db))["state"], (await lane(db))["pauses"]) == ("open", 1)
    await lanes.failed(permit, REFUSED, heard=False, at=time.monotonic())
    assert ((await lane(db))["state"], (await lane(db))["pauses"]) == ("paused", 2)


async def test_a_probe_that_is_stopped_leaves_its_place_to_the_next(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    await lanes.stopped(await probing(lanes, db), heard=False)
    assert [permit.probe for permit in await lanes.lend(5)] == [2]


async def without_word(db: DB, part: float) -> None:
    """So much of the time goes by that a probe is given."""
    seconds = part * egress.PROBE_SECONDS
    await sql(db, "UPDATE egress_lanes SET probe_until = probe_until - make_interval(secs => %s)", seconds)


async def test_a_probe_whose_process_dies_frees_itself(lanes_named: Any, db: DB) -> None:
    dead, alive = await lanes_named(), await lanes_named()
    late = await probing(dead, db)
    assert await alive.lend(5) == []
    await without_word(db, 1.0)
    (newer,) = await alive.lend(5)
    await dead.answered(late)
    assert ((await lane(db))["state"], newer.probe) == ("probing", 2)
    await alive.answered(newer)
    assert (await lane(db))["state"] == "open"


async def test_a_probe_that_takes_its_time_keeps_its_place_while_its_process_lives(lanes_named: Any, db: DB) -> None:
    ours, theirs = await lanes_named(), await lanes_named()
    permit = await probing(ours, db)
    for _ in range(3):
        await without_word(db, 0.6)
        await ours.look()
        assert await theirs.lend(5) == []
    ours.forget(permit)
    await without_word(db, 0.6)
    await ours.look()
    await without_word(db, 0.6)
    assert len(await theirs.lend(5)) == 1


async def test_a_restart_ends_no_pause_and_fills_no_bucket(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(B, A, rate=6, burst=3, pause=300)
    assert len(await lanes.lend(10)) == 6
    await lanes.failed(Permit(A), REFUSED, heard=False)
    restarted = await lanes_named(B, A, rate=6, burst=3)
    assert await restarted.lend(10) == []


@asynccontextmanager
async def changing(db: DB, statement: str) -> AsyncIterator[None]:
    """Another process is just changing the lane; its commit comes when whoever asks meanwhile waits for it."""
    async with await psycopg.AsyncConnection.connect(db.url) as connection:
        await connection.execute(f"UPDATE egress_lanes SET {statement}".encode())
        yield
        await asyncio.sleep(0.2)


async def test_a_lane_that_opens_while_it_is_asked_lets_start(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(pause=30)
    await paused(lanes)
    async with changing(db, "state = 'open', paused_until = NULL"):
        asked = asyncio.create_task(lanes.lend(5))
    assert len(await asked) == 5


async def test_a_refusal_that_comes_while_the_lane_is_paused_changes_nothing(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(pause=30)
    async with changing(db, "state = 'paused', paused_until = now() + interval '1 minute', pauses = 4, reason = 'x'"):
        refused = asyncio.create_task(lanes.failed(Permit(A), REFUSED, heard=False))
    assert (await refused or 0) > 50
    found = await lane(db)
    assert (found["pauses"], found["reason"]) == (4, "x")


async def test_a_lane_whose_row_was_taken_away_comes_back(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    await sql(db, "DELETE FROM egress_lanes")
    assert await lanes.lend(1) == []
    await lanes.look()
    assert len(await lanes.lend(1)) == 1


# the pace


@pytest.mark.parametrize("seed", range(3))
async def test_processes_together_never_start_more_than_burst_and_pace_allow(
    lanes_named: Any, db: DB, seed: int
) -> None:
    """The clock is the database's; nothing is lost either, in a bucket that no standstill fills."""
    made_up, full, rate = random.Random(seed), 40, 50.0
    ours, theirs = await lanes_named(rate=rate * 60, burst=5000), await lanes_named(rate=rate * 60, burst=5000)
    await sql(db, "UPDATE egress_lanes SET tokens = %s", full)
    ((begun,),) = await sql(db, "SELECT extract(epoch FROM refilled_at)::float8 FROM egress_lanes")
    started = 0
    for _ in range(25):
        asked = [made_up.choice((ours, theirs)).lend(made_up.randint(1, 9)) for _ in range(made_up.randint(1, 4))]
        started += sum(map(len, await asyncio.gather(*asked)))
        ((now,),) = await sql(db, "SELECT extract(epoch FROM clock_timestamp())::float8")
        assert started <= full + rate * (now - begun)
        await asyncio.sleep(made_up.uniform(0, 0.06))
    started += len(await ours.lend(5000))
    ((now,),) = await sql(db, "SELECT extract(epoch FROM refilled_at)::float8 FROM egress_lanes")
    # What is left is less than one.
    assert started > full + rate * (now - begun) - 1.01


async def test_a_bucket_holds_its_burst_and_no_more(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(rate=6, burst=5)
    await sql(db, "UPDATE egress_lanes SET refilled_at = now() - interval '1 day'")
    assert [len(await lanes.lend(n)) for n in (2, 10, 10)] == [2, 3, 0]


async def test_what_is_given_back_may_be_used(lanes_named: Any) -> None:
    lanes = await lanes_named(rate=6, burst=5)
    permits = await lanes.lend(5)
    await lanes.give_back(permits[2:])
    assert len(await lanes.lend(5)) == 3


async def test_a_probe_that_is_given_back_is_there_for_the_next(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named()
    await lanes.give_back([await probing(lanes, db)])
    assert len(await lanes.lend(5)) == 1


async def test_the_usual_pace_lets_fifty_start_at_once(db: DB) -> None:
    usual = Config()
    lanes = Egress(
        db, [A], starts_per_minute=usual.egress_starts_per_minute, burst=usual.egress_burst,
        pause_seconds=usual.egress_pause_seconds,
    )  # fmt: skip
    await lanes.open()
    assert len(await lanes.lend(50)) == 50


# several lanes


async def test_lanes_share_the_starts_evenly(lanes_named: Any) -> None:
    lanes = await lanes_named(A, B, burst=10)
    for _ in range(2):
        names = [permit.lane.name for permit in await lanes.lend(6)]
        assert (names.count(A.name), names.count(B.name)) == (3, 3)


async def test_lanes_that_are_full_take_turns(lanes_named: Any, db: DB) -> None:
    """One start now and then must not always take the same way."""
    lanes, names = await lanes_named(A, B, burst=10), []
    for _ in range(4):
        await sql(db, "UPDATE egress_lanes SET tokens = 10")
        names += [permit.lane.name for permit in await lanes.lend(1)]
    assert names in ([A.name, B.name] * 2, [B.name, A.name] * 2)


async def test_a_paused_lane_does_not_stop_the_others(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(A, B, pause=30)
    wait = await lanes.failed(Permit(A), REFUSED, heard=False)
    assert {permit.lane for permit in await lanes.lend(10)} == {B}
    assert wait is not None and wait <= 1


async def test_a_probe_comes_before_the_starts_of_open_lanes(lanes_named: Any, db: DB) -> None:
    lanes = await lanes_named(A, B)
    await lanes.failed(Permit(A), REFUSED, heard=False)
    await passed(db)
    assert [(permit.lane.name, permit.probe) for permit in await lanes.lend(2)] == [(A.name, 1), (B.name, None)]


async def test_a_refused_download_waits_for_the_first_lane_that_may_be_tried(lanes_named: Any) -> None:
    lanes = await lanes_named(A, B, pause=100)
    await lanes.failed(Permit(A), Failed("rate_limited", "Slow.", True, 900.0), heard=False)
    wait = await lanes.failed(Permit(B), REFUSED, heard=False)
    assert wait is not None and 80 < wait < 125


NAMES = [
    ([], False, ["direct"]),
    ([], True, ["direct+cookies"]),
    (["http://u:pw@proxy.test:3128"], False, ["proxy.test:3128"]),
    (["socks5://p", "https://p", "http://p"], True, ["p:1080+cookies", "p:443+cookies", "p:80+cookies"]),
    (["http://u-1:pw@p:1", "http://u-2:pw@p:1", "http://u-1:pw@p:1"], False, ["p:1", "p:1#2"]),
    (["http://[::1]:8080"], False, ["[::1]:8080"]),
]


@pytest.mark.parametrize(("proxies", "cookies", "names"), NAMES)
def test_a_lanes_name_says_which_way_it_is_and_nothing_secret(
    proxies: list[str], cookies: bool, names: list[str]
) -> None:
    lanes = lanes_of(proxies, cookies=cookies)
    assert [lane.name for lane in lanes] == names
    assert "pw" not in repr(lanes)


# the service

VIDEOS = [f"many_{number:06}" for number in range(8)]


@pytest.fixture
def slowed(youtube: YouTube) -> Iterator[YouTube]:
    """The site answers 429."""
    youtube.misbehave(player_status=429)
    yield youtube


@asynccontextmanager
async def pausing(config: Config, seconds: float, **changes: Any) -> AsyncIterator[tuple[Service, Person]]:
    """A service whose first pause is that long, and somebody who uses it."""
    changes |= {"egress_pause_seconds": seconds}
    async with running(dataclasses.replace(config, **changes)) as service, service.person("ann") as ann:
        yield service, ann


async def ask_for(person: Person, youtube: YouTube, names: list[str]) -> list[str]:
    return [(await ask(person, youtube.url(name), quality="360p"))["id"] for name in names]


def is_held_up(download: Download) -> bool:
    return download["status"] == "queued" and (download["waiting"] or {}).get("code") == "egress_paused"


async def tries(service: Service) -> list[tuple[int, int]]:
    return [(a, b) for a, b in await sql(service.app[DB_KEY], "SELECT tries, crashes FROM jobs")]


async def test_a_429_holds_up_all_downloads_and_costs_none_a_try(downloading_config: Config, slowed: YouTube) -> None:
    async with pausing(downloading_config, 300) as (service, ann):
        ids = await ask_for(ann, slowed, VIDEOS)
        found = [await until(ann, id, is_held_up) for id in ids]
        assert all(d["waiting"]["until"] and d["waiting"]["message"] and d["error"] is None for d in found)
        assert sum(d["attempts"] for d in found) <= 4 and any(d["attempts"] == 0 for d in found)
        assert await tries(service) == [(0, 0)] * len(VIDEOS)
        ((pauses,),) = await sql(service.app[DB_KEY], "SELECT pauses FROM egress_lanes")
        assert pauses == 1


@pytest.mark.slow
async def test_one_probe_goes_ahead_and_then_all_downloads_complete(
    downloading_config: Config, slowed: YouTube
) -> None:
    async with pausing(downloading_config, 1) as (service, ann):
        ids = await ask_for(ann, slowed, VIDEOS[:6])
        for id in ids:
            await until(ann, id, is_held_up)
        slowed.behave()
        slowed.misbehave(player_delay=2.0)
        assert await most_at_work_while_closed(service) == 1
        assert [(await ended(ann, id, 60))["status"] for id in ids] == ["completed"] * len(ids)
        assert await tries(service) == [(0, 0)] * len(ids)


async def test_the_lane_opens_while_the_probe_still_transfers(downloading_config: Config, slowed: YouTube) -> None:
    async with pausing(downloading_config, 0.5) as (service, ann):
        (id,) = await ask_for(ann, slowed, ["ordinary"])
        await until(ann, id, is_held_up)
        slowed.behave()
        # A minute and more, at the end of which the lane would open in any case.
        slowed.misbehave("ordinary", media_throttle=3_000)
        await most_at_work_while_closed(service)
        assert (await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0))["status"] == "downloading"


@pytest.mark.slow
async def test_a_probe_that_is_cancelled_leaves_its_place_to_the_next(
    downloading_config: Config, slowed: YouTube, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that says nothing is not taken for dead before the test is over.
    monkeypatch.setattr(egress, "PROBE_SECONDS", 600.0)
    async with pausing(downloading_config, 0.5) as (service, ann):
        ids = await ask_for(ann, slowed, VIDEOS[:2])
        for id in ids:
            await until(ann, id, is_held_up)
        slowed.behave()
        slowed.misbehave(player_delay=6.0, times=1)
        await eventually_probing(service)
        await ann.post(f"/downloads/{await leased(service)}/cancel")
        assert sorted([(await ended(ann, id, 60))["status"] for id in ids]) == ["cancelled", "completed"]


async def leased(service: Service) -> str:
    """The download that is being fetched, a moment after its lane has let it start."""
    async with asyncio.timeout(30):
        text = "SELECT subject FROM jobs WHERE state = 'running'"
        while not (rows := await sql(service.app[DB_KEY], text)):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)
    return str(rows[0][0])


async def most_at_work_while_closed(service: Service) -> int:
    """Waits until the lane is open; how many jobs ran at once before. Both as of the same moment."""
    text = "SELECT state, (SELECT count(*) FROM jobs WHERE state = 'running') FROM egress_lanes"
    most = 0
    async with asyncio.timeout(60):
        while (seen := (await sql(service.app[DB_KEY], text))[0])[0] != "open":
            most = max(most, seen[1])
            await asyncio.sleep(0.02)
    return most


async def eventually_probing(service: Service) -> None:
    async with asyncio.timeout(60):
        text = "SELECT 1 FROM egress_lanes WHERE state <> 'probing'"
        while await sql(service.app[DB_KEY], text):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)


async def test_a_download_that_is_refused_in_the_middle_goes_on_from_there(
    downloading_config: Config, youtube: YouTube
) -> None:
    youtube.misbehave(itag=140, media_status=429, times=1)
    async with pausing(downloading_config, 0.3) as (service, ann):
        (id,) = await ask_for(ann, youtube, ["ordinary"])
        await until(ann, id, lambda d: d["attempts"] == 2)
        assert (await ended(ann, id))["status"] == "completed"
        first, second = await (await ann.get(f"/downloads/{id}/logs")).json()
        assert (first["status"], first["error_code"]) == ("yielded", "rate_limited")
        # The picture was there; only the sound was left.
        assert first["downloaded_bytes"] > 50_000 and second["downloaded_bytes"] < 0.6 * second["file_bytes"]
        assert await tries(service) == [(0, 0)]


async def test_what_is_refused_for_itself_ends_as_failed(
    downloading_config: Config, youtube: YouTube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOST_REFUSALS", 1)
    async with pausing(downloading_config, 0.1, download_max_attempts=2) as (_, ann):
        (id,) = await ask_for(ann, youtube, ["bot_check"])
        found = await ended(ann, id, 30)
        assert (found["status"], found["error"]["code"], found["attempts"]) == ("failed", "bot_check", 3)


@pytest.fixture
def another_youtube() -> Iterator[YouTube]:
    with YouTube() as running:
        yield running


@pytest.mark.slow
async def test_of_two_proxies_one_is_paused_and_the_other_goes_on(
    downloading_config: Config, slowed: YouTube, another_youtube: YouTube, tmp_path: Path
) -> None:
    authorities = tmp_path / "both.pem"
    authorities.write_text(Path(slowed.ca_file).read_text() + Path(another_youtube.ca_file).read_text())
    proxies = f"{slowed.proxy_url}, {another_youtube.proxy_url}"
    slowed.forget()
    changes = {"outbound_proxy": proxies, "outbound_ca_file": str(authorities)}
    async with pausing(downloading_config, 600, **changes) as (service, ann):
        ids = await ask_for(ann, slowed, VIDEOS)
        found = [await ended(ann, id, 60) for id in ids]
        assert [d["status"] for d in found] == ["completed"] * len(ids), [d["error"] for d in found]
        states = await sql(service.app[DB_KEY], "SELECT state, pauses FROM egress_lanes ORDER BY pauses")
        assert states == [("open", 0), ("paused", 1)]
        assert await tries(service) == [(0, 0)] * len(VIDEOS)
        # Each attempt kept to its own proxy, for its media too.
        media = [sum("videoplayback" in seen.path for seen in site.requests) for site in (slowed, another_youtube)]
        assert media[0] == 0 and media[1] >= len(ids)


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_proxys_password_shows_nowhere(
    downloading_config: Config, youtube: YouTube, reachable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    youtube.misbehave(player_status=429, times=1)
    address = youtube.proxy_url.removeprefix("http://") if reachable else "127.0.0.1:9"
    proxy = f"http://proxy-user-7:hunter-2-secret@{address}"
    caplog.set_level("DEBUG")
    async with pausing(downloading_config, 0.2, outbound_proxy=proxy, download_max_attempts=1) as (service, ann):
        (id,) = await ask_for(ann, youtube, ["ordinary"])
        # A proxy that lets nothing through closes its lane; the download waits.
        await until(ann, id, lambda d: d["status"] == "completed" if reachable else d["waiting"] is not None)
        shown = [await (await ann.get(path)).text() for path in (f"/downloads/{id}", f"/downloads/{id}/logs")]
        shown.append(await (await service.client.get("/metrics")).text())
        rows = await sql(service.app[DB_KEY], "SELECT l::text FROM egress_lanes l")
    assert f'ytdl_egress_starts_total{{lane="{address}"}}' in shown[-1] and rows
    logged = [str(vars(record)) for record in caplog.records]
    assert len(logged) > 3
    assert not [text for text in [*shown, *logged, str(rows)] if "hunter-2" in text or "proxy-user" in text]


async def waiting(person: Person, id: str) -> Any:
    return (await look(person, id))["waiting"]


async def test_a_download_that_was_never_tried_says_that_the_lanes_are_closed(
    service: Service, alice: Person, lanes_named: Any, youtube: YouTube
) -> None:
    db = service.app[DB_KEY]
    # What was read is not believed for a moment, so that each look shows what is there.
    service.app[DOWNLOADS]._recent._seconds = 0.0
    lanes = Egress(db, [A, B], starts_per_minute=60, burst=9, pause_seconds=500)
    await lanes.open()
    (id,) = await ask_for(alice, youtube, ["ordinary"])
    await lanes.failed(Permit(A), REFUSED, heard=False)
    assert await waiting(alice, id) is None
    await lanes.failed(Permit(B), REFUSED, heard=False)
    held_up = await waiting(alice, id)
    assert held_up["code"] == "egress_paused" and held_up["until"]
    for probe in range(2):
        await sql(db, "UPDATE egress_lanes SET paused_until = now() WHERE state = 'paused'")
        assert (await waiting(alice, id))["until"] is None, probe
        await lanes.lend(1)


async def test_a_lane_that_nobody_uses_any_more_holds_up_nothing(
    service: Service, alice: Person, youtube: YouTube
) -> None:
    db = service.app[DB_KEY]
    lanes = Egress(db, [A], starts_per_minute=60, burst=9, pause_seconds=50)
    await lanes.open()
    await lanes.failed(Permit(A), REFUSED, heard=False)
    await sql(db, "UPDATE egress_lanes SET seen_at = now() - interval '2 minutes'")
    (id,) = await ask_for(alice, youtube, ["ordinary"])
    assert await waiting(alice, id) is None


async def test_a_lane_shows_in_the_metrics_from_the_start(lanes_named: Any, db: DB) -> None:
    lane_ = Lane("metrics.test:1")
    lanes = await lanes_named(lane_, pause=30)
    assert count(metrics.egress_lane_state, lane=lane_.name, state="open") == 1
    assert count(metrics.egress_pauses, lane=lane_.name, reason="bot_check") == 0
    await lanes.failed(Permit(lane_), REFUSED, heard=False)
    assert count(metrics.egress_lane_state, lane=lane_.name, state="paused") == 1
    assert count(metrics.egress_paused_until, lane=lane_.name) > 1e9
    await asyncio.sleep(0.1)
    await lanes.look()
    assert 0.1 <= count(metrics.egress_paused_seconds, lane=lane_.name) < 5
