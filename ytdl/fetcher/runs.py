"""Running jobs: one `run` is one child process from its order to its end.

It keeps the fork server alive, watches every job's progress, and does not return before no process of the job is left.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ytdl import log, metrics
from ytdl.child.frames import Account, Done, Ended, Fault, Frame, Locked, Metadata, Order, Progress, Setup, pack
from ytdl.fetcher.forkserver import ROOT, ForkServer, ForkServerGone
from ytdl.fetcher.outcome import FetchFailed, Settings, Stopped, Usage, explain_death, judge, sum_up
from ytdl.fetcher.pipes import FrameReader, Tail, Voice
from ytdl.fetcher.tools import ask_ffmpeg_version, find_deno, try_deno, write_slots, write_wrapper
from ytdl.fetcher.watch import Watch

logger = logging.getLogger(__name__)
EXIT_GRACE_SECONDS = 5.0
"""How long a child that has said its last word may take to end by itself."""
KILL_SECONDS = 5.0
"""How long the fork server may take to kill a job and say so, before it is taken to hang and killed itself."""
ORPHAN_SECONDS = 5.0
"""How long the kernel may take to end the jobs of a fork server that was killed."""
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
HEALTHY_SECONDS = 30.0
MOST_ASKED = 2
"""How often a child may ask for cookies: before it asks the site, and when that has refused."""
LAST_WORDS = 2000
"""How many characters of what an unexpectedly failed child wrote to stderr are logged."""
UNEXPECTED = {"child_killed", "child_crashed", "internal", "out_of_memory"}
UNEXPECTED |= {"extractor_broken", "processing_failed", "verification_failed"}
"""Codes of failures whose cause is looked for in the log. Of the others, users could fill it at will."""

T = TypeVar("T")
OnFrame = Callable[[Metadata | Progress], None]
Admit = Callable[[Metadata], Awaitable[None]]
Lend = Callable[[Locked], Awaitable[Account]]


async def at_once(_: Metadata) -> None:
    """Lets every job go on to its transfer."""


async def nobodys(_: Locked) -> Account:
    """For jobs whose users have no cookies."""
    return Account()


class Fetcher:
    """The fork server and the jobs that run in it. `start` and `stop` may be called again and again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = itertools.count(1)
        self._extracting = asyncio.Semaphore(settings.extract_at_once)
        self._server: ForkServer | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._ffmpeg_version: str | None = None
        self.running = 0
        self.restarts = 0

    @property
    def zygote_pid(self) -> int | None:
        """Process id of the fork server while it takes jobs."""
        return self._server.pid if self._server and self._up.is_set() else None

    async def start(self) -> None:
        """Start the fork server; returns when it is warm, or after `start_seconds` while it is tried on."""
        if self._keeper is not None:
            return
        setup = await asyncio.to_thread(self._prepare)
        self._keeper = asyncio.create_task(self._keep_server(setup), name="fork server keeper")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), self._settings.start_seconds)

    async def stop(self) -> None:
        """End the fork server and with it every job; running calls of `run` fail as killed."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper

    async def run(
        self, order: Order, on_frame: OnFrame, admit: Admit = at_once, lend: Lend = nobodys
    ) -> tuple[Done, Usage]:
        """Run one job to its verified file; FetchFailed says why there is none.

        Not one byte of media is asked for before `admit` has returned. What it raises ends the job and is passed on,
        a FetchFailed with what the job had used. Its time counts for none of the deadlines, and the same holds for
        `lend`, which gets the cookies of the job's user where the site wants one who is signed in.
        Cancelling kills the job's process group and is passed on, as Stopped, only when none of it is left.
        `asyncio.timeout` around this does not take Stopped for its own cancellation (in Python 3.11).
        """
        self.running += 1
        try:
            return await self._run(order, on_frame, admit, lend)
        finally:
            self.running -= 1

    @property
    def tools(self) -> dict[str, Any]:
        """Versions of yt-dlp, deno, ejs and av, once the fork server told them."""
        return self._server.tools if self._server else {}

    async def probe_tools(self) -> dict[str, Any]:
        """Those, and that of ffmpeg, which is asked the first time; `ready` is whether jobs are taken."""
        self._ffmpeg_version = self._ffmpeg_version or await ask_ffmpeg_version(self._settings.ffmpeg)
        return {**self.tools, "ffmpeg": self._ffmpeg_version, "ready": self._up.is_set()}

    async def try_deno(self) -> bool:
        """Whether it runs a script; takes some tenths of a second and 100 MiB."""
        deno = self._settings.deno or await asyncio.to_thread(find_deno)
        return await try_deno(deno, self._settings.runtime_dir.absolute())

    async def try_ffmpeg(self) -> str | None:
        """Its version when it runs, asked anew."""
        return await ask_ffmpeg_version(self._settings.ffmpeg)

    async def try_forking(self) -> bool:
        """Whether the fork server forks a job that does nothing; takes some milliseconds."""
        return self._server is not None and await self._server.try_forking(next(self._numbers))

    async def _run(self, order: Order, on_frame: OnFrame, admit: Admit, lend: Lend) -> tuple[Done, Usage]:
        outcome: Done | Fault | None = None
        trouble: BaseException | None = None
        async with contextlib.AsyncExitStack() as extracting:
            await self._take_turn(extracting)
            job = await self._begin(order)
            watch = Watch(self._settings)

            async def admit_and_free(video: Metadata) -> None:
                await extracting.aclose()
                await admit(video)

            try:
                outcome = await job.follow(on_frame, admit_and_free, lend, watch)
            except BaseException as error:
                trouble = error
            finally:
                watch.close()
        work = _wind_up(job, order, graceful=outcome is not None)
        (ended, usage), cancelled = await _finish_whatever_comes(work)
        fetched = max(watch.fetched_bytes, outcome.fetched_bytes if outcome else 0)
        if cancelled or isinstance(trouble, asyncio.CancelledError):
            raise Stopped(usage, fetched) from (cancelled or trouble)
        if isinstance(trouble, FetchFailed):
            raise FetchFailed(trouble.failure, usage, fetched) from trouble
        if trouble is not None:
            raise trouble
        if isinstance(outcome, Done):
            return outcome, usage
        fault = outcome or explain_death(ended.status if ended else None)
        _log_failure(order, fault, job)
        raise FetchFailed(judge(fault), usage, fetched)

    async def _take_turn(self, stack: contextlib.AsyncExitStack) -> None:
        """Only a few extract at once: that is what takes processor time and memory, the transfer takes little."""
        try:
            await stack.enter_async_context(self._extracting)
        except asyncio.CancelledError as error:
            raise Stopped(Usage(), 0) from error

    async def _begin(self, order: Order) -> "_Job":
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                while True:
                    await self._up.wait()
                    if self._server is None:
                        continue
                    with contextlib.suppress(ForkServerGone):
                        return await _Job.begin(self._server, next(self._numbers), order)
                    await asyncio.sleep(FIRST_BACKOFF_SECONDS)
        except TimeoutError:
            fault = Fault("child_crashed", "The server cannot start downloads just now.")
            raise FetchFailed(judge(fault), Usage()) from None
        except asyncio.CancelledError as error:
            raise Stopped(Usage(), 0) from error

    async def _keep_server(self, setup: Setup) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            began = time.monotonic()
            await self._serve_once(setup)
            backoff = FIRST_BACKOFF_SECONDS if time.monotonic() - began > HEALTHY_SECONDS else backoff
            self.restarts += 1
            metrics.fetcher_restarts.inc()
            logger.warning("the fork server ended, starting another", extra={"backoff_seconds": backoff})
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _serve_once(self, setup: Setup) -> None:
        self._server = server = ForkServer()
        try:
            await server.start(setup, self._environment(), self._settings.start_seconds)
            self._up.set()
            metrics.fetcher_ready.set(1)
            await server.gone.wait()
        except (ForkServerGone, TimeoutError, OSError) as error:
            logger.error("the fork server did not come up: %r", error)
        finally:
            self._up.clear()
            metrics.fetcher_ready.set(0)
            _, cancelled = await _finish_whatever_comes(server.stop())
            if cancelled:
                raise cancelled

    def _prepare(self) -> Setup:
        """Make the runtime folder and its wrappers; blocks for a few small writes."""
        s = self._settings
        programs = {"ffmpeg": s.ffmpeg, "deno": s.deno or find_deno()}
        folder = s.runtime_dir.absolute() / "bin"
        wrapped = {name: write_wrapper(folder, name, path) for name, path in programs.items() if path}
        return Setup(
            allowed_extractors=list(s.allowed_extractors),
            ffmpeg=wrapped.get("ffmpeg"),
            deno=wrapped.get("deno"),
            slots=write_slots(folder, "processing", s.process_at_once),
            proxy=s.proxy,
            trust_system_certificates=bool(s.ca_file),
            extractor_args=s.extractor_args,
            cookies_file=s.cookies_file,
            allowed_networks=list(s.allowed_networks),
            socket_timeout_seconds=s.socket_timeout_seconds,
            max_file_bytes=s.file_bytes,
            max_memory_bytes=s.memory_bytes,
            max_cpu_seconds=s.cpu_seconds,
            niceness=s.niceness,
        )

    def _environment(self) -> dict[str, str]:
        """All that the fork server and its jobs get to see: no secret of the service is in it."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._settings.runtime_dir.absolute()),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            # Scripts of sites may keep things there, without a permission and for the next job's to find.
            "DENO_DIR": f"{os.devnull}/none",
        }
        if self._settings.ca_file:
            trusted = str(Path(self._settings.ca_file).absolute())
            environment |= {"SSL_CERT_FILE": trusted, "REQUESTS_CA_BUNDLE": trusted}
        return environment


