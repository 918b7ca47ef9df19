"""Downloads as their users see them: asking, looking, cancelling, trying again, deleting, fetching the file.

What happens to a download while a worker has it is in `attempts`. Every change of a record goes with its job's
change in one transaction, so the two never disagree. What an admin does with another user's goes on record.
"""

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ytdl import audit, errors, metrics, sql, urls
from ytdl.db import DB, Row, Transaction
from ytdl.disk import Disk
from ytdl.events import Events
from ytdl.queue import Queue
from ytdl.recent import Recent
from ytdl.record import (
    ENDED,
    Attempt,
    Download,
    File,
    Filter,
    NewDownload,
    Page,
    dedup_key,
    file_of,
    options_of,
    view,
)
from ytdl.storage import Storage

q = sql.load("downloads")

# How long a look may be answered from memory when the word of a change was lost.
BELIEVED_SECONDS = 1.0
# Greater than any fence: up to here means all attempts of a job.
LAST_FENCE = 2**63
# Of an account that goes: so many a transaction, which then takes well under a second.
AT_ONCE = 1000
# An admin who looks at the same download of another user is on record once in so long.
NOTED_SECONDS = 60.0
MOST_NOTED = 4096
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Asker:
    """Who asks and from where; `headers` are without secrets."""

    user_id: UUID
    admin: bool
    session_id: UUID | None = None
    ip: str | None = None
    user_agent: str | None = None
    headers: dict[str, str] | None = None


@dataclass(frozen=True)
class Created:
    download: Download
    replayed: bool = False


def check_idempotency_key(key: str | None) -> None:
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise errors.invalid("Idempotency-Key", "must have 1 to 255 printable ASCII characters")


