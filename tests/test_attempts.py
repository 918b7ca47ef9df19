"""Attempts against each other: what one writes while another, or its own end, writes the same rows."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.queueing import count
from tests.queueing import sql as statement
from ytdl import metrics, sql, users
from ytdl.attempts import Attempts, Started
from ytdl.crypto import Hasher
from ytdl.db import DB, Row
from ytdl.events import Events
from ytdl.fetcher import Failed, Progress
from ytdl.kv import KV
from ytdl.queue import MAX_CRASHES, Queue
from ytdl.reasons import REASONS, USERS_OWN
from ytdl.record import view

q = sql.load("downloads")
HALF = Progress(
    stage="downloading", percent=50.0, downloaded_bytes=5, total_bytes=10, speed_bytes_per_second=1.0, eta_seconds=5.0
)


@dataclass
class Bench:
    db: DB
    queue: Queue
    attempts: Attempts
    user: UUID

    async def started(self) -> Started:
        """A new download whose first attempt runs."""
        id = uuid4()
        async with self.db.transaction() as tx:
            job = await self.queue.submit(tx, "download", id, self.user, priority=5, dedup_key=None, max_tries=5)
            assert job
            await tx.exec(
                q.insert, id=id, user_id=self.user, session_id=None, job_id=job["id"], url="u", canonical_url="u",
                extractor="youtube", video_id="v", quality="best", format="mp4", options=Jsonb({}), ip=None,
                user_agent=None, headers=Jsonb({}),
            )  # fmt: skip
        (started,) = await self.attempts.lease([job["id"]])
        return started

    async def row(self, s: Started) -> Row:
        return await self.db.one(q.by_id, id=s.download, user_id=self.user, admin=False)

    async def status(self, s: Started) -> str:
        return str((await self.row(s))["status"])

    async def let_expire(self) -> None:
        await self.queue.disown()


@pytest.fixture
async def bench(db: DB, kv: KV) -> AsyncIterator[Bench]:
    hasher = Hasher(cost=4)
    user = await users.create(
        db, hasher, username="ann", email="ann@example.org", password="Correct-horse-9", full_name="Ann", role="user"
    )
    queue = Queue(db, kv)
    yield Bench(db, queue, Attempts(db, queue, Events(kv)), user.id)
    hasher.close()


@pytest.mark.parametrize("end", ["completed", "queued"])
async def test_progress_that_is_written_while_its_attempt_ends_changes_nothing(bench: Bench, end: str) -> None:
    """It is sent before the end is committed and would be judged by what the job was then."""
    s = await bench.started()
    async with bench.db.transaction() as tx:
        if end == "completed":
            await bench.queue.complete(tx, s.claim)
            await tx.maybe(
                q.complete, job=s.claim.job, file_name="1.1.mp4", size_bytes=1, content_type="video/mp4", sha256="x",
                width=1, height=1, duration_seconds=1.0,
            )  # fmt: skip
        else:
            await bench.queue.hand_back(tx, s.claim)
            await tx.exec(q.end, job=s.claim.job, status="queued", error=None)
        writing = asyncio.create_task(bench.attempts.progress([(s, HALF)]))
        await asyncio.sleep(0.2)
    await writing
    assert await bench.status(s) == end


async def test_progress_of_a_running_attempt_is_written(bench: Bench) -> None:
    s = await bench.started()
    await bench.attempts.progress([(s, HALF)])
    assert (await bench.db.one(q.by_id, id=s.download, user_id=bench.user, admin=False))["percent"] == 50


async def test_progress_of_a_lost_attempt_changes_nothing(bench: Bench) -> None:
    zombie, other = await bench.started(), await bench.started()
    await bench.let_expire()
    assert await bench.attempts.reap() == 2
    (newer,) = await bench.attempts.lease([zombie.claim.job])
    await bench.attempts.progress([(zombie, HALF), (other, HALF)])
    assert newer.claim.fence == 2
    row = await bench.db.one(q.by_id, id=zombie.download, user_id=bench.user, admin=False)
    assert (row["percent"], await bench.status(other)) == (0, "queued")


async def test_a_job_whose_download_was_deleted_is_ended_and_not_begun(bench: Bench) -> None:
    s = await bench.started()
    await bench.attempts.hand_back(s)
    await bench.db.exec(q.delete, id=s.download)
    assert await bench.attempts.lease([s.claim.job]) == []
    row = await bench.queue.outcome(dataclasses.replace(s.claim, fence=s.claim.fence + 1))
    assert row and row["state"] == "cancelled"
    before = count(metrics.queue_stale)
    await bench.attempts.drop_stale([s.claim.job], [])
    assert await bench.queue.index.claim(5) == []
    assert count(metrics.queue_stale) == before + 1


async def test_jobs_that_wait_for_each_other_are_not_stale(bench: Bench) -> None:
    """Refused while another one runs whose next crash is its last, they are suggested again until they are taken."""
    suspects = [(await bench.started()).claim.job for _ in range(3)]
    await bench.let_expire()
    await bench.attempts.reap()
    await statement(bench.db, "UPDATE jobs SET crashes = %s", MAX_CRASHES - 1)
    before = count(metrics.queue_stale)
    suggested = await bench.queue.index.claim(5)
    started = await bench.attempts.lease(suggested)
    await bench.attempts.drop_stale(suggested, started)
    assert (sorted(suggested), [s.claim.job for s in started]) == (suspects, suspects[:1])
    assert count(metrics.queue_stale) == before
    await asyncio.sleep(1.1)
    assert sorted(await bench.queue.index.claim(5)) == suspects[1:]


async def test_an_attempt_that_is_put_off_leaves_its_reason_and_costs_no_try(bench: Bench) -> None:
    s = await bench.started()
    refused = Failed("rate_limited", "HTTP Error 429", True)
    assert await bench.attempts.defer(s, refused, "egress", 60, fetched_bytes=7) == "queued"
    download = view(await bench.row(s))
    assert (download.status, download.error, download.attempts, download.next_attempt_at) == ("queued", None, 1, None)
    assert download.waiting and download.waiting.code == "egress_paused" and download.waiting.message
    assert download.waiting.until and 30 < (download.waiting.until - datetime.now(UTC)).total_seconds() <= 60
    (log,) = await bench.db.many(q.logs, id=s.download)
    assert (log["status"], log["error_code"], log["retries"], log["downloaded_bytes"]) == (
        "yielded",
        "rate_limited",
        0,
        7,
    )


async def test_an_attempt_that_is_put_off_waits_in_the_index_too(bench: Bench) -> None:
    later, soon = await bench.started(), await bench.started()
    for s, seconds in ((later, 600), (soon, 0.2)):
        await bench.attempts.defer(s, Failed("disk_full", "No room.", True), "disk", seconds)
    async with asyncio.timeout(30):
        while not (suggested := await bench.queue.index.claim(5)):  # noqa: ASYNC110 - the index is in Redis
            await asyncio.sleep(0.05)
    assert suggested == [soon.claim.job]


async def test_an_attempt_whose_download_was_cancelled_is_not_put_off(bench: Bench) -> None:
    s = await bench.started()
    async with bench.db.transaction() as tx:
        await bench.queue.cancel(tx, s.claim.job)
    assert await bench.attempts.defer(s, Failed("bot_check", "No.", True), "egress", 60) == "cancelled"
    assert view(await bench.row(s)).waiting is None


async def test_every_attempt_leaves_a_log_row_that_says_how_it_ended(bench: Bench) -> None:
    s = await bench.started()
    await bench.attempts.hand_back(s)
    (s,) = await bench.attempts.lease([s.claim.job])
    await bench.let_expire()
    await bench.attempts.reap()
    rows = await bench.db.many(q.logs, id=s.download)
    assert [(row["attempt"], row["status"]) for row in rows] == [(1, "yielded"), (2, "lost")]


@pytest.mark.parametrize(("code", "retryable", "more"), [("network_error", True, 1), ("video_private", False, 0)])
async def test_a_download_is_given_up_when_its_last_try_fails_of_what_may_pass(
    bench: Bench, code: str, retryable: bool, more: int
) -> None:
    before = count(metrics.downloads_given_up, why="tries")
    s = await bench.started()
    await statement(bench.db, "UPDATE jobs SET tries = max_tries - 1 WHERE id = %s", s.claim.job)
    assert await bench.attempts.fail(s, Failed(code, "x", retryable), None) == "failed"
    assert count(metrics.downloads_given_up, why="tries") == before + more


@pytest.mark.parametrize(("code", "fault"), [("extractor_broken", "service"), ("video_private", "user")])
async def test_only_a_download_that_failed_in_the_end_is_somebodys_fault(bench: Bench, code: str, fault: str) -> None:
    before = {who: count(metrics.downloads_blamed, fault=who) for who in ("user", "service")}
    s = await bench.started()
    assert await bench.attempts.fail(s, Failed(code, "x", True), None) == "retry_wait"
    assert {who: count(metrics.downloads_blamed, fault=who) for who in before} == before
    await statement(bench.db, "UPDATE jobs SET run_at = now() WHERE id = %s", s.claim.job)
    (s,) = await bench.attempts.lease([s.claim.job])
    assert await bench.attempts.fail(s, Failed(code, "x", False), None) == "failed"
    assert count(metrics.downloads_blamed, fault=fault) == before.pop(fault) + 1
    assert {who: count(metrics.downloads_blamed, fault=who) for who in before} == before


def test_only_codes_that_exist_are_the_users_own() -> None:
    assert REASONS.keys() >= USERS_OWN


async def test_a_download_whose_workers_are_lost_three_times_is_given_up(bench: Bench) -> None:
    before = count(metrics.downloads_given_up, why="crashes")
    blamed = count(metrics.downloads_blamed, fault="service")
    s = await bench.started()
    for crash in (1, 2, 3):
        await bench.let_expire()
        assert await bench.attempts.reap() == 1
        assert count(metrics.downloads_given_up, why="crashes") == before + (crash == 3)
        assert count(metrics.downloads_blamed, fault="service") == blamed + (crash == 3)
        await bench.attempts.lease([s.claim.job])
