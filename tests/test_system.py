"""What the machine and its control group allow, and what this instance uses with all of its processes."""

import collections
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fetching import until
from ytdl.system import GOAL_BYTES, Groups, Instance, Machine, Memory

MIB = 2**20
# A fork server as far as it matters here: what is in its input is done by children, who end or wait.
SERVER = """
import os, sys, time
for word in sys.stdin:
    if (pid := os.fork()) == 0:
        begun = time.process_time()
        while time.process_time() - begun < 0.3:
            pass
        os._exit(0) if word == "work\\n" else time.sleep(60)
    if word == "work\\n":
        os.waitpid(pid, 0)
    print("done", flush=True)
"""
Card = collections.namedtuple("Card", "bytes_recv bytes_sent")


def write(root: Path, **files: str) -> Path:
    """Files below `root`; a double underscore in a name is a slash, and what has no dot gets none."""
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.fixture
def version2(tmp_path: Path) -> Path:
    """A control group of version 2 that allows less than the one inside of it."""
    return write(
        tmp_path, proc__self__cgroup="0::/outer/inner",
        sys__fs__cgroup__outer__memoryDOTmax=str(256 * MIB), sys__fs__cgroup__outer__memoryDOTcurrent=str(200 * MIB),
        sys__fs__cgroup__outer__memoryDOTstat=f"anon {120 * MIB}\ninactive_file {80 * MIB}",
        sys__fs__cgroup__outer__inner__memoryDOTmax=str(512 * MIB),
        sys__fs__cgroup__outer__inner__memoryDOTcurrent="7",
        sys__fs__cgroup__outer__cpuDOTmax="50000 100000", sys__fs__cgroup__outer__inner__cpuDOTmax="max 100000",
        sys__fs__cgroup__outer__cpuDOTstat="usage_usec 1000000\nuser_usec 1",
    )  # fmt: skip


@pytest.fixture
def version1(tmp_path: Path) -> Path:
    return write(
        tmp_path, proc__self__cgroup="5:memory:/box\n3:cpu,cpuacct:/box\n0::/",
        sys__fs__cgroup__memory__memoryDOTlimit_in_bytes=str(2**63 - 4096),
        sys__fs__cgroup__memory__memoryDOTusage_in_bytes="5",
        sys__fs__cgroup__memory__box__memoryDOTlimit_in_bytes=str(300 * MIB),
        sys__fs__cgroup__memory__box__memoryDOTusage_in_bytes=str(100 * MIB),
        sys__fs__cgroup__memory__box__memoryDOTstat=f"inactive_file 0\ntotal_inactive_file {40 * MIB}",
        sys__fs__cgroup__cpu__box__cpuDOTcfs_quota_us="25000", sys__fs__cgroup__cpu__box__cpuDOTcfs_period_us="100000",
        sys__fs__cgroup__cpu__cpuDOTcfs_quota_us="-1", sys__fs__cgroup__cpu__cpuDOTcfs_period_us="100000",
        sys__fs__cgroup__cpuacct__box__cpuacctDOTusage="2000000000",
    )  # fmt: skip


def test_the_group_that_allows_least_is_what_counts_and_its_files_can_be_had_back(version2: Path) -> None:
    assert Groups(version2).memory() == Memory(256 * MIB, 136 * MIB)
    found = Groups(version2).processors()
    assert found and found[0] == 0.5


def test_version_1_says_the_same_in_its_own_words(version1: Path) -> None:
    assert Groups(version1).memory() == Memory(300 * MIB, 240 * MIB)
    found = Groups(version1).processors()
    assert found and found[0] == 0.25


@pytest.mark.parametrize("most", ["max", str(2**63 - 4096)])
def test_what_stands_for_no_limit_is_none(tmp_path: Path, most: str) -> None:
    name = "memoryDOTmax" if most == "max" else "memory__memoryDOTlimit_in_bytes"
    write(tmp_path, proc__self__cgroup="0::/", **{f"sys__fs__cgroup__{name}": most})
    write(tmp_path, sys__fs__cgroup__memoryDOTcurrent="5", sys__fs__cgroup__memory__memoryDOTusage_in_bytes="5")
    assert Groups(tmp_path).memory() is None


def test_without_a_limit_the_machine_is_what_counts(tmp_path: Path) -> None:
    machine = Machine(write(tmp_path, proc__self__cgroup="0::/"))
    assert machine.memory().total_bytes == psutil.virtual_memory().total
    assert machine.memory_limit() == GOAL_BYTES
    assert Groups(tmp_path).processors() is None


