"""One attempt at a download, as the worker goes through it: leased, described, under way, and one of its ends.

Each end is one transaction over the job, the download and the attempt's log row. A function that returns
nothing found its lease lost: then another attempt is what counts, and whatever this one made is thrown away.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ytdl import metrics, sql, tracing
from ytdl.db import DB, Row, Statements
from ytdl.events import Events
from ytdl.fetcher import Done, Failed, Metadata, Progress, Usage
from ytdl.queue import Claim, Queue
from ytdl.reasons import REASONS, USERS_OWN, Waiting

log = logging.getLogger("ytdl.attempts")
q = sql.load("downloads")
# Which stages of the child count as processing in the download's status.
PROCESSING = frozenset({"processing", "verifying"})


@dataclass(frozen=True)
class Started:
    """What the worker needs to know; `percent` is where an earlier attempt had come to, `needs_account` whether one has
    found that the site wants a signed-in user."""

    claim: Claim
    download: UUID
    url: str
    quality: str
    format: str
    embed_metadata: bool
    percent: float
    needs_account: bool = False
    max_file_bytes: int | None = None


class Attempts:
    def __init__(self, db: DB, queue: Queue, events: Events) -> None:
        self._db = db
        self._queue = queue
        self._events = events

    async def lease(self, suggested: Sequence[int]) -> list[Started]:
        """Takes what the index suggested, as far as PostgreSQL agrees. Nothing is awaited after the commit, so that
        whoever asked can answer for these attempts at once."""
        async with self._db.transaction() as tx:
            claims = await self._queue.claim(tx, suggested)
            rows = {r["job_id"]: r for r in await tx.many(q.start, jobs=[c.job for c in claims])}
            for claim in claims:
                if claim.job not in rows:
                    await self._queue.cancel(tx, claim.job)
                    await self._queue.hand_back(tx, claim)
        return [_started(claim, rows[claim.job]) for claim in claims if claim.job in rows]

    async def drop_stale(self, suggested: Sequence[int], started: Sequence[Started]) -> None:
        """Takes out of the index what PostgreSQL refused. What it will not refuse later comes again and was not stale:
        jobs that wait for each other would make it look as if the two disagreed."""
        taken = {s.claim.job for s in started}
        metrics.queue_stale.inc(await self._queue.refused([job for job in suggested if job not in taken]))

    async def begun(self, s: Started) -> None:
        """Tells readers that the attempt is under way."""
        await self._tell(s, "downloading")

    async def describe(self, s: Started, video: Metadata) -> None:
        await self._db.exec(
            q.describe, job=s.claim.job, fence=s.claim.fence, title=_text(video.title), uploader=_text(video.uploader),
            duration_seconds=video.duration_seconds, thumbnail_url=_text(video.thumbnail_url),
            width=video.width, height=video.height,
        )  # fmt: skip
        await self._tell(s, "downloading")

    async def progress(self, current: Sequence[tuple[Started, Progress]]) -> None:
        """Writes down where all of this worker's downloads are, in one statement."""
        p = [progress for _, progress in current]
        await self._db.exec(
            q.progress, jobs=[s.claim.job for s, _ in current], fences=[s.claim.fence for s, _ in current],
            statuses=[status_of(x.stage) for x in p], stages=[x.stage for x in p], percents=[x.percent for x in p],
            downloaded=[x.downloaded_bytes for x in p], fetched=[x.fetched_bytes for x in p],
            totals=[x.total_bytes for x in p],
            speeds=[x.speed_bytes_per_second for x in p], etas=[x.eta_seconds for x in p],
        )  # fmt: skip

    async def publish(self, s: Started, p: Progress) -> None:
        data = {
            "id": s.download, "status": status_of(p.stage), "stage": p.stage, "percent": round(p.percent, 1),
            "downloaded_bytes": p.downloaded_bytes, "total_bytes": p.total_bytes,
            "speed_bytes_per_second": p.speed_bytes_per_second, "eta_seconds": p.eta_seconds,
        }  # fmt: skip
        await self._events.publish(s.claim.user_id, s.download, "progress", data)

    async def complete(self, s: Started, name: str, done: Done, usage: Usage) -> str | None:
        """`completed`, `cancelled` when that was promised before, `None` when the lease was lost.

        Asked again after a lost answer it finds its own commit and says the same.
        """
        async with self._db.transaction() as tx:
            state = await self._queue.complete(tx, s.claim)
            if state == "completed":
                row = await tx.maybe(
                    q.complete, job=s.claim.job, file_name=name, size_bytes=done.size_bytes,
                    content_type=done.content_type, sha256=done.sha256, width=done.width, height=done.height,
                    duration_seconds=done.duration_seconds,
                )  # fmt: skip
            if state == "cancelled":
                await tx.exec(q.end, job=s.claim.job, status="cancelled", error=None)
            if state:
                path = name if state == "completed" else None
                await self._close(tx, s.claim.job, s.claim.fence, state, usage=usage, done=done, path=path)
        if state is None:
            return await self._committed_before(s)
        if state == "completed" and row:
            metrics.downloads_seconds.observe(row["seconds"], tracing.exemplar())
            metrics.downloads_file_bytes.observe(done.size_bytes)
            metrics.downloads_fetched_bytes.inc(done.fetched_bytes)
        await self._ended(s, state)
        return state

    async def _committed_before(self, s: Started) -> str | None:
        row = await self._queue.outcome(s.claim)
        if row is None or row["state"] not in ("completed", "cancelled"):
            return None
        await self._ended(s, row["state"])
        return str(row["state"])

    async def fail(
        self, s: Started, failure: Failed, usage: Usage | None, fetched_bytes: int | None = None
    ) -> str | None:
        """`failed`, `retry_wait`, `cancelled`, or `None` when the lease was lost (or this was committed before)."""
        reason = REASONS[failure.code]
        error = {
            "code": failure.code,
            "message": _text(failure.message),
            "retryable": failure.retryable,
            "hint": reason.hint,
        }
        floor = failure.retry_after_seconds or 0.0
        async with self._db.transaction() as tx:
            row = await self._queue.fail(tx, s.claim, permanent=not failure.retryable, floor=floor)
            if row is None:
                return None
            status = "queued" if row["state"] == "retry_wait" else row["state"]
            await tx.exec(q.end, job=s.claim.job, status=status, error=None if status == "cancelled" else Jsonb(error))
            outcome = "cancelled" if status == "cancelled" else "failed"
            job, fence = s.claim.job, s.claim.fence
            await self._close(
                tx, job, fence, outcome, usage=usage, fetched_bytes=fetched_bytes, code=failure.code,
                message=_text(failure.message),
            )  # fmt: skip
        if status != "cancelled":
            metrics.downloads_failed.labels(failure.code).inc()
        if status == "failed" and failure.retryable:
            metrics.downloads_given_up.labels("tries").inc()
        if status == "failed":
            metrics.downloads_blamed.labels("user" if failure.code in USERS_OWN else "service").inc()
        await self._ended(s, status, row)
        return str(row["state"])

    async def hand_back(self, s: Started, usage: Usage | None = None, fetched_bytes: int | None = None) -> str | None:
        """The worker stops: `queued`, or `cancelled` when that was asked for; `None` when the lease was lost."""
        async with self._db.transaction() as tx:
            row = await self._queue.hand_back(tx, s.claim)
            if row is None:
                return None
            await tx.exec(q.end, job=s.claim.job, status=row["state"], error=None)
            outcome = "yielded" if row["state"] == "queued" else "cancelled"
            job, fence = s.claim.job, s.claim.fence
            await self._close(tx, job, fence, outcome, usage=usage, fetched_bytes=fetched_bytes)
        await self._ended(s, row["state"], row)
        return str(row["state"])

    async def defer(
        self, s: Started, failure: Failed, waiting: Waiting, delay_seconds: float, usage: Usage | None = None,
        fetched_bytes: int | None = None,
    ) -> str | None:  # fmt: skip
        """Back to the queue with the reason on it and all tries left, for what is no fault of the download.

        `queued`, or `cancelled` when that was asked for; `None` when the lease was lost.
        """
        async with self._db.transaction() as tx:
            row = await self._queue.defer(tx, s.claim, delay_seconds, waiting)
            if row is None:
                return None
            await tx.exec(q.end, job=s.claim.job, status=row["state"], error=None)
            outcome = "yielded" if row["state"] == "queued" else "cancelled"
            await self._close(
                tx, s.claim.job, s.claim.fence, outcome, usage=usage, fetched_bytes=fetched_bytes, code=failure.code,
                message=_text(failure.message),
            )  # fmt: skip
        if row["state"] == "queued":
            metrics.downloads_failed.labels(failure.code).inc()
        await self._ended(s, row["state"], row)
        return str(row["state"])

    async def reap(self) -> int:
        """Takes attempts back from dead workers and returns how many."""
        lost = {"code": "worker_lost", "message": "The worker was lost again and again.", "retryable": False}
        error = lost | {"hint": REASONS["worker_lost"].hint}
        async with self._db.transaction() as tx:
            rows = await self._queue.reap(tx)
            for row in rows:
                failed = row["state"] == "failed"
                tx.on_commit(metrics.downloads_failed.labels("worker_lost").inc)
                if failed:
                    tx.on_commit(metrics.downloads_given_up.labels("crashes").inc)
                    tx.on_commit(metrics.downloads_blamed.labels("service").inc)
                await tx.exec(q.end, job=row["id"], status=row["state"], error=Jsonb(error) if failed else None)
                await self._close(tx, row["id"], row["fence"], "lost", code="worker_lost")
        for row in rows:
            log.warning("queue.reaped", extra={"job": row["id"], "fence": row["fence"], "state": row["state"]})
            await self._after(row["id"], row["user_id"], row["subject"], row["state"], row)
        return len(rows)

    async def _ended(self, s: Started, status: str, row: Row | None = None) -> None:
        await self._after(s.claim.job, s.claim.user_id, s.download, status, row)

    async def _after(self, job: int, user: UUID, download: UUID, status: str, row: Row | None) -> None:
        """After the commit, best effort: the index, the readers, the counters."""
        await self._queue.forget([job])
        if status == "queued" and row:
            await self._queue.announce(row)
            await self._events.tell("wake", "")
        else:
            metrics.downloads_finished.labels(status).inc()
        await self._events.publish(user, download, "status", {"id": download, "status": status})

    async def _tell(self, s: Started, status: str) -> None:
        await self._events.publish(s.claim.user_id, s.download, "status", {"id": s.download, "status": status})

    async def _close(
        self, tx: Statements, job: int, fence: int, status: str, *, usage: Usage | None = None, code: str | None = None,
        message: str | None = None, path: str | None = None, done: Done | None = None, fetched_bytes: int | None = None,
    ) -> None:  # fmt: skip
        await tx.exec(
            q.close_log, job=job, fence=fence, status=status, error_code=code, error_message=message, file_path=path,
            file_bytes=done and done.size_bytes, fetched_bytes=done.fetched_bytes if done else fetched_bytes,
            percent=100.0 if done else None,
            output_format=done and _output(done), peak_memory_bytes=usage and usage.peak_memory_bytes,
            cpu_seconds=usage and usage.cpu_seconds, disk_bytes=usage and usage.disk_bytes,
        )  # fmt: skip


def _output(done: Done) -> str:
    return "/".join(str(part) for part in (done.ext, done.video_codec, done.audio_codec) if part)


def _started(claim: Claim, row: Row) -> Started:
    embed = bool(row["options"].get("embed_metadata"))
    kept = row["percent"], row["needs_account"], row["max_file_bytes"]
    return Started(claim, row["id"], row["canonical_url"], row["quality"], row["format"], embed, *kept)


def status_of(stage: str) -> str:
    return "processing" if stage in PROCESSING else "downloading"


def _text(value: Any) -> str | None:
    """Text from outside without what PostgreSQL cannot hold."""
    return None if value is None else str(value).replace("\x00", "").encode(errors="replace").decode()[:2000]
