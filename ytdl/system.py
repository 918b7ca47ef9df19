"""What the machine has and uses, and what this instance uses of it: processor, memory, network.

Where a control group (v2 or v1) allows less than the machine has, it is what counts. Everything here blocks for some
milliseconds and is meant for a thread, one at a time.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

GOAL_BYTES = 512 * 2**20
"""What an instance is meant to stay below, with fifty downloads at once."""
LEAST_SECONDS = 0.1
ROOT = Path("/")
PROC = Path("/proc")
_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Used:
    """Of one part of the instance; processor seconds since its first process began, and never fewer than before."""

    processes: int = 0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Memory:
    total_bytes: int
    available_bytes: int


class Groups:
    """The control groups that this process is in, from its own up to the outermost that can be seen."""

    def __init__(self, root: Path = ROOT) -> None:
        self._base = root / "sys/fs/cgroup"
        self._own: dict[str, str] = {}
        for line in _read(root / "proc/self/cgroup").splitlines():
            _, names, path = line.split(":", 2)
            self._own |= dict.fromkeys(names.split(","), path)

    def _levels(self, controller: str) -> Iterator[Path]:
        """Folders of version 2, then of version 1: a machine may have a controller in either."""
        for base, name in ((self._base, ""), (self._base / "unified", ""), (self._base / controller, controller)):
            inner = Path(self._own.get(name, "/").lstrip("/"))
            yield from (base / level for level in (inner, *inner.parents))

    def memory(self) -> Memory | None:
        """Of the group that allows the least; what its files cache can be had back."""
        found = [memory for folder in self._levels("memory") if (memory := _group_memory(folder))]
        return min(found, key=lambda memory: memory.total_bytes, default=None)

    def processors(self) -> tuple[float, Path] | None:
        """How many processors' time the group may use that allows the least, and the group."""
        found = [(quota, folder) for folder in self._levels("cpu") if (quota := _group_quota(folder))]
        return min(found, key=lambda pair: pair[0], default=None)


def _group_memory(folder: Path) -> Memory | None:
    most = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
    if not most or used is None:
        return None
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
    return Memory(most, max(0, most - max(0, used - cached)))


def _group_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.strip().isdecimal() and int(period or 0) else None


def _group_seconds(folder: Path) -> float | None:
    """Processor time that the group has used. Version 1 keeps it under a name of its own, often for another mount."""
    if found := re.search(r"^usage_usec (\d+)$", _read(folder / "cpu.stat"), re.MULTILINE):
        return int(found[1]) / 1e6
    accounts = Path(*("cpuacct" if part == "cpu" else part for part in folder.parts))
    used = _number(folder / "cpuacct.usage") or _number(accounts / "cpuacct.usage")
    return None if used is None else used / 1e9


def _read(file: Path) -> str:
    """Empty for a file that is not there, or not for us."""
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    """`None` also for the word `max`, and for the huge number that version 1 has for it."""
    text = _read(file)
    return int(text) if text.isdecimal() and int(text) < 2**60 else None


class Machine:
    """The machine, as far as this process may use it."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._groups = Groups(root)
        self._usage = 0.0
        self._since, self._asked_at = self._busy(), time.monotonic()

    def memory(self) -> Memory:
        whole = psutil.virtual_memory()
        own = self._groups.memory()
        if own is None or own.total_bytes >= whole.total:
            return Memory(whole.total, whole.available)
        return Memory(own.total_bytes, min(own.available_bytes, whole.available))

    def memory_limit(self) -> int:
        """What this instance's memory should stay below."""
        own = self._groups.memory()
        return min(GOAL_BYTES, own.total_bytes) if own else GOAL_BYTES

    def cpu_usage(self) -> float:
        """Part of the processors' time in use since this was asked before, 0 to 1; the same again when that is but a
        moment ago, as the kernel counts in hundredths of a second."""
        if (now := time.monotonic()) - self._asked_at >= LEAST_SECONDS:
            before, self._since, self._asked_at = self._since, self._busy(), now
            had = self._since[1] - before[1]
            self._usage = min(1.0, max(0.0, (self._since[0] - before[0]) / had)) if had > 0 else 0.0
        return self._usage

    def _busy(self) -> tuple[float, float]:
        """Seconds in use, and seconds there were."""
        own = self._groups.processors()
        if own and own[0] < (os.cpu_count() or 1) and (used := _group_seconds(own[1])) is not None:
            return used, time.monotonic() * own[0]
        times = psutil.cpu_times()
        # A guest's time is in `user` already.
        whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return whole - times.idle - getattr(times, "iowait", 0.0), whole

    def load(self) -> float:
        """Processes that ran or waited to, on the average of the last minute; the whole machine's."""
        return os.getloadavg()[0]

    def network(self) -> dict[str, tuple[int, int]]:
        """Bytes received and sent since the machine began, by interface. Of devices; where there are none, as in a
        container, of all but loopback: a bridge would count once more what passes it."""
        cards = psutil.net_io_counters(pernic=True)
        devices = [name for name in cards if (self._root / "sys/class/net" / name / "device").exists()]
        chosen = devices or [name for name in cards if name != "lo"]
        return {name: (cards[name].bytes_recv, cards[name].bytes_sent) for name in chosen}


@dataclass
class Instance:
    """This process, its fork server and the jobs in it. What a fork server's jobs used that ended since the last look
    is lost when it is killed, and nothing else."""

    _former: dict[str, float] = field(default_factory=lambda: {"fork_server": 0.0, "jobs": 0.0})
    _latest: dict[str, float] = field(default_factory=lambda: {"fork_server": 0.0, "jobs": 0.0})
    _fork_server: psutil.Process | None = None

    def look(self, fork_server: int | None) -> dict[str, Used]:
        """By part; `fork_server` is its process id, `None` while there is none."""
        service = psutil.Process()
        found = {"service": Used(1, _pss(service.pid), _own_seconds(service)), "fork_server": Used(), "jobs": Used()}
        with contextlib.suppress(psutil.NoSuchProcess):
            if fork_server is not None:
                found |= self._look(psutil.Process(fork_server))
        return found | {part: self._with_former(part, found[part]) for part in self._former}

    def _look(self, server: psutil.Process) -> dict[str, Used]:
        if server != self._fork_server:
            self._fork_server = server
            self._former = {part: seconds + self._latest[part] for part, seconds in self._former.items()}
            self._latest = dict.fromkeys(self._latest, 0.0)
        # It before its jobs: one that ends in between is missing once, and would count twice the other way round.
        times = server.cpu_times()
        jobs = server.children(recursive=True)
        seconds = times.children_user + times.children_system + sum(map(_all_seconds, jobs))
        return {
            "fork_server": Used(1, _pss(server.pid), times.user + times.system),
            "jobs": Used(len(jobs), sum(_pss(job.pid) for job in jobs), seconds),
        }

    def _with_former(self, part: str, used: Used) -> Used:
        self._latest[part] = max(self._latest[part], used.cpu_seconds)
        return Used(used.processes, used.memory_bytes, self._former[part] + self._latest[part])


def _own_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _all_seconds(process: psutil.Process) -> float:
    """With what its ended children used; nothing for one that is gone, which its parent counts from then on."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def _pss(pid: int) -> int:
    """Bytes; what several processes share is divided among them. 0 for one that is gone; raises `OSError` on a system
    that does not tell, as 0 would look like a good figure."""
    try:
        found = _PSS.search((PROC / str(pid) / "smaps_rollup").read_text("ascii"))
    except (FileNotFoundError, ProcessLookupError):
        if pid == os.getpid():
            raise
        return 0
    return int(found[1]) * 1024 if found else 0