def test_a_group_allows_what_it_allows(version2: Path) -> None:
    machine = Machine(version2)
    assert machine.memory() == Memory(256 * MIB, 136 * MIB)
    assert machine.memory_limit() == 256 * MIB


@pytest.mark.parametrize("version", ["version1", "version2"])
def test_processor_time_is_a_part_of_what_the_group_allows(version: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(version)
    begun = time.monotonic()
    machine = Machine(root)
    made = time.monotonic()
    time.sleep(0.2)
    if version == "version2":
        write(root, sys__fs__cgroup__outer__cpuDOTstat="usage_usec 1050000")
    else:
        write(root, sys__fs__cgroup__cpuacct__box__cpuacctDOTusage="2025000000")
    asked = time.monotonic()
    found = machine.cpu_usage()
    # It used 0.025 seconds of a quarter, or 0.05 of half of the time that went by.
    assert 0.1 / (time.monotonic() - begun) <= found <= 0.1 / (asked - made)


def test_a_busy_machine_shows() -> None:
    machine = Machine()

    def used() -> float:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.3:
            pass
        return machine.cpu_usage()

    # The machine may stand still meanwhile, but not each time.
    assert any(used() > 0.5 / (os.cpu_count() or 1) for _ in range(10))
    assert machine.load() >= 0


def test_asked_again_at_once_it_is_the_same(version2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ytdl.system.LEAST_SECONDS", 600.0)
    machine = Machine(version2)
    write(version2, sys__fs__cgroup__outer__cpuDOTstat="usage_usec 9000000")
    assert machine.cpu_usage() == 0
    # As if it had been so long ago.
    machine._asked_at -= 600
    assert (machine.cpu_usage(), machine.cpu_usage()) == (1, 1)


def test_a_byte_that_passes_a_bridge_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"lo": Card(1000, 1000), "eth0": Card(10, 20), "br0": Card(10, 20), "veth1": Card(10, 20)}
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: cards)
    write(tmp_path, sys__class__net__eth0__device="")
    assert Machine(tmp_path).network() == {"eth0": (10, 20)}


def test_where_there_is_no_device_all_but_loopback_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: {"lo": Card(1000, 1000), "eth0": Card(10, 20)})
    assert Machine(tmp_path).network() == {"eth0": (10, 20)}


# the instance


class Server:
    """Something that forks, as a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def do(self, word: str) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        for child in psutil.Process(self.pid).children() if self._process.poll() is None else []:
            child.kill()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.end()


def test_without_a_fork_server_there_is_this_process(server: Server) -> None:
    found = Instance().look(None)
    assert found["service"].processes == 1
    assert found["service"].memory_bytes > 10 * MIB
    assert abs(found["service"].cpu_seconds - time.process_time()) < 0.5
    assert found["jobs"].processes == found["fork_server"].processes == 0


def test_a_system_that_does_not_tell_memory_is_no_system_without_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ytdl.system.PROC", tmp_path)
    with pytest.raises(FileNotFoundError):
        Instance().look(None)


async def test_jobs_are_counted_while_they_run_and_what_they_used_afterwards(server: Server) -> None:
    instance = Instance()
    server.do("work")
    server.do("wait")
    await until(lambda: instance.look(server.pid)["jobs"].cpu_seconds >= 0.55, 30)
    found = instance.look(server.pid)
    assert (found["fork_server"].processes, found["jobs"].processes) == (1, 1)
    assert found["jobs"].memory_bytes > 100_000
    # What they share with the fork server counts once over both of them.
    assert found["jobs"].memory_bytes < psutil.Process(server.pid).children()[0].memory_info().rss


async def test_no_figure_of_processor_time_goes_back_when_the_fork_server_is_another(server: Server) -> None:
    instance = Instance()
    server.do("work")
    before = instance.look(server.pid)
    assert before["jobs"].cpu_seconds >= 0.25
    server.end()
    gone = instance.look(server.pid)
    assert [gone[part].cpu_seconds for part in ("jobs", "fork_server")] == [
        before[part].cpu_seconds for part in ("jobs", "fork_server")
    ]
    other = Server()
    try:
        other.do("work")
        assert instance.look(other.pid)["jobs"].cpu_seconds >= before["jobs"].cpu_seconds + 0.25
    finally:
        other.end()


def test_a_look_that_misses_a_job_that_is_just_ending_does_not_go_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance()
    server.do("wait")
    before = instance.look(server.pid)["jobs"].cpu_seconds
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [])
    assert instance.look(server.pid)["jobs"].cpu_seconds == before
