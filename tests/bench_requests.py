"""How fast signed-in requests are answered, in turn with a bare aiohttp route that answers JSON of the same size.

The load comes from `wrk` where that is installed, else from `bench_client`, from 32 connections in either case.
"""

import asyncio
import itertools
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import aiohttp

from tests.bench_figures import Row, middle
from tests.instance import Instance, free_port, serving, signed_in, standing_in

CONNECTIONS = 32
ROUNDS, SECONDS, WARM_UP_SECONDS = 3, 3, 1
BARE = "bare aiohttp"
# What is asked for: the download's state, and the settings of the service that has it.
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "a waiting download": ("queued", {"DOWNLOAD_CONCURRENCY": "0"}),
    "one, without access log": ("completed", {"LOG_LEVEL": "WARNING"}),
    "a finished download": ("completed", {}),
}
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Rate:
    requests_per_second: float
    p99_ms: float


@dataclass(frozen=True)
class Target:
    url: str
    token: str = ""


async def measure(folder: Path) -> list[Row]:
    """Rows for a finished download, with the access log and without, and for a waiting one; about a minute."""
    async with AsyncExitStack() as stack:
        youtube = await stack.enter_async_context(standing_in(folder))
        targets = {}
        for name, (status, settings) in CASES.items():
            home = Path(mkdtemp(dir=folder))
            service = await stack.enter_async_context(serving(home, **settings, **youtube.settings))
            targets[name] = await _target(service, folder / "answer.json", status)
        reference = Target(await stack.enter_async_context(bare(folder / "answer.json")))
        return await _in_turn(targets, reference)


async def _target(service: Instance, kept: Path, status: str) -> Target:
    """A download in that state, and who may look at it; the answer is kept as what the reference answers."""
    async with signed_in(service) as client:
        wanted = {"url": "https://www.youtube.com/watch?v=many_000001"}
        async with client.post("/api/v1/downloads", json=wanted) as answer:
            path, found = f"/api/v1/downloads/{(await answer.json())['id']}", ""
        while found != status:
            await asyncio.sleep(0.1)
            async with client.get(path) as answer:
                kept.write_bytes(await answer.read())
                found = (await answer.json())["status"]
        return Target(service.url + path, client.headers["Authorization"].removeprefix("Bearer "))


@asynccontextmanager
async def bare(file: Path) -> AsyncIterator[str]:
    """The address of a bare aiohttp route that answers what is in the file."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench_bare", str(port), str(file))
    url = f"http://127.0.0.1:{port}/bare"
    try:
        async with aiohttp.ClientSession() as client:
            for _ in range(200):
                try:
                    async with client.get(url):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _in_turn(targets: dict[str, Target], bare: Target) -> list[Row]:
    rates: dict[str, list[Rate]] = {name: [] for name in [*targets, BARE]}
    everyone = {**targets, BARE: bare}
    for target in everyone.values():
        await _load(target, WARM_UP_SECONDS)
    for _, (name, target) in itertools.product(range(ROUNDS), everyone.items()):
        rates[name].append(await _load(target, SECONDS))
    reference = _typical(rates.pop(BARE))
    rows = []
    for name, found in rates.items():
        typical = _typical(found)
        rows += [
            Row(f"GET of {name}", "1/s", typical.requests_per_second, reference.requests_per_second, BARE, 0),
            Row("  99th percentile", "ms", typical.p99_ms, reference.p99_ms, BARE, 1),
        ]
    return rows


def _typical(rates: list[Rate]) -> Rate:
    return Rate(middle(rate.requests_per_second for rate in rates), middle(rate.p99_ms for rate in rates))


async def _load(target: Target, seconds: int) -> Rate:
    return await (_load_wrk if shutil.which("wrk") else _load_own)(target, seconds)


async def _load_own(target: Target, seconds: int) -> Rate:
    module = [sys.executable, "-m", "tests.bench_client"]
    return Rate(**json.loads(await _output(*module, target.url, target.token, str(CONNECTIONS), str(seconds))))


async def _load_wrk(target: Target, seconds: int) -> Rate:
    threads = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    said = await _output("wrk", *threads, "-H", f"Authorization: Bearer {target.token}", target.url)
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"Some requests failed:\n{said}")
    rate, slow = re.search(r"Requests/sec: +([\d.]+)", said), re.search(r"99% +([\d.]+)(us|ms|s)", said)
    if not rate or not slow:
        raise RuntimeError(f"wrk said what was not expected:\n{said}")
    return Rate(float(rate[1]), float(slow[1]) * _UNITS[slow[2]])


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}.")
    return said.decode()
