"""kill -9, SIGTERM and lost servers, with the whole service as a process of its own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import psutil
import pytest

from tests import instance
from tests.conftest import PASSWORD, Person
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, until

MEGABYTE = 2**20
NOBODY = UUID(int=0)


@asynccontextmanager
async def served(folder: Path, youtube: YouTube, **more: str) -> AsyncIterator[tuple[instance.Instance, Person]]:
    """The service over `folder`, and its admin signed in."""
    settings = {
        "ADMIN_PASSWORD": PASSWORD,
        "OUTBOUND_PROXY": youtube.proxy_url,
        "OUTBOUND_CA_FILE": str(youtube.ca_file),
        "YTDLP_EXTRACTOR_ARGS": youtube.extractor_args,
        "DOWNLOAD_BACKOFF_SECONDS": "0.2",
    }
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(instance.serving(folder, **(settings | more)))
        client = await stack.enter_async_context(aiohttp.ClientSession(running.url))
        credentials = {"username": "admin", "password": PASSWORD}
        async with client.post("/api/v1/auth/login", json=credentials) as answer:
            tokens: dict[str, Any] = await answer.json()
        client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield running, Person(NOBODY, tokens["access_token"], tokens["refresh_token"], client)


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


async def gone(processes: list[psutil.Process], seconds: float = 60.0) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    assert alive == []


async def test_a_killed_service_has_hardly_anything_fetched_twice(tmp_path: Path, youtube: YouTube) -> None:
    """Another process takes over; what had reached the disk is not asked for again, and the file is the same."""
    youtube.misbehave("big032_0001", itag=134, media_throttle=8 * MEGABYTE)
    # Its third part of ten megabytes does not come to its end, however late the service is killed.
    youtube.misbehave("big032_0001", itag=134, skip=2, media_stall_after=4 * MEGABYTE)
    youtube.forget()
    async with served(tmp_path, youtube) as (running, admin):
        id = (await ask(admin, youtube.url("big032_0001"), quality="360p"))["id"]
        await until(admin, id, lambda d: d["progress"]["downloaded_bytes"] > 16 * MEGABYTE, 60)
        processes = family(running.pid)
        os.kill(running.pid, signal.SIGKILL)
        await gone(processes)
    youtube.behave()
    async with served(tmp_path, youtube) as (_, admin):
        done = await ended(admin, id, 90)
        twice = sum(seen.sent for seen in youtube.requests if seen.path == "/videoplayback")
        rows = await (await admin.get(f"/downloads/{id}/logs")).json()
        fresh = await ended(admin, (await ask(admin, youtube.url("big032_0001"), quality="360p"))["id"], 90)
    total = youtube.media("big032_0001", 134).size + youtube.media("big032_0001", 140).size
    print(f"killed service: {twice - total} bytes came twice, {100 * (twice - total) / total:.2f} %")
    assert (done["status"], [row["status"] for row in rows]) == ("completed", ["lost", "completed"])
    assert 0 < twice - total <= 0.05 * total and rows[1]["downloaded_bytes"] < 0.6 * total
    assert done["file"]["sha256"] == fresh["file"]["sha256"]


async def test_sigterm_hands_back_and_ends_everything(tmp_path: Path, youtube: YouTube) -> None:
    youtube.misbehave("*", media_throttle=MEGABYTE)
    async with served(tmp_path, youtube) as (running, admin):
        id = (await ask(admin, youtube.url("big008_0002"), quality="360p"))["id"]
        await until(admin, id, lambda d: d["progress"]["downloaded_bytes"] > MEGABYTE)
        processes = family(running.pid)
        os.kill(running.pid, signal.SIGTERM)
        await gone(processes)
    youtube.behave()
    async with served(tmp_path, youtube) as (_, admin):
        assert (await ended(admin, id, 60))["status"] == "completed"
        rows = await (await admin.get(f"/downloads/{id}/logs")).json()
    assert [(r["status"], r["retries"]) for r in rows] == [("yielded", 0), ("completed", 0)]


async def test_a_running_job_may_end_within_the_drain(tmp_path: Path, youtube: YouTube) -> None:
    youtube.misbehave("*", media_throttle=15_000)
    async with served(tmp_path, youtube, DRAIN_SECONDS="60") as (running, admin):
        id = (await ask(admin, youtube.url("ordinary"), quality="360p"))["id"]
        await until(admin, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
        processes = family(running.pid)
        os.kill(running.pid, signal.SIGTERM)
        await until_draining(admin)
        # For the second of the two streams; the first takes seven seconds.
        youtube.behave()
        await gone(processes, 90)
    async with served(tmp_path, youtube) as (_, admin):
        done = await ended(admin, id, 60)
    assert (done["status"], done["attempts"]) == ("completed", 1)


async def until_draining(person: Person) -> None:
    """The service says so while it still answers."""
    for _ in range(1000):
        if (await person.get("//readyz")).status == 503:
            return
        await asyncio.sleep(0.02)
    pytest.fail("The service was ready all along.")


@pytest.mark.parametrize("server", ["postgres", "redis-server"])
async def test_a_server_that_dies_costs_an_error_but_no_download(tmp_path: Path, youtube: YouTube, server: str) -> None:
    youtube.misbehave("*", media_throttle=MEGABYTE)
    async with served(tmp_path, youtube, DOWNLOAD_LEASE_SECONDS="3") as (running, admin):
        id = (await ask(admin, youtube.url("big008_0003"), quality="360p"))["id"]
        await until(admin, id, lambda d: d["progress"]["downloaded_bytes"] > MEGABYTE)
        victim = next(p for p in psutil.Process(running.pid).children() if server in p.name())
        victim.kill()
        statuses = {(await admin.get("/downloads")).status for _ in range(20)}
        assert statuses <= {200, 503}
        await until_answered(admin)
        assert (await ended(admin, id, 90))["status"] == "completed"
        assert (await ended(admin, (await ask(admin, youtube.url("ordinary"), quality="144p"))["id"], 60))[
            "status"
        ] == "completed"


async def until_answered(person: Person) -> None:
    for _ in range(600):
        if (await person.get("/downloads")).status == 200:
            return
        await asyncio.sleep(0.1)
    pytest.fail("The service did not come back within 60 s.")
