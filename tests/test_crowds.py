"""Many at once: the same wish from all sides, and a stop under a full house."""

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import psycopg
import pytest

from tests.conftest import SECRET, Person, Service
from tests.fakes.youtube import YouTube
from tests.following import ask
from tests.test_crash import family, gone, served
from ytdl.api.keys import DB

FULL = 50
DRAIN = 3


async def rows(url: str, text: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await (await connection.execute(text.encode())).fetchall()


async def test_of_two_hundred_same_wishes_at_once_one_is_live_and_answers_the_others(
    alice: Person, service: Service
) -> None:
    # All ask at once, and the last gets its connection when the others are done.
    service.app[DB]._pool.timeout = 60.0
    async with aiohttp.TCPConnector(limit=0) as connector, aiohttp.ClientSession(
        service.url, headers={"Authorization": f"Bearer {alice.token}"}, connector=connector
    ) as session:  # fmt: skip

        async def wish() -> tuple[int, str, bool]:
            async with session.post("/api/v1/downloads", json={"url": "https://youtu.be/dQw4w9WgXcQ"}) as answer:
                body = await answer.json()
                return answer.status, body["id"], body["deduplicated"]

        answers = await asyncio.gather(*(wish() for _ in range(200)))
    assert Counter((status, again) for status, _, again in answers) == {(202, False): 1, (200, True): 199}
    ((live,),) = await rows(service.config.database_url, "SELECT subject::text FROM jobs WHERE state = 'queued'")
    assert {id for _, id, _ in answers} == {live}
    assert await rows(service.config.database_url, "SELECT count(*) FROM downloads") == [(1,)]


async def until_all_are_at_it(pid: int) -> None:
    """As many children of the fork server as there are places; what else the service starts has none."""
    async with asyncio.timeout(150):
        while sum(len(process.children()) for process in psutil.Process(pid).children()) < FULL:  # noqa: ASYNC110 - so
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_stop_under_a_full_house_hands_every_job_back_without_blame(
    tmp_path: Path, youtube: YouTube, database_url: str, redis_url: str
) -> None:
    youtube.misbehave("*", media_throttle=1_000)
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REDIS_PREFIX": tmp_path.name,
        "JWT_SECRET_KEY": SECRET,
        "DOWNLOAD_CONCURRENCY": str(FULL),
        "DOWNLOAD_USER_CONCURRENCY": str(FULL),
        "DRAIN_SECONDS": str(DRAIN),
    }
    async with served(tmp_path, youtube, **settings) as (running, admin):
        for n in range(FULL):
            await ask(admin, f"https://youtu.be/many_{n:06}", quality="360p")
        await until_all_are_at_it(running.pid)
        processes = family(running.pid)
        began = time.monotonic()
        os.kill(running.pid, signal.SIGTERM)
        await gone(processes, 60)
        took = time.monotonic() - began
    print(f"\n{FULL} downloads under way, {len(processes)} processes: all ended {took:.1f} s after SIGTERM")
    assert took < DRAIN + 25
    assert await rows(database_url, "SELECT state, tries, crashes, count(*) FROM jobs GROUP BY 1, 2, 3") == [
        ("queued", 0, 0, FULL)
    ]
    assert await rows(database_url, "SELECT event, count(*) FROM job_events GROUP BY 1 ORDER BY 1") == [
        ("claim", FULL), ("submit", FULL), ("yield", FULL),
    ]  # fmt: skip
