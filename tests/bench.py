"""`make bench`: what the service costs and how fast it is, each figure beside a reference taken in the same run.

Machines differ and drift, so it is the ratio that says something: measured in turn, ours and the reference's. All
load goes to servers that are started here, on loopback addresses.
"""

import argparse
import asyncio
import logging
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from tests import bench_downloads, bench_queue, bench_requests, bench_scrape
from tests.bench_figures import Row, table
from tests.instance import NotReady

PARTS: dict[str, tuple[str, Callable[[Path], Awaitable[list[Row]]]]] = {
    "downloads": ("processor time and memory of downloads, time to the first byte", bench_downloads.measure),
    "requests": ("signed-in requests a second and their 99th percentile", bench_requests.measure),
    "scrape": ("what being watched costs", bench_scrape.measure),
    "queue": ("jobs that do nothing, through the queue", bench_queue.measure),
}


async def _measure(names: Sequence[str]) -> list[Row]:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rows = []
    for name in names:
        print(f"Measuring {name}: {PARTS[name][0]} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="ytdl-bench-", ignore_cleanup_errors=True) as folder:
            rows += await PARTS[name][1](Path(folder))
    return rows


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "; ".join(f"{name}: {words}" for name, (words, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measures the service beside references, within four minutes."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all by default. {listed}")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.ERROR)
    names, began = parse_arguments(arguments).parts or list(PARTS), time.monotonic()
    try:
        rows = asyncio.run(_measure(names))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Interrupted; everything was stopped and removed.", file=sys.stderr)
        return 130
    except (NotReady, RuntimeError) as error:
        print(f"The measurement failed: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    machine = f"{psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f} at the end"
    python = f"Python {platform.python_version()}, aiohttp {version('aiohttp')}"
    print(f"\n{machine}; {python}; took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
