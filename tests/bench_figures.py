"""What the measurements share: a row of the table, and what processes use."""

import asyncio
import contextlib
import re
import statistics
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.2
# The embedded servers are what another installation has elsewhere, so they are not counted.
SERVERS = frozenset({"postgres", "redis-server"})
_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One figure beside its reference of the same run; `digits` are shown of both."""

    what: str
    unit: str
    ours: float
    reference: float | None = None
    against: str = ""
    digits: int = 2

    @property
    def cells(self) -> list[str]:
        shown = [f"{value:,.{self.digits}f}" for value in (self.ours, self.reference) if value is not None]
        ratio = f"{self.ours / self.reference:.2f}" if self.reference else ""
        return [self.what, self.unit, *shown, *[""] * (2 - len(shown)), ratio, self.against]


def table(rows: Iterable[Row]) -> str:
    lines = [["what", "unit", "ytdl", "reference", "ratio", "reference is"], *(row.cells for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(6)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(_cells(line, widths)).rstrip() for line in lines)


def _cells(line: list[str], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    padded = zip(line, widths, strict=True)
    return [cell.rjust(width) if 2 <= n <= 4 else cell.ljust(width) for n, (cell, width) in enumerate(padded)]


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def tree(pid: int) -> list[psutil.Process]:
    """The process with all its descendants, embedded servers and theirs left out."""
    root = psutil.Process(pid)
    found = [root]
    for child in root.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() not in SERVERS:
                found += [child, *child.children(recursive=True)]
    return found


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory, shared pages counted once over all who share them."""
    return sum(_pss_kilobytes(process.pid) for process in processes) * 1024


def _pss_kilobytes(pid: int) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0


def cpu_seconds(pid: int) -> float:
    """Of the tree, children that ended included; read it while no job runs."""
    total = 0.0
    for process in tree(pid):
        times = process.cpu_times()
        total += times.user + times.system
        if process.pid != pid:
            total += times.children_user + times.children_system
    return total


class Peak:
    """The highest sum of PSS that was seen, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0


@asynccontextmanager
async def peak_of(*pids: int) -> AsyncIterator[Peak]:
    """Watches these processes and all that descends from them."""
    peak = Peak()

    async def watch() -> None:
        while True:
            peak.bytes = max(peak.bytes, await asyncio.to_thread(_sum, pids))
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _sum(pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += pss_bytes(tree(pid))
    return total
