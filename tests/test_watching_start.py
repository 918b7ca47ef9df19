"""The section "Start" of docs/MONITORING.md, as it is written: afterwards everything is watched, and alerts arrive."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import PASSWORD
from tests.instance import ROOT, Instance, free_port, last_words, signed_in
from tests.watching import ALERTMANAGER, PROMETHEUS, needs_alertmanager, needs_prometheus

PAGE = (ROOT / "docs/MONITORING.md").read_text()
SECTION = PAGE.partition("\n## Start\n")[2].partition("\n## ")[0]
# What each of the three listens on as the commands are written.
SERVICE, WATCHER, TELLER = 8000, 9090, 9093
LIMIT_SECONDS = 180.0


class Started:
    """What runs after the commands, which were done in `folder`."""

    def __init__(self, folder: Path, ports: dict[int, int]) -> None:
        self._ports = ports
        self.folder = folder

    async def get(self, port: int, path: str) -> Any:
        """None while nobody answers, or only that it is not ready yet."""
        try:
            url = f"http://127.0.0.1:{self._ports[port]}{path}"
            async with aiohttp.ClientSession() as client, client.get(url) as answer:
                return await answer.json() if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def scraped(self) -> dict[str, str]:
        found = await self.get(WATCHER, "/api/v1/targets")
        return {t["labels"]["job"]: t["health"] for t in found["data"]["activeTargets"]} if found else {}

    async def health(self) -> dict[str, str]:
        service = Instance(f"http://127.0.0.1:{self._ports[SERVICE]}", 0, self.folder / "log", PASSWORD, 0.0)
        async with signed_in(service) as client, client.get("/api/v1/monitoring/health") as answer:
            return {check["name"]: check["status"] for check in (await answer.json())["checks"]}

    async def alert(self, name: str) -> Any:
        """As Alertmanager has it; None before it arrives."""
        found = await self.get(TELLER, "/api/v2/alerts") or []
        return next((alert for alert in found if alert["labels"]["alertname"] == name), None)


def project(folder: Path) -> None:
    """What the commands need of the project's folder."""
    folder.mkdir()
    for name in ("prometheus", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    # It knows its Alertmanagers some seconds after its start, and tells what fired before then a minute later.
    (folder / "bin/prometheus").write_text(f'#!/bin/sh\nexec {PROMETHEUS} "$@" --rules.alert.resend-delay=2s\n')
    (folder / "bin/prometheus").chmod(0o755)
    (folder / "bin/prometheus-alertmanager").symlink_to(str(ALERTMANAGER))


@asynccontextmanager
async def followed(folder: Path) -> AsyncIterator[Started]:
    """The commands with other ports and shorter intervals, until everything that they started is over."""
    project(folder)
    [script] = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
    ports = {port: free_port() for port in (SERVICE, WATCHER, TELLER)}
    for written, port in ports.items():
        script = script.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
    environment = {
        "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "PORT": str(ports[SERVICE]),
        "METRICS_COLLECTION_INTERVAL": "1", "ALERT_CHECK_INTERVAL": "1", "DRAIN_SECONDS": "0",
        "ADMIN_PASSWORD": PASSWORD,
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", script + "wait\n", cwd=folder, env=environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield Started(folder, ports)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.wait()
        await _ended(process.pid)


async def watched(started: Started) -> Any:
    """The Watchdog, as soon as it has arrived and every target is up."""
    up = {"ytdl": "up", "prometheus": "up", "alertmanager": "up"}
    deadline = time.monotonic() + LIMIT_SECONDS
    while (seen := await started.scraped()) != up or not (watchdog := await started.alert("Watchdog")):
        assert time.monotonic() < deadline, f"{seen}\n{last_words(started.folder / 'log')}"
        await asyncio.sleep(0.2)
    return watchdog


async def both_are_well(started: Started) -> None:
    """As the service sees the other two, from one look to the next."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while {(seen := await started.health())[name] for name in ("prometheus", "alertmanager")} != {"ok"}:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.5)


async def _ended(group: int) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.1)


@needs_prometheus
@needs_alertmanager
@pytest.mark.slow
async def test_the_commands_have_the_service_watched_and_alerts_arrive(tmp_path: Path) -> None:
    async with followed(tmp_path / "project") as started:
        watchdog = await watched(started)
        assert [receiver["name"] for receiver in watchdog["receivers"]] == ["watchdog"]
        assert watchdog["annotations"]["runbook_url"] == "docs/runbooks/monitoring.md#watchdog"
        assert watchdog["annotations"]["dashboard_url"] == "/d/ytdl-overview"
        await both_are_well(started)


def test_every_port_that_the_test_changes_is_written_there() -> None:
    assert all(f"127.0.0.1:{port}" in SECTION for port in (WATCHER, TELLER))
