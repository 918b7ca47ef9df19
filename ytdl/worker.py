"""Runs downloads: leases jobs, has the fetcher do them, reports, and ends each attempt exactly once.

Of an attempt only the fetch is ever interrupted. Everything that writes the outcome runs through, because the
outcome's statement itself knows about a cancellation or a lost lease; so an attempt has one place where it can be
stopped and one where it ends. A round that leases runs through as well.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from ytdl import errors, log, loops, metrics, storage, tracing
from ytdl.attempts import Attempts, Started
from ytdl.config import Config
from ytdl.cookies import NOTHING, Cookies, Outcome
from ytdl.disk import Disk, is_full
from ytdl.egress import LOOK_SECONDS, MOST_REFUSALS, Egress, Permit, spare_account
from ytdl.events import Events
from ytdl.fetcher import Account, Done, Failed, Fetcher, FetchFailed, Locked, Metadata, Order, Stopped, Usage
from ytdl.queue import Queue
from ytdl.run import Run
from ytdl.storage import Storage

logger = logging.getLogger("ytdl.worker")

POLL_SECONDS = 1.0
REPORT_SECONDS = 0.25
RECORD_SECONDS = 1.0
RECONCILE_SECONDS = 15.0
# With the usual `DRAIN_SECONDS` a stop is over within half a minute.
HAND_BACK_SECONDS = 4.0

End = Callable[[Usage | None, int | None], Awaitable[str | None]]


class Worker:
    def __init__(
        self,
        config: Config,
        queue: Queue,
        attempts: Attempts,
        egress: Egress,
        fetcher: Fetcher,
        storage: Storage,
        disk: Disk,
        cookies: Cookies,
        events: Events,
    ) -> None:
        self._config = config
        self._queue = queue
        self._attempts = attempts
        self._egress = egress
        self._fetcher = fetcher
        self._storage = storage
        self._disk = disk
        self._cookies = cookies
        self._events = events
        self._runs: dict[int, Run] = {}
        # Jobs that a word said to cancel: one that comes while the job is just being leased must not be lost.
        self._cancelled: deque[int] = deque(maxlen=1000)
        self._claiming = asyncio.Lock()
        self._reap_from = 0.0
        self._wake = asyncio.Event()
        self._leasing: list[asyncio.Task[None]] = []
        self._serving: list[asyncio.Task[None]] = []
        self._give_up_at = float("inf")
        self.draining = False

    async def start(self) -> None:
        """Starts the loops. With no slots only the work that any process may do for all is done."""
        self._events.hear("wake", lambda _: self._wake.set())
        self._events.hear("cancel", self._cancel)
        metrics.worker_slots.set(self._config.download_concurrency)
        lease = self._config.download_lease_seconds
        self._leasing = [
            asyncio.create_task(loops.repeat("reap", lease / 6, self._reap)),
            asyncio.create_task(loops.repeat("reconcile", RECONCILE_SECONDS, self._queue.index.reconcile)),
        ]
        if self._config.download_concurrency:
            self._leasing.append(asyncio.create_task(loops.repeat("claim", 0, self._claim)))
            self._leasing.append(asyncio.create_task(loops.repeat("disk", self._disk.look_seconds, self._disk.tend)))
            self._serving = [
                asyncio.create_task(loops.repeat("beat", lease / 3, self._beat, first=lease / 3)),
                asyncio.create_task(loops.repeat("report", REPORT_SECONDS, self._report)),
                asyncio.create_task(loops.repeat("record", RECORD_SECONDS, self._record)),
                asyncio.create_task(loops.repeat("lanes", LOOK_SECONDS, self._egress.look)),
            ]

    async def drain(self) -> None:
        """Takes nothing new, lets running jobs go on for `DRAIN_SECONDS`, then hands back what is left.

        The leases are renewed all the while, so that no other process takes a job that is still being worked on.
        """
        self.draining = True
        self._give_up_at = time.monotonic() + self._config.drain_seconds + 3
        async with self._claiming:
            # A lease that is being taken now gets its run, and with it an orderly end.
            await loops.stop(self._leasing)
        await self._wait(self._config.drain_seconds)
        for run in list(self._runs.values()):
            run.stop("drain")
        await self._wait(HAND_BACK_SECONDS)
        await loops.stop(self._serving)

    async def _wait(self, seconds: float) -> None:
        tasks = [run.task for run in self._runs.values() if run.task]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    @property
    def running(self) -> int:
        return len(self._runs)

    # leasing

    async def _claim(self) -> None:
        """One round: fills the free slots, or waits for a word that there is something to do."""
        free = self._config.download_concurrency - len(self._runs)
        taken = 0
        if free > 0 and await self._able():
            taken = await self._lease(free)
        if taken == 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
            self._wake.clear()

    async def _able(self) -> bool:
        """Without a fork server or room on the disk a job would only use up its tries; it waits in the queue."""
        return self._fetcher.zygote_pid is not None and await self._disk.may_lease()

    async def _lease(self, free: int) -> int:
        """As many as there are jobs for and the lanes let start."""
        async with self._claiming:
            ready = 0 if self.draining else await self._queue.index.ready(free)
            permits = await self._egress.lend(ready) if ready else []
            return await self._lease_with(permits) if permits else 0

    async def _lease_with(self, permits: list[Permit]) -> int:
        started: list[Started] = []
        try:
            suggested = await self._queue.index.claim(len(permits))
            started = await self._take(suggested, permits) if suggested else []
        finally:
            await self._egress.give_back(permits[len(started) :])
        await self._attempts.drop_stale(suggested, started)
        return len(suggested)

    async def _take(self, suggested: list[int], permits: list[Permit]) -> list[Started]:
        try:
            started = await self._attempts.lease(suggested)
        except errors.Unavailable:
            await self._queue.give_back(suggested)
            raise
        for s, permit in zip(started, permits, strict=False):
            self._launch(Run(s, permit))
        metrics.worker_running.set(len(self._runs))
        return started

    def _launch(self, run: Run) -> None:
        claim = run.started.claim
        if earlier := self._runs.get(claim.job):
            # Its lease was lost, and this process was the one to take the job again.
            earlier.stop("lost")
        self._runs[claim.job] = run
        metrics.egress_starts.labels(run.permit.lane.name).inc()
        run.task = asyncio.create_task(self._attempt(run), name=f"job-{claim.job}.{claim.fence}")
        if claim.job in self._cancelled:
            run.stop("cancel")

    # one attempt

    async def _attempt(self, run: Run) -> None:
        s = run.started
        log.download_id.set(str(s.download))
        log.user_id.set(str(s.claim.user_id))
        facts: tracing.Facts = {
            "ytdl.fence": s.claim.fence, "ytdl.tries": s.claim.tries, "ytdl.download": str(s.download),
        }  # fmt: skip
        try:
            with tracing.attempt(s.claim.traceparent, s.claim.waited_seconds, facts):
                await self._run(run)
        except errors.Unavailable:
            # Draining, and PostgreSQL is away: the lease runs out and another attempt goes on from the partial file.
            logger.warning("worker.outcome_not_written", extra={"job": s.claim.job})
        except Exception as e:
            if await self._broken(run, e):
                logger.exception("worker.attempt_failed", extra={"job": s.claim.job})
        finally:
            self._egress.forget(run.permit)
            if self._runs.get(s.claim.job) is run:
                del self._runs[s.claim.job]
            metrics.worker_running.set(len(self._runs))
            self._wake.set()

    async def _broken(self, run: Run, error: Exception) -> bool:
        """A bug of ours: said in the download, or left to the lease's end if not even that can be written.

        False when the lease was lost: then it was a newer attempt that cleared the folder away.
        """
        code = "disk_full" if is_full(error) else "internal"
        try:
            return await self._failed(run, Failed(code, "Something went wrong on the server.", True)) is not None
        except Exception:
            logger.exception("worker.outcome_not_written", extra={"job": run.started.claim.job})
            return True

    async def _run(self, run: Run) -> None:
        try:
            done, usage = await self._fetch(run)
        except FetchFailed as e:
            await self._failed(run, e.failure, e.usage, e.fetched_bytes)
        except asyncio.CancelledError as e:
            await self._stopped(run, e)
        else:
            await self._finished(run, done, usage)

    async def _fetch(self, run: Run) -> tuple[Done, Usage]:
        s = run.started
        claim = s.claim
        if run.why:
            raise asyncio.CancelledError
        run.fetching = True
        try:
            earlier = await self._storage.earlier_dirs(s.download, claim.job, claim.fence)
            order = Order(
                job=f"{claim.job}.{claim.fence}", url=s.url, quality=s.quality, format=s.format,
                work_dir=str(self._storage.attempt_dir(s.download, claim.job, claim.fence)),
                earlier_dirs=[str(folder) for folder in earlier], embed_metadata=s.embed_metadata,
                proxy=run.permit.lane.proxy, account=s.needs_account, max_file_bytes=s.max_file_bytes,
            )  # fmt: skip
            await loops.settle(lambda: self._disk.admit_again(claim), self._give_up)
            return await self._fetcher.run(order, run.frame, partial(self._admit, run), partial(self._lend, run))
        finally:
            run.fetching = False

    async def _admit(self, run: Run, video: Metadata) -> None:
        """Nothing is fetched before there is room for it, and nothing by an attempt that does not count any more."""
        await self._give_back(run, "accepted" if video.signed_in else "unclear")
        ask = partial(self._disk.admit, run.started.claim, video.needed_bytes)
        run.admitted = await loops.settle(ask, self._give_up)
        if not run.admitted:
            run.stop("lost")
            raise asyncio.CancelledError

    async def _lend(self, run: Run, locked: Locked) -> Account:
        """What the download's own user has for the site; where that has said what it wants, it has let us in."""
        said = locked.code is not None
        run.heard = run.heard or said
        ask = partial(self._cookies.lend, run.started.claim, needed=said)
        run.loan = await loops.settle(ask, self._give_up)
        return run.loan.account

    async def _give_back(self, run: Run, outcome: Outcome) -> None:
        await loops.settle(lambda: self._cookies.give_back(run.loan, outcome), self._give_up)
        run.loan = NOTHING

    async def _finished(self, run: Run, done: Done, usage: Usage) -> None:
        s = run.started
        name = storage.file_name(s.claim.job, s.claim.fence, done.ext)
        await loops.settle(lambda: self._describe(run), self._give_up)
        await loops.settle(lambda: self._egress.answered(run.permit), self._give_up)
        await self._storage.publish(Path(done.path), name)
        state = await loops.settle(lambda: self._attempts.complete(s, name, done, usage), self._give_up)
        if state != "completed":
            await self._storage.remove(name)
        await self._tidy(s, state)
        logger.info("downloads.finished", extra={"job": s.claim.job, "state": state, "bytes": done.size_bytes})

    async def _failed(
        self, run: Run, failure: Failed, usage: Usage | None = None, fetched_bytes: int | None = None
    ) -> str | None:
        at, failure = time.monotonic(), await self._disk.blame(failure)
        claim = run.started.claim
        as_user = bool(run.loan.account.cookies)
        suspect = claim.job if claim.refusals else None
        tell = partial(
            self._egress.failed, run.permit, failure, heard=run.heard, at=at, suspect=suspect, as_user=as_user
        )
        wait = await loops.settle(tell, self._give_up)
        await self._give_back(run, "refused" if failure.code == "cookies_refused" else "unclear")
        await loops.settle(lambda: self._describe(run), self._give_up)
        end = await self._ending(run, spare_account(failure) if as_user else failure, wait)
        state = await loops.settle(lambda: end(usage, fetched_bytes), self._give_up)
        await self._tidy(run.started, state, make_room=failure.code == "disk_full" and run.admitted)
        told = {"job": claim.job, "code": failure.code, "state": state}
        logger.warning("downloads.attempt_failed", extra=told)
        return state

    async def _ending(self, run: Run, failure: Failed, wait: float | None) -> End:
        """How the attempt ends, which may be done again until it is written: what is counted was counted before.

        A refusal that is meant for the lane costs the download nothing, unless it seems to be meant for that.
        """
        s = run.started
        if failure.code == "disk_full":
            put_off = partial(self._disk.put_off, s.claim, admitted=run.admitted)
            pause = await loops.settle(put_off, self._give_up)
            return partial(self._attempts.defer, s, failure, "disk", pause)
        if wait is None:
            return partial(self._attempts.fail, s, failure)
        if s.claim.refusals < MOST_REFUSALS:
            return partial(self._attempts.defer, s, failure, "egress", wait)
        return partial(self._attempts.fail, s, msgspec.structs.replace(failure, retry_after_seconds=wait))

    async def _stopped(self, run: Run, stopped: asyncio.CancelledError) -> None:
        """The child and all its processes are gone; what remains is to say so."""
        s = run.started
        await loops.settle(lambda: self._egress.stopped(run.permit, heard=run.heard), self._give_up)
        if run.why == "lost":
            logger.warning("downloads.lease_lost", extra={"job": s.claim.job})
            return
        used = (stopped.usage, stopped.fetched_bytes) if isinstance(stopped, Stopped) else (None, None)
        state = await loops.settle(lambda: self._attempts.hand_back(s, *used), self._give_up)
        await self._tidy(s, state)
        logger.info("downloads.stopped", extra={"job": s.claim.job, "why": run.why, "state": state})

    async def _tidy(self, s: Started, state: str | None, *, make_room: bool = False) -> None:
        """Removes partial files once nobody wants to go on from them; a lost lease's are another attempt's business.

        On a full disk they give way as well: kept for later they would be what keeps everybody from finishing.
        """
        if state in ("completed", "cancelled") or (state and make_room):
            await self._storage.clear_work(s.download, (s.claim.job, s.claim.fence))

    async def _describe(self, run: Run) -> None:
        """Forgets what is to be written only when it is."""
        video = run.video
        if video:
            await self._attempts.describe(run.started, video)
            if run.video is video:
                run.video = None

    def _give_up(self) -> bool:
        return time.monotonic() > self._give_up_at

    # beating, cancelling, reporting

    def _cancel(self, job: str) -> None:
        if not job.isdecimal():
            return
        self._cancelled.append(int(job))
        if run := self._runs.get(int(job)):
            run.stop("cancel")

    async def _reap(self) -> None:
        """Takes jobs from dead workers, but not from those that PostgreSQL's absence kept from renewing: this
        process renews first, and after a failed round the others are given the time to."""
        try:
            await self._beat()
            if time.monotonic() >= self._reap_from:
                await self._attempts.reap()
        except errors.Unavailable:
            self._reap_from = time.monotonic() + self._config.download_lease_seconds / 2
            raise

    async def _beat(self) -> None:
        held = {job: run for job, run in self._runs.items() if run.why is None}
        if not held:
            return
        lost, cancelled = await self._queue.beat([run.started.claim for run in held.values()])
        for job in lost:
            held[job].stop("lost")
        for job in cancelled:
            held[job].stop("cancel")

    async def _report(self) -> None:
        """Tells readers what changed since the last time."""
        for run in list(self._runs.values()):
            run.stop_again()
            if not run.told:
                run.told = True
                await self._attempts.begun(run.started)
            if run.fetching and run.latest and run.latest is not run.reported:
                run.reported = run.latest
                await self._attempts.publish(run.started, run.latest)

    async def _record(self) -> None:
        """Writes down what became known of the videos, and what changed since the last time in one statement."""
        for run in list(self._runs.values()):
            if run.heard:
                await self._egress.answered(run.permit)
            if run.fetching:
                await self._describe(run)
        fetching = [run for run in self._runs.values() if run.fetching]
        changed = [(run, run.latest) for run in fetching if run.latest and run.latest is not run.recorded]
        if changed:
            await self._attempts.progress([(run.started, latest) for run, latest in changed])
            for run, latest in changed:
                run.recorded = latest
