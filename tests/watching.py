"""A real Prometheus and a real Alertmanager, for whatever is to be seen through them.

Both come from Debian's packages (tests/install.sh unpacks them). They keep what they need in a folder of the caller's,
listen on a free port of 127.0.0.1, and end with the caller. A test can kill them and start them again.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.instance import ROOT, free_port, last_words, leash

START_SECONDS = 60.0
PROMETHEUS_FOLDER = ROOT / "prometheus"


def _found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(str(ROOT / ".venv/bin" / program))


PROMETHEUS, ALERTMANAGER = _found("prometheus"), _found("prometheus-alertmanager") or _found("alertmanager")
AMTOOL, PROMTOOL = _found("amtool"), _found("promtool")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is missing: tests/install.sh unpacks it")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: tests/install.sh unpacks it")
needs_alertmanager = pytest.mark.skipif(
    ALERTMANAGER is None or AMTOOL is None, reason="Alertmanager is missing: tests/install.sh unpacks it"
)


class Watcher:
    """One of the two as a process; `url` is where it listens, also after another start."""

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self.url = url

    async def start(self) -> None:
        """Answers when this returns."""
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *leash(), *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, env={"PATH": os.defpath},
            )  # fmt: skip
        async with asyncio.timeout(START_SECONDS):
            while not await self._ready():
                assert self._process.returncode is None, last_words(self._log)
                await asyncio.sleep(0.05)

    async def _ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as client, client.get(f"{self.url}/-/ready") as answer:
                return answer.status == 200
        return False

    def signal(self, number: int) -> None:
        """Stops it (SIGSTOP), so that it says nothing to whoever asks, or has it go on (SIGCONT)."""
        assert self._process
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    async def get(self, path: str, **query: str) -> Any:
        async with aiohttp.ClientSession() as client, client.get(self.url + path, params=query) as answer:
            found = await answer.json()
            assert answer.status == 200, found
        return found

    async def reload(self) -> None:
        async with aiohttp.ClientSession() as client, client.post(f"{self.url}/-/reload") as answer:
            assert answer.status == 200, await answer.text()

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """Prometheus' answer to an expression, as of now: `{"metric": labels, "value": [time, text]}` each."""
        found: list[dict[str, Any]] = (await self.get("/api/v1/query", query=expression))["data"]["result"]
        return found


@asynccontextmanager
async def prometheus(folder: Path, config: dict[str, Any]) -> AsyncIterator[Watcher]:
    """Prometheus with that configuration, whose `rule_files` may name those of the project by whole path."""
    assert PROMETHEUS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", "--log.level=warn",
        # It knows its Alertmanagers some seconds after its start, and tells what fired before then after this long.
        "--rules.alert.resend-delay=2s", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    async with _running(Watcher(command, f"http://127.0.0.1:{port}", folder / "prometheus.log")) as watcher:
        yield watcher


@asynccontextmanager
async def alertmanager(folder: Path, config: Path) -> AsyncIterator[Watcher]:
    """Alertmanager with the configuration in that file, which is read again by `reload`."""
    assert ALERTMANAGER
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        ALERTMANAGER, f"--config.file={config}", f"--storage.path={folder}/data", "--cluster.listen-address=",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    async with _running(Watcher(command, f"http://127.0.0.1:{port}", folder / "alertmanager.log")) as watcher:
        yield watcher


@asynccontextmanager
async def _running(watcher: Watcher) -> AsyncIterator[Watcher]:
    try:
        await watcher.start()
        yield watcher
    finally:
        await watcher.kill()
