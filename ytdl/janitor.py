"""Recurring work that keeps the house clean: leftovers of attempts, files nobody names, keys that ran out."""

import asyncio
import logging

from ytdl import alerts, apikeys, auth, blocks, disk, loops, metrics, sql
from ytdl.db import DB
from ytdl.storage import Storage

log = logging.getLogger("ytdl.janitor")
q = sql.load("downloads")
SWEEP_SECONDS = 60.0
# Not while everything else starts.
FIRST_SECONDS = 5.0
# A file is in the store a moment before its row says so; after an hour there is no such moment any more.
ORPHAN_SECONDS = 3600.0


class Janitor:
    def __init__(self, db: DB, storage: Storage) -> None:
        self._db = db
        self._storage = storage
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks.append(asyncio.create_task(loops.repeat("sweep", SWEEP_SECONDS, self.sweep, first=FIRST_SECONDS)))

    async def stop(self) -> None:
        await loops.stop(self._tasks)

    async def sweep(self) -> dict[str, int]:
        """One round; how much of each kind was removed."""
        removed = {"work": await self._sweep_work(), "media": await self._sweep_media()}
        for what, count in removed.items():
            metrics.worker_swept.labels(what).inc(count)
        await self._db.exec(q.forget_keys)
        removed |= await auth.sweep(self._db) | await apikeys.sweep(self._db)
        removed["reservations"] = await disk.sweep(self._db)
        removed["blocks"] = await blocks.sweep(self._db)
        removed["alerts"] = await alerts.sweep(self._db)
        if any(removed.values()):
            log.info("janitor.swept", extra=removed)
        return removed

    async def _sweep_work(self) -> int:
        """Folders of downloads that ended or are gone. One that is still being worked on is left alone."""
        newest = await self._storage.at_work()
        ids = list(newest)
        if not ids:
            return 0
        needed = {row["id"] for row in await self._db.many(q.working, ids=ids)}
        needed |= {row["subject"] for row in await self._db.many(q.running_subjects, ids=ids)}
        idle = [id for id in ids if id not in needed]
        for id in idle:
            await self._storage.clear_work(id, newest[id])
        return len(idle)

    async def _sweep_media(self) -> int:
        names = await self._storage.media_names(older_than_seconds=ORPHAN_SECONDS)
        known = {row["file_name"] for row in await self._db.many(q.known_files, names=names)} if names else set()
        orphans = [name for name in names if name not in known]
        for name in orphans:
            await self._storage.remove(name)
        return len(orphans)
