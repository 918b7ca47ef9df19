"""What a process of ours may do: whose death ends it, its group, its limits.

Only Linux knows all of it (prctl). The rules for outbound addresses are in `guard`.
"""

import ctypes
import os
import resource
import signal
from pathlib import Path

from ytdl.child.frames import Setup

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
MAX_OPEN_FILES = 256
NEARLY_ALL = 0.9


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's forking thread ends; exit now when it ended before this was asked for."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(71)


def die_by(number: int) -> None:
    """End this process as one of its own was ended."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def take_name(name: str) -> None:
    """The name that ps and top show; the kernel keeps 15 bytes of it."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that it can be seen and reaped here."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def take_own_group(parent: int, stderr: int) -> None:
    """Lead a new session and group, die with the fork server, and keep no descriptor but stderr."""
    os.setsid()
    die_with_parent(parent)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(nothing)
    os.close(stderr)


def limit(setup: Setup, job: str) -> None:
    """Bound file size, memory, time and descriptors; lower the priority; take the job's name.

    Memory is bounded by RLIMIT_DATA, not RLIMIT_AS: the JavaScript runtime reserves address space that it
    never touches and would not start under the latter.
    """
    take_name(f"ytdl {job}")
    os.nice(setup.niceness)
    Path("/proc/self/oom_score_adj").write_text("500")
    _lower(resource.RLIMIT_FSIZE, setup.max_file_bytes)
    _lower(resource.RLIMIT_DATA, setup.max_memory_bytes)
    _lower(resource.RLIMIT_CPU, setup.max_cpu_seconds)
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)


def is_out_of_memory(setup: Setup) -> bool:
    """Whether this process has all but used up its memory: a library then fails in whatever it was doing."""
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    return used > NEARLY_ALL * setup.max_memory_bytes


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (ceiling, ceiling))
