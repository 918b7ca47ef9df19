"""The fork server: imports yt-dlp once, forks one child a job, reaps it, kills its group on request.

Single-threaded. It is the sub-reaper of everything its jobs start, so "the job has ended" means that no
process of it is left. When the service goes away (end of file on the control socket), it kills all jobs and
exits.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ytdl.child import confine
from ytdl.child.frames import (
    Ended,
    Kill,
    Order,
    Ready,
    Report,
    Setup,
    Start,
    Started,
    Try,
    decode_request,
    encode,
)

MAX_REQUEST_BYTES = 64 * 1024
BROKEN = 70
"""Exit code of a child that came to no end of its own, and of one that could not be forked."""
Perform = Callable[[Order, int, int], None]


@dataclass
class _Job:
    number: int
    pid: int
    status: int | None = None
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0


class Zygote:
    """Forks, reaps and kills; knows nothing of what a job does."""

    def __init__(self, channel: socket.socket, perform: Perform) -> None:
        self._channel = channel
        self._perform = perform
        self._by_number: dict[int, _Job] = {}
        self._by_pid: dict[int, _Job] = {}

    def serve(self) -> None:
        """Serve requests until the service closes its end, then kill and reap what still runs."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(wake_read, selectors.EVENT_READ)
            selector.register(self._channel, selectors.EVENT_READ)
            while self._step(selector, wake_read):
                pass
        self._end_all()

    def _step(self, selector: selectors.BaseSelector, wake: socket.socket) -> bool:
        for key, _ in selector.select():
            if key.fileobj is wake:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)
                self._reap()
            elif not self._take_request():
                return False
        return True

    def _take_request(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, MAX_REQUEST_BYTES, 3)
        except ConnectionError:
            return False
        if not data:
            return False
        request = decode_request(data)
        if isinstance(request, (Start, Try)):
            self._fork(request, fds)
        elif isinstance(request, Kill) and (job := self._by_number.get(request.number)):
            _kill_group(job.pid)
        return True

    def _fork(self, request: Start | Try, fds: list[int]) -> None:
        mother = os.getpid()
        pid = _fork_if_there_is_room()
        if pid == 0:
            self._become_job(request, fds, mother)
        for fd in fds:
            os.close(fd)
        if pid is None:
            self._report(Ended(request.number, BROKEN << 8, 0, 0.0))
            return
        self._by_number[request.number] = self._by_pid[pid] = _Job(request.number, pid)
        self._report(Started(request.number, pid))

    def _become_job(self, request: Start | Try, fds: list[int], mother: int) -> None:
        """Runs in the child and never returns into the fork server's loop."""
        code = BROKEN
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            if isinstance(request, Start):
                frames, stderr, go = fds
                confine.take_own_group(mother, stderr)
                self._perform(request.order, frames, go)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            self._bury(exited.si_pid)

    def _bury(self, pid: int) -> None:
        group = os.getpgid(pid)
        if pid in self._by_pid:
            # While it is unreaped its number is nobody else's: the moment to kill what it left.
            _kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        job = self._by_pid.get(pid) or self._by_pid.get(group)
        if job is None:
            return
        if pid == job.pid:
            job.status = status
        job.peak_memory_bytes = max(job.peak_memory_bytes, usage.ru_maxrss * 1024)
        job.cpu_seconds += usage.ru_utime + usage.ru_stime
        self._conclude(job)

    def _conclude(self, job: _Job) -> None:
        if job.status is None or _group_lives(job.pid):
            return
        del self._by_number[job.number], self._by_pid[job.pid]
        self._report(Ended(job.number, job.status, job.peak_memory_bytes, job.cpu_seconds))

    def _report(self, report: Report) -> None:
        with contextlib.suppress(ConnectionError):  # the service is gone; the next read says so
            self._channel.send(encode(report))

    def _end_all(self) -> None:
        for job in self._by_pid.values():
            _kill_group(job.pid)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()


def _fork_if_there_is_room() -> int | None:
    """As `os.fork`. Without room for another process that job has ended, and not the others with the fork server."""
    try:
        return os.fork()
    except OSError as error:
        print(f"no job can be forked: {error}", file=sys.stderr, flush=True)
        return None


def _kill_group(pid: int) -> None:
    """Kill the group and, for the moment before the child has made its group, the child itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _group_lives(group: int) -> bool:
    try:
        os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def main(channel_fd: int, service_pid: int) -> None:
    """Warm up, say so, and serve. Exits with the service, by signal or by end of file."""
    confine.die_with_parent(service_pid)
    confine.adopt_orphans()
    confine.take_name("ytdl forkserver")
    os.umask(0o077)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=channel_fd) as channel:
        channel.set_inheritable(False)
        setup = decode_request(channel.recv(MAX_REQUEST_BYTES))
        if not isinstance(setup, Setup):
            raise TypeError(f"the first message must be a setup, not {setup!r}")
        from ytdl.child import job, warm

        client, tools = warm.up(setup)
        channel.send(encode(Ready(tools)))
        Zygote(channel, lambda order, frames, go: job.perform(order, setup, client, frames, go)).serve()