class Downloads:
    def __init__(
        self, db: DB, queue: Queue, events: Events, storage: Storage, disk: Disk, *, max_attempts: int
    ) -> None:
        self._db = db
        self._queue = queue
        self._events = events
        self._storage = storage
        self._disk = disk
        self._max_attempts = max_attempts
        self._recent: Recent[UUID, tuple[UUID, Download]] = Recent(events, seconds=BELIEVED_SECONDS)
        events.watch(self._recent.forget)
        # When an admin last looked at another user's download, or changed it, the longest ago first.
        self._noted: dict[tuple[UUID, UUID], float] = {}
        self._noting = asyncio.Lock()

    async def create(self, asker: Asker, new: NewDownload, idempotency_key: str | None = None) -> Created:
        """Accepts a download. The answer stands only for what is committed.

        The user's live download of the same file is answered instead of a second one. Raises `errors.Invalid` for
        the URL, and for an idempotency key that was used with another body.
        """
        video = urls.parse(new.url)
        check_idempotency_key(idempotency_key)
        fingerprint = hashlib.sha256(msgspec.json.encode(new)).digest()
        async with self._db.transaction() as tx:
            if idempotency_key and (first := await self._replay(tx, asker, idempotency_key, fingerprint)):
                return Created(first, replayed=True)
            job, download = await self._submit(tx, asker, new, video)
            if idempotency_key:
                answer = msgspec.json.encode(download)
                await tx.exec(q.answered, user_id=asker.user_id, key=idempotency_key, answer=answer)
        if job:
            metrics.downloads_created.inc()
            await self._announce(job)
        return Created(download)

    async def _replay(self, tx: Transaction, asker: Asker, key: str, fingerprint: bytes) -> Download | None:
        """The first answer under the key; `None` when the key is new and now ours."""
        if await tx.maybe(q.remember, user_id=asker.user_id, key=key, fingerprint=fingerprint):
            return None
        first = await tx.one(q.remembered, user_id=asker.user_id, key=key)
        if first["fingerprint"] != fingerprint:
            raise errors.invalid("Idempotency-Key", "was used with another body")
        return msgspec.json.decode(first["answer"], type=Download)

    async def _submit(
        self, tx: Transaction, asker: Asker, new: NewDownload, video: urls.Video
    ) -> tuple[Row | None, Download]:
        """The new job and its download, or no job and the live download of the same file."""
        key = dedup_key(video.video_id, new.quality, new.format, options_of(new))
        # Between the two statements a live job may end; then there is room for the new one.
        for _ in range(5):
            id = uuid7()
            job = await self._queue.submit(
                tx, "download", id, asker.user_id, priority=new.priority, dedup_key=key, max_tries=self._max_attempts
            )
            if job:
                await self._insert(tx, id, job["id"], asker, new, video)
                return job, self._view(await tx.one(q.by_id, id=id, user_id=asker.user_id, admin=False))
            live = await self._queue.live_subject(tx, asker.user_id, key)
            row = live and await tx.maybe(q.by_id, id=live, user_id=asker.user_id, admin=False)
            if row:
                return None, self._view(row, deduplicated=True)
        raise errors.Conflict("The same download is just ending; try again.", retry_after=1)

    async def _insert(
        self, tx: Transaction, id: UUID, job: int, asker: Asker, new: NewDownload, video: urls.Video
    ) -> None:
        await tx.exec(
            q.insert, id=id, user_id=asker.user_id, session_id=asker.session_id, job_id=job, url=new.url,
            canonical_url=video.canonical_url, extractor=video.extractor, video_id=video.video_id,
            quality=new.quality, format=new.format, options=Jsonb(options_of(new)), ip=asker.ip,
            user_agent=asker.user_agent, headers=Jsonb(asker.headers or {}),
        )  # fmt: skip

    async def _announce(self, job: Row) -> None:
        await self._queue.announce(job)
        await self._events.tell("wake", "")

    async def get(self, asker: Asker, id: UUID) -> Download:
        return (await self._found(asker, id))[1]

    def _view(self, row: Row, *, position: int | None = None, deduplicated: bool = False) -> Download:
        return view(row, position=position, deduplicated=deduplicated, disk_full=self._disk.full)

    async def owner(self, asker: Asker, id: UUID) -> UUID:
        return (await self._found(asker, id))[0]

    async def _found(self, asker: Asker, id: UUID) -> tuple[UUID, Download]:
        """Raises `errors.NotFound` for one that is not there, and for another user's alike."""
        owner, download = self._recent.find(id) or await self._read(asker, id)
        if not asker.admin and owner != asker.user_id:
            raise errors.NotFound("There is nothing here by that name.")
        await self._looked(asker, owner, id)
        return owner, download

    async def _looked(self, asker: Asker, owner: UUID, id: UUID) -> None:
        """Who cannot be put on record sees nothing: raises `errors.Unavailable`."""
        if owner == asker.user_id or self._is_noted(asker, id):
            return
        async with self._noting:
            if not self._is_noted(asker, id):
                await audit.record(self._db, "sensitive_read", object=("download", id), owner=str(owner))
                self._note(asker, id)

    def _is_noted(self, asker: Asker, id: UUID) -> bool:
        return time.monotonic() - self._noted.get((asker.user_id, id), -NOTED_SECONDS) < NOTED_SECONDS

    def _note(self, asker: Asker, id: UUID) -> None:
        self._noted.pop((asker.user_id, id), None)
        if len(self._noted) >= MOST_NOTED:
            del self._noted[next(iter(self._noted))]
        self._noted[asker.user_id, id] = time.monotonic()

    async def _changed(self, tx: Transaction, asker: Asker, row: Row, what: str) -> None:
        """Puts a change of another user's download on record, with it; that it is then answered is part of it."""
        if row["user_id"] == asker.user_id:
            return
        type = "sensitive_delete" if what == "delete" else "sensitive_update"
        await audit.record(tx, type, object=("download", row["id"]), owner=str(row["user_id"]), what=what)
        tx.on_commit(lambda: self._note(asker, row["id"]))

    async def _read(self, asker: Asker, id: UUID) -> tuple[UUID, Download]:
        changes = self._recent.changes
        row = await self._row(asker, id)
        waiting = row["job_state"] == "queued"
        found = row["user_id"], self._view(row, position=await self._position(row["job_id"]) if waiting else None)
        self._recent.keep(id, found, changes)
        return found

    async def _row(self, asker: Asker, id: UUID) -> Row:
        return await self._db.one(q.by_id, id=id, user_id=asker.user_id, admin=asker.admin)

    async def _position(self, job: int) -> int | None:
        try:
            return await self._queue.index.rank(job)
        except errors.Unavailable:
            return None

    async def page(self, asker: Asker, f: Filter) -> Page:
        """Own downloads only, for an admin too."""
        rows = await self._db.many(
            q.page,
            user_id=asker.user_id,
            before=f.cursor,
            statuses=f.status,
            title=f.q,
            since=f.from_,
            until=f.to,
            limit=f.limit + 1,
        )
        items = [self._view(row) for row in rows[: f.limit]]
        return Page(items, str(items[-1].id) if len(rows) > f.limit else None)

    async def open_of(self, user_id: UUID) -> list[Download]:
        """What has not come to an end, newest first, at most 200."""
        return [self._view(row) for row in await self._db.many(q.open_of, user_id=user_id)]

    async def attempts(self, asker: Asker, id: UUID) -> list[Attempt]:
        await self._looked(asker, (await self._row(asker, id))["user_id"], id)
        return [Attempt(**row) for row in await self._db.many(q.logs, id=id)]

    async def file(self, asker: Asker, id: UUID) -> tuple[Path, File]:
        """Where the finished file is and what to call it.

        Raises `errors.Conflict` while there is none yet or after a failure, `errors.Gone` when it is no longer kept.
        """
        row = await self._row(asker, id)
        await self._looked(asker, row["user_id"], id)
        if row["status"] == "expired":
            raise errors.Gone("The file is no longer kept; ask for the download again.")
        if row["status"] != "completed":
            raise errors.Conflict(f"There is no file: the download is {row['status']}.")
        return self._storage.path(row["file_name"]), file_of(row)

    async def cancel(self, asker: Asker, id: UUID) -> Download:
        """Ends a waiting download at once; a running one is ended by its worker. Raises `errors.Conflict` at an end."""
        async with self._db.transaction() as tx:
            row = await self._locked(tx, asker, id)
            state = await self._queue.cancel(tx, row["job_id"])
            if state is None:
                raise errors.Conflict(f"The download is {row['status']} already.")
            if state == "cancelled":
                await tx.exec(q.cancelled, jobs=[row["job_id"]])
            await self._changed(tx, asker, row, "cancel")
        await self._stop([row], {row["job_id"]: state})
        return await self.get(asker, id)

    async def _stop(self, rows: list[Row], states: dict[int, str]) -> None:
        """After the commit: tells the workers, or cleans up after jobs that have none."""
        for row in rows:
            if states.get(row["job_id"]) == "running":
                await self._events.tell("cancel", str(row["job_id"]))
        ended = [row for row in rows if states.get(row["job_id"]) == "cancelled"]
        if not ended:
            return
        await self._queue.forget([row["job_id"] for row in ended])
        await self._storage.clear_all([(row["id"], (row["job_id"], LAST_FENCE)) for row in ended])
        metrics.downloads_finished.labels("cancelled").inc(len(ended))
        for row in ended:
            await self._events.publish(row["user_id"], row["id"], "status", {"id": row["id"], "status": "cancelled"})

    async def retry(self, asker: Asker, id: UUID) -> Download:
        """Back to the queue with a new job. Raises `errors.Conflict` unless it ended without a file, or while the
        same file is being fetched by another download."""
        async with self._db.transaction() as tx:
            row = await self._locked(tx, asker, id)
            if row["status"] not in ENDED - {"completed"}:
                raise errors.Conflict(
                    f"Only a failed, cancelled or expired download can be tried again; this one is {row['status']}."
                )
            key = dedup_key(row["video_id"], row["quality"], row["format"], row["options"])
            job = await self._queue.submit(
                tx,
                "download",
                id,
                row["user_id"],
                priority=row["priority"],
                dedup_key=key,
                max_tries=self._max_attempts,
            )
            if job is None:
                raise errors.Conflict("Another download of the same file is under way.")
            if not await tx.exec(q.requeue, id=id, job_id=job["id"], old=row["job_id"]):
                raise errors.Conflict("The download was changed just now; look at it again.")
            await self._changed(tx, asker, row, "retry")
        await self._announce(job)
        await self._events.publish(row["user_id"], id, "status", {"id": id, "status": "queued"})
        return await self.get(asker, id)

    async def delete(self, asker: Asker, id: UUID) -> None:
        """The record first, then the file: what a crash leaves in between is swept up later."""
        async with self._db.transaction() as tx:
            row = await self._locked(tx, asker, id)
            state = await self._queue.cancel(tx, row["job_id"])
            await tx.exec(q.delete, id=id)
            await self._changed(tx, asker, row, "delete")
        if row["file_name"]:
            await self._storage.remove(row["file_name"])
        await self._stop([row], {row["job_id"]: state} if state else {})
        await self._events.publish(row["user_id"], id, "status", {"id": id, "status": "deleted"})

    async def cancel_all(self, user_id: UUID) -> None:
        """Cancels whatever of a user's has not come to an end; running ones are ended by their workers."""
        while rows := await self._db.many(q.uncancelled_of, user_id=user_id, limit=AT_ONCE):
            async with self._db.transaction() as tx:
                states = await self._queue.cancel_many(tx, [row["job_id"] for row in rows])
                await tx.exec(q.cancelled, jobs=[job for job, state in states.items() if state == "cancelled"])
            await self._stop(rows, states)

    async def delete_some(self, tx: Transaction, user_id: UUID) -> list[str | None]:
        """Removes records of a user, `AT_ONCE` at most; returns the name of each one's file, if it has one, for
        `remove_files` after the commit."""
        return [row["file_name"] for row in await tx.many(q.delete_of, user_id=user_id, limit=AT_ONCE)]

    async def remove_files(self, names: list[str | None]) -> int:
        """How many there were."""
        files = [name for name in names if name]
        await self._storage.remove(*files)
        return len(files)

    async def _locked(self, tx: Transaction, asker: Asker, id: UUID) -> Row:
        """The download as it is now; nobody else changes it until the transaction ends."""
        whose = {"id": id, "user_id": asker.user_id, "admin": asker.admin}
        await tx.one(q.lock, **whose)
        return await tx.one(q.by_id, **whose)
