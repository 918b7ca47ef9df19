"""Promises of room: never more than there is, however many ask; and in line, nobody starves and nobody blocks."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.disks import MIB, fill, free, small_disk
from tests.queueing import cancel, claimed, complete, crash, fail, hand_back, job, sql, take
from ytdl import disk, metrics
from ytdl.db import DB
from ytdl.disk import Disk, Room, called_by, delay, demand, helped_by
from ytdl.events import Events
from ytdl.fetcher import FetchFailed
from ytdl.kv import KV
from ytdl.queue import Claim, Queue
from ytdl.storage import Storage

WATERMARK = 10 * MIB


@dataclass
class House:
    """One process as far as the disk is concerned."""

    db: DB
    jobs: Queue
    storage: Storage
    disk: Disk

    async def ask(self, mebibytes: float, claim: Claim | None = None) -> Claim:
        """A running job that was promised so much; raises what `admit` raises."""
        claim = claim or await claimed(self.jobs, self.db)
        assert await self.disk.admit(claim, int(mebibytes * MIB))
        return claim

    async def refused(self, mebibytes: float, claim: Claim | None = None) -> Claim:
        """A running job that was refused so much, and then put off."""
        claim = claim or await claimed(self.jobs, self.db)
        with pytest.raises(FetchFailed) as caught:
            await self.disk.admit(claim, int(mebibytes * MIB))
        assert (caught.value.failure.code, caught.value.failure.retryable) == ("disk_full", True)
        await self.defer(claim)
        return claim

    async def defer(self, claim: Claim) -> None:
        async with self.db.transaction() as tx:
            assert await self.jobs.defer(tx, claim, 600.0, "disk")

    async def again(self, claim: Claim) -> Claim:
        """The next attempt at a job."""
        await sql(self.db, "UPDATE jobs SET run_at = now() WHERE id = %s", claim.job)
        (newer,) = await take(self.jobs, self.db, claim.job)
        return newer

    def write(self, claim: Claim, mebibytes: float) -> Path:
        folder = self.storage.attempt_dir(claim.subject, claim.job, claim.fence)
        return fill(folder / f"{random.getrandbits(32)}", mebibytes)

    async def promised(self) -> int:
        await self.disk.tend()
        return int(metrics.disk_reserved_bytes._value.get())

    async def waits(self, claim: Claim) -> bool:
        ((waits,),) = await sql(self.db, "SELECT run_at > now() FROM jobs WHERE id = %s", claim.job)
        return bool(waits)


def house_on(folder: Path, db: DB, kv: KV, watermark: int = WATERMARK) -> House:
    storage = Storage(folder)
    storage.open()
    jobs = Queue(db, kv, lease_seconds=600)
    return House(db, jobs, storage, Disk(db, jobs, storage, Events(kv), watermark=watermark))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 60) as folder:
        yield folder


@pytest.fixture
async def house(folder: Path, db: DB, kv: KV) -> House:
    return house_on(folder, db, kv)


@pytest.fixture
async def other(folder: Path, database_url: str, kv: KV) -> AsyncIterator[House]:
    """Another process on the same disk."""
    db = DB(database_url, size=4)
    await db.open()
    yield house_on(folder, db, kv)
    await db.close()


async def test_what_is_promised_is_not_promised_again(house: House, other: House) -> None:
    await house.ask(30)
    await other.ask(15)
    await other.refused(5)


async def test_what_is_written_counts_once(house: House) -> None:
    one = await house.ask(20)
    house.write(one, 18)
    await house.ask(25)
    await house.refused(5)


async def test_what_goes_over_its_promise_takes_nothing_from_others_promises(house: House) -> None:
    one, two = await house.ask(5), await house.ask(20)
    house.write(one, 20)
    assert await house.promised() == demand(20 * MIB)
    house.write(two, 20)
    assert await house.promised() == demand(20 * MIB) - 20 * MIB


async def test_partial_files_that_were_taken_over_are_not_part_of_what_is_needed(house: House) -> None:
    one = await claimed(house.jobs, house.db)
    house.write(one, 20)
    await house.ask(20, one)
    assert await house.promised() == demand(20 * MIB)


async def test_a_second_name_of_a_file_takes_no_room(house: House) -> None:
    one = await house.ask(20)
    part = house.write(one, 10)
    part.with_name("out.mp4").hardlink_to(part)
    assert demand(20 * MIB) - await house.promised() == 10 * MIB


async def test_asking_again_after_a_lost_answer_changes_nothing(house: House) -> None:
    one = await house.ask(30)
    await house.ask(30, one)
    assert await house.promised() == demand(30 * MIB)


async def test_below_the_watermark_only_what_writes_nothing_is_let_in(house: House) -> None:
    fill(house.storage.root / "others", 55)
    await house.refused(0.01)
    await house.ask(0)


async def test_an_unknown_size_is_taken_for_a_large_one(house: House) -> None:
    with pytest.raises(FetchFailed, match="larger than the server's whole disk"):
        await house.disk.admit(await claimed(house.jobs, house.db), None)


async def test_what_would_not_fit_on_an_empty_disk_fails_for_good(house: House) -> None:
    with pytest.raises(FetchFailed) as caught:
        await house.disk.admit(await claimed(house.jobs, house.db), 50 * MIB)
    assert (caught.value.failure.code, caught.value.failure.retryable) == ("file_too_large", False)


async def test_who_lost_the_lease_is_promised_nothing(house: House) -> None:
    one = await claimed(house.jobs, house.db)
    await crash(house.jobs, house.db, one.job)
    assert not await house.disk.admit(one, MIB)
    newer = await house.again(one)
    assert not await house.disk.admit(one, MIB)
    await house.ask(30, newer)
    assert not await house.disk.admit(one, MIB)
    assert await house.promised() == demand(30 * MIB)


@pytest.mark.parametrize("each", [3, 11])
async def test_twenty_that_ask_at_once_get_all_there_is_and_no_more(house: House, other: House, each: int) -> None:
    claims = [await claimed(house.jobs, house.db) for _ in range(20)]
    asked = [(house, other)[n % 2].disk.admit(claim, each * MIB) for n, claim in enumerate(claims)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers.count(True) == 50 * MIB // demand(each * MIB)
    assert all(answer is True or isinstance(answer, FetchFailed) for answer in answers)


End = Callable[[House, Claim], Awaitable[Any]]
ENDS: dict[str, End] = {
    "completed": lambda house, claim: complete(house.jobs, house.db, claim),
    "failed": lambda house, claim: fail(house.jobs, house.db, claim, permanent=True),
    "to be tried again": lambda house, claim: fail(house.jobs, house.db, claim),
    "handed back": lambda house, claim: hand_back(house.jobs, house.db, claim),
    "put off": lambda house, claim: house.defer(claim),
    "crashed": lambda house, claim: crash(house.jobs, house.db, claim.job),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_promise_ends_with_its_attempt(house: House, other: House, end: str) -> None:
    one = await house.ask(40)
    await ENDS[end](house, one)
    assert await house.promised() == 0
    await other.ask(40)


async def test_a_cancelled_attempt_gives_back_its_promise_when_it_has_ended(house: House) -> None:
    one = await house.ask(40)
    await cancel(house.jobs, house.db, one.job)
    assert await house.promised() > 0
    await complete(house.jobs, house.db, one)
    assert await house.promised() == 0


async def test_the_next_attempt_does_not_inherit_the_promise(house: House) -> None:
    one = await house.ask(40)
    await crash(house.jobs, house.db, one.job)
    await house.again(one)
    assert await house.promised() == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_all_that_was_promised_can_be_written(house: House, other: House, seed: int) -> None:
    """After every step: if all wrote all of it now, the watermark would still be free."""
    chance = random.Random(seed)
    running: dict[int, tuple[Claim, float]] = {}
    for _ in range(80):
        act = chance.random()
        if act < 0.5 or not running:
            claim, size = await claimed(house.jobs, house.db), chance.uniform(0.1, 20)
            try:
                await chance.choice((house, other)).ask(size, claim)
                running[claim.job] = claim, size
            except FetchFailed:
                await ENDS[chance.choice(list(ENDS))](house, claim)
        elif act < 0.8:
            claim, size = running[chance.choice(list(running))]
            part = chance.uniform(0, size)
            house.write(claim, part)
            running[claim.job] = claim, size - part
        else:
            claim, _ = running.pop(chance.choice(list(running)))
            await ENDS[chance.choice(list(ENDS))](house, claim)
            await house.storage.clear_work(claim.subject, (claim.job, claim.fence))
        assert free(house.storage.root) - await house.promised() >= WATERMARK


async def test_promises_hold_on_a_disk_that_others_use_too(tmp_path: Path, db: DB, kv: KV) -> None:
    """Needs no disk of its own: the parts are so large that what others write changes nothing."""
    house = house_on(tmp_path, db, kv, watermark=0)
    part = 0.4 * free(tmp_path) / MIB
    await house.ask(part)
    await house.ask(part)
    await house.refused(part)


# in line


async def test_a_large_one_keeps_its_place_while_it_can_be_hoped_for(house: House) -> None:
    running = await house.ask(20)
    large = await house.refused(40)
    small = await house.refused(10)
    await complete(house.jobs, house.db, running)
    assert await house.disk.tend() == 1
    assert (await house.waits(large), await house.waits(small)) == (False, True)
    await house.ask(40, await house.again(large))


async def test_one_that_no_end_would_make_room_for_holds_up_nobody(house: House) -> None:
    fill(house.storage.root / "others", 20)
    await house.refused(40)
    small = await house.ask(5)
    await complete(house.jobs, house.db, small)
    assert await house.disk.tend() == 0


async def test_who_came_before_the_large_one_goes_first(house: House) -> None:
    older = await claimed(house.jobs, house.db)
    await house.ask(20)
    await house.refused(40)
    await house.ask(5, older)


async def test_the_place_is_kept_while_the_next_attempt_looks_at_the_video(house: House) -> None:
    running = await house.ask(20)
    large = await house.refused(40)
    await complete(house.jobs, house.db, running)
    newer = await house.again(large)
    await house.refused(20)
    await house.ask(40, newer)


@pytest.mark.parametrize("end", ["completed", "failed", "to be tried again"])
async def test_who_ended_otherwise_has_no_place_any_more(house: House, end: str) -> None:
    await house.ask(20)
    large = await house.again(await house.refused(40))
    await ENDS[end](house, large)
    await house.ask(5)


async def test_who_was_cancelled_in_line_has_no_place_any_more(house: House) -> None:
    await house.ask(20)
    large = await house.refused(40)
    await cancel(house.jobs, house.db, large.job)
    await house.ask(5)


async def test_those_for_whom_there_is_room_are_called_and_come_at_once(house: House) -> None:
    running = await house.ask(45)
    line = [await house.refused(mebibytes) for mebibytes in (20, 15, 20)]
    assert await house.disk.tend() == 0
    await complete(house.jobs, house.db, running)
    assert await house.disk.tend() == 2
    assert [await house.waits(claim) for claim in line] == [False, False, True]
    assert await house.jobs.index.claim(5) == [claim.job for claim in line[:2]]


async def test_a_call_costs_no_try(house: House) -> None:
    running = await house.ask(45)
    one = await house.refused(20)
    await complete(house.jobs, house.db, running)
    await house.disk.tend()
    found = await job(house.db, one.job)
    assert (found["state"], found["tries"]) == ("queued", 0)


async def test_a_call_does_not_touch_who_waits_for_something_else(house: House) -> None:
    one = await claimed(house.jobs, house.db)
    async with house.db.transaction() as tx:
        await house.jobs.defer(tx, one, 600.0, "egress")
    assert await house.jobs.hasten([one.job], "disk") == 0
    assert await house.waits(one)


async def test_who_was_refused_is_refused_again_before_the_site_is_asked(house: House) -> None:
    running = await house.ask(20)
    large = await house.again(await house.refused(40))
    with pytest.raises(FetchFailed):
        await house.disk.admit_again(large)
    await house.defer(large)
    await complete(house.jobs, house.db, running)
    large = await house.again(large)
    await house.disk.admit_again(large)
    assert await house.promised() == 0


async def test_a_full_disk_puts_its_attempt_in_line_for_all_it_was_promised(house: House) -> None:
    one = await claimed(house.jobs, house.db)
    house.write(one, 10)
    await house.ask(20, one)
    fill(house.storage.root / "others", 25)
    await house.disk.put_off(one, admitted=True)
    await house.storage.clear_work(one.subject, (one.job, one.fence))
    await house.defer(one)
    assert await house.disk.tend() == 0
    (house.storage.root / "others").unlink()
    assert await house.disk.tend() == 1


async def test_partial_files_give_way_when_they_keep_everybody_from_going_on(house: House) -> None:
    """Three had come half way when something else took the rest of the disk."""
    await with_downloads(house)
    older, middle, younger = [await house.ask(15) for _ in range(3)]
    for claim in (older, middle, younger):
        house.write(claim, 9)
        await hand_back(house.jobs, house.db, claim)
    fill(house.storage.root / "others", 21)
    for claim in (older, middle, younger):
        await remember(house, claim)
        await house.refused(6, await house.again(claim))
    await house.disk.tend()
    assert set(await house.storage.at_work()) == {older.subject, middle.subject}
    assert await house.disk.tend() == 1
    assert [await house.waits(claim) for claim in (older, middle, younger)] == [False, True, True]


async def test_partial_files_are_kept_where_their_going_would_not_help(house: House) -> None:
    await with_downloads(house)
    older, younger = await house.ask(20), await house.ask(20)
    house.write(younger, 2)
    fill(house.storage.root / "others", 57)
    for claim in (older, younger):
        await remember(house, claim)
        await hand_back(house.jobs, house.db, claim)
        await house.refused(20, await house.again(claim))
    await house.disk.tend()
    assert list(await house.storage.at_work()) == [younger.subject]


async def test_one_that_can_never_fit_keeps_no_partial_files_from_giving_way_to_those_behind_it(house: House) -> None:
    await with_downloads(house)
    idle = await house.ask(20)
    house.write(idle, 20)
    fill(house.storage.root / "others", 15)
    await remember(house, idle)
    await fail(house.jobs, house.db, idle)
    never, second = await house.refused(40), await house.refused(25)
    assert await house.disk.tend() == 0
    assert list(await house.storage.at_work()) == []
    assert await house.disk.tend() == 1
    assert [await house.waits(claim) for claim in (never, second)] == [True, False]


async def with_downloads(house: House) -> None:
    await sql(
        house.db, "INSERT INTO users (id, username, email, full_name, password_hash)"
        " VALUES ('00000000-0000-0000-0000-000000000001', 'a', 'a', 'A', 'x')",
    )  # fmt: skip


async def remember(house: House, claim: Claim) -> None:
    """The download that a job is about."""
    await sql(
        house.db,
        "INSERT INTO downloads (id, user_id, job_id, url, canonical_url, extractor, video_id, quality, format)"
        " VALUES (%s, '00000000-0000-0000-0000-000000000001', %s, 'u', 'u', 'youtube', 'v', 'best', 'mp4')",
        claim.subject, claim.job,
    )  # fmt: skip


async def test_promises_of_jobs_that_ended_are_forgotten(house: House) -> None:
    one, two = await house.ask(5), await house.ask(5)
    await complete(house.jobs, house.db, one)
    assert (await disk.sweep(house.db), await disk.sweep(house.db)) == (1, 0)
    assert await sql(house.db, "SELECT job_id FROM reservations") == [(two.job,)]


def test_nobody_in_line_gets_past_one_who_may_hope() -> None:
    line = [{"id": n, "wanted_bytes": wanted} for n, wanted in enumerate((90, 5, 30, 2))]
    assert called_by(line, Room(100, 10, 0, 0)) == [1, 3]
    assert called_by(line, Room(100, 10, 25, 0)) == [1]
    assert called_by(line, Room(100, 10, 85, 0)) == []
    assert called_by(line, Room(100, -10, 0, 0)) == []


def test_partial_files_help_the_first_in_line_for_whom_the_others_would_do() -> None:
    line = [{"id": n, "wanted_bytes": wanted} for n, wanted in ((1, 90), (2, 30), (3, 30))]
    assert helped_by(line, 10, {1: 20, 9: 5}) == 2
    assert helped_by(line, 10, {2: 20, 9: 5}) == 3
    assert helped_by(line, 10, {1: 15}) is None


def test_delays_grow_and_differ() -> None:
    assert 48 <= delay(0) <= 72 and 720 <= delay(50) <= 1080
    assert len({delay(1) for _ in range(10)}) > 1


def test_nothing_needs_nothing_and_everything_a_little_more() -> None:
    assert (demand(0), demand(None)) == (0, disk.UNKNOWN_BYTES)
    assert demand(64 * MIB) == 66 * MIB


# leasing


async def test_leasing_stops_at_the_watermark_and_goes_on_with_room(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    seen = [await house.disk.may_lease()]
    ballast = fill(house.storage.root / "others", 51)
    seen.append(await house.disk.may_lease())
    ballast.unlink()
    seen.append(await house.disk.may_lease())
    assert seen == [True, False, True]
    assert [r.message for r in caplog.records if r.name == "ytdl.disk"] == ["disk.full", "disk.room"]


async def test_leasing_stops_when_all_that_is_free_was_promised(house: House) -> None:
    await house.ask(48)
    await house.disk.tend()
    assert await house.disk.may_lease()
    fill(house.storage.root / "others", 2)
    assert not await house.disk.may_lease()
