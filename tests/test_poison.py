"""A job that takes its whole service down each time it is begun, among innocent ones."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import psycopg
import pytest

from tests.conftest import SECRET
from tests.fakes.youtube import YouTube
from tests.following import ask
from tests.test_crash import family, gone, served

POISON, INNOCENT = "many_000000", ["many_000001", "many_000002", "many_000003"]
JOBS = "SELECT d.video_id, j.state, j.crashes FROM jobs j JOIN downloads d ON d.job_id = j.id"


async def jobs(url: str) -> dict[str, tuple[str, int]]:
    """State and crashes by video."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return {video: (state, n) for video, state, n in await (await connection.execute(JOBS.encode())).fetchall()}


async def until(url: str, holds: Callable[[dict[str, tuple[str, int]]], bool]) -> None:
    async with asyncio.timeout(90):
        while not holds(await jobs(url)):  # noqa: ASYNC110 - what it waits for is another process
            await asyncio.sleep(0.05)


def running(videos: Iterable[str], crashes: int) -> Callable[[dict[str, tuple[str, int]]], bool]:
    """Begun again after so many crashes: until a dead service's lease is over, its jobs still count as running."""
    return lambda found: all(found.get(video) == ("running", crashes) for video in videos)


async def kill(pid: int) -> None:
    processes = family(pid)
    os.kill(pid, signal.SIGKILL)
    await gone(processes)


@pytest.mark.slow
async def test_a_job_that_kills_its_service_fails_the_third_time_and_no_other_with_it(
    tmp_path: Path, youtube: YouTube, database_url: str, redis_url: str
) -> None:
    """Two deaths take all down that runs beside it; then those who were there twice run one at a time."""
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REDIS_PREFIX": tmp_path.name,
        "JWT_SECRET_KEY": SECRET,
        # As long as a start takes: who stands still for less is not taken for dead, which would be counted as well.
        "DOWNLOAD_LEASE_SECONDS": "4.5",
    }
    youtube.misbehave("*", media_throttle=10_000)
    youtube.misbehave(POISON, player_delay=60.0)
    async with served(tmp_path, youtube, **settings) as (service, admin):
        for video in (INNOCENT[0], POISON, *INNOCENT[1:]):
            await ask(admin, youtube.url(video), quality="360p")
        await until(database_url, running([POISON, *INNOCENT], 0))
        await kill(service.pid)
    async with served(tmp_path, youtube, **settings) as (service, _):
        await until(database_url, running([POISON, *INNOCENT], 1))
        await kill(service.pid)
    youtube.behave()
    youtube.misbehave(POISON, player_delay=60.0)
    async with served(tmp_path, youtube, **settings) as (service, _):
        await until(database_url, running([POISON], 2))
        await kill(service.pid)
    async with served(tmp_path, youtube, **settings):
        await until(database_url, lambda found: {state for state, _ in found.values()} <= {"completed", "failed"})
    assert await jobs(database_url) == {POISON: ("failed", 3)} | dict.fromkeys(INNOCENT, ("completed", 2))