class _Job:
    """One child process as the service sees it: three pipes and the promise of its end."""

    def __init__(self, server: ForkServer, number: int, frames: FrameReader, stderr: Tail, voice: Voice) -> None:
        self._server = server
        self._number = number
        self._frames = frames
        self._stderr = stderr
        self._voice = voice
        self._ended: asyncio.Future[Ended | None] | None = None

    @classmethod
    async def begin(cls, server: ForkServer, number: int, order: Order) -> "_Job":
        """Open the pipes and have the child forked; nothing stays open when that fails."""
        with contextlib.ExitStack() as writing, contextlib.ExitStack() as reading:
            frames_read, frames_write = os.pipe()
            writing.callback(os.close, frames_write)
            frames = await FrameReader.open(frames_read)
            reading.callback(frames.close)
            stderr_read, stderr_write = os.pipe()
            writing.callback(os.close, stderr_write)
            stderr = await Tail.open(stderr_read)
            reading.callback(stderr.close)
            go_read, go_write = os.pipe()
            writing.callback(os.close, go_read)
            voice = await Voice.open(go_write)
            reading.callback(voice.close)
            job = cls(server, number, frames, stderr, voice)
            try:
                job._ended = await server.begin(number, order, frames_write, stderr_write, go_read)
            except BaseException:
                await _finish_whatever_comes(server.kill(number))
                raise
            reading.pop_all()
        return job

    async def follow(self, on_frame: OnFrame, admit: Admit, lend: Lend, watch: Watch) -> Done | Fault | None:
        """Pass frames on until the last one; None when the child ended without one."""
        asked = 0
        while True:
            deadline, fault = watch.next_deadline()
            try:
                async with asyncio.timeout_at(deadline):
                    frame = await self._read()
            except TimeoutError:
                await self._server.kill(self._number)
                return watch.expire(fault)
            if isinstance(frame, Done):
                watch.leave()
            if frame is None or isinstance(frame, (Done, Fault)):
                return frame
            watch.see(frame)
            if isinstance(frame, Locked):
                asked += 1
                if asked > MOST_ASKED:
                    return Fault("child_crashed", "The download's process broke down.")
                # Past the fork server, in whose memory all later jobs begin.
                self._voice.tell(pack(await lend(frame)))
                watch.ask_again()
                continue
            on_frame(frame)
            if isinstance(frame, Metadata):
                await admit(frame)
                watch.go_on()
                self._voice.tell(b"+")

    async def _read(self) -> Frame | None:
        try:
            return await self._frames.read()
        except (ValueError, msgspec.DecodeError):
            return Fault("child_crashed", "The download's process broke down.")

    async def end(self, graceful: bool) -> Ended | None:
        """Wait until no process of the job is left, killing what does not end by itself."""
        try:
            if self._ended is None:
                return None
            if graceful:
                await asyncio.wait([self._ended], timeout=EXIT_GRACE_SECONDS)
            await self._server.kill(self._number)
            if not (await asyncio.wait([self._ended], timeout=KILL_SECONDS))[0]:
                self._server.give_up()
            ended = await self._ended
            if ended is None:
                await self._outlive_orphans()
            return ended
        finally:
            self._close()

    async def _outlive_orphans(self) -> None:
        """The fork server is dead: the kernel kills its jobs, and their pipes close when they are gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORPHAN_SECONDS):
                await self._frames.closed()
                await self._stderr.closed()

    def last_words(self) -> str:
        """The end of what the child wrote to stderr: for the log, never for users."""
        return self._stderr.text()

    def _close(self) -> None:
        self._voice.close()
        self._frames.close()
        self._stderr.close()


def _log_failure(order: Order, fault: Fault, job: _Job) -> None:
    extra = {"job": order.job, "reason": fault.code}
    if fault.code in UNEXPECTED:
        extra["stderr"] = log.redact(job.last_words())[-LAST_WORDS:]
    logger.info("job failed", extra=extra)


async def _wind_up(job: _Job, order: Order, graceful: bool) -> tuple[Ended | None, Usage]:
    """End a job and measure what it used, however it went."""
    ended = await job.end(graceful)
    usage = await asyncio.to_thread(sum_up, ended, order.work_dir)
    metrics.fetcher_cpu_seconds.inc(usage.cpu_seconds)
    metrics.fetcher_peak_memory_bytes.observe(usage.peak_memory_bytes)
    return ended, usage


async def _finish_whatever_comes(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """Await what must not be left half done; its result, and the cancellation that arrived meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    return task.result(), cancelled
