"""How soon a cancel at one service reaches what another one runs: in moments with Redis, by the next beat without."""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import psycopg
import pytest

from tests.conftest import Person, Service, running
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, until
from tests.redises import OwnRedis
from ytdl.api.keys import WORKER
from ytdl.config import Config

AT_ONCE, ROUNDS = 10, 5
LEASE = 6.0
_numbers = itertools.count(300_000)


async def begun(person: Person) -> str:
    """A download that has some bytes."""
    id = str((await ask(person, f"https://youtu.be/many_{next(_numbers)}", quality="360p"))["id"])
    await until(person, id, lambda d: d["progress"]["downloaded_bytes"] > 0, 60)
    return id


async def cancelled(person: Person, id: str) -> None:
    assert (await person.post(f"/downloads/{id}/cancel")).status == 202
    assert (await ended(person, id))["status"] == "cancelled"


async def delays(service: Service) -> list[float]:
    """Seconds from each request to the end that says that no process is left, sorted."""
    text = (
        "SELECT extract(epoch FROM done.at - asked.at)::float8 FROM job_events asked JOIN job_events done"
        " USING (job_id) WHERE asked.event = 'cancel' AND done.event = 'cancelled' ORDER BY 1"
    )
    async with await psycopg.AsyncConnection.connect(service.config.database_url) as connection:
        return [seconds for (seconds,) in await (await connection.execute(text)).fetchall()]


def left(service: Service) -> list[Path | psutil.Process]:
    pid = service.app[WORKER]._fetcher.zygote_pid
    assert pid
    return [*(service.config.data_dir / "work").iterdir(), *psutil.Process(pid).children(recursive=True)]


async def nothing_is_left(service: Service) -> None:
    async with asyncio.timeout(30):
        while left(service):  # noqa: ASYNC110 - what it waits for is outside this process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def two(config: Config) -> AsyncIterator[tuple[Service, Person, Person]]:
    """A service that runs downloads, and somebody signed in at it and at another one that only asks."""
    asking = dataclasses.replace(config, download_concurrency=0)
    async with (
        running(config) as service,
        running(asking) as other,
        service.person("carl") as carl,
        aiohttp.ClientSession(other.url, headers=carl.session.headers) as session,
    ):
        yield service, carl, dataclasses.replace(carl, session=session)


@pytest.mark.slow
async def test_cancels_reach_what_runs_in_moments(downloading_config: Config, youtube: YouTube) -> None:
    """A beat is a minute and more away, so it is not what brings them."""
    youtube.misbehave("*", media_throttle=5_000)
    config = dataclasses.replace(downloading_config, download_concurrency=AT_ONCE, download_lease_seconds=600.0)
    async with two(config) as (service, carl, carl_elsewhere):
        for _ in range(ROUNDS):
            ids = await asyncio.gather(*(begun(carl) for _ in range(AT_ONCE)))
            await asyncio.gather(*(cancelled(carl_elsewhere, id) for id in ids))
            await nothing_is_left(service)
        took = await delays(service)
    print(f"\n{len(took)} cancels: median {took[len(took) // 2]:.3f} s, slowest {took[-1]:.3f} s")
    assert len(took) == AT_ONCE * ROUNDS and took[-1] < 10


@pytest.mark.slow
async def test_without_redis_a_cancel_reaches_what_runs_by_the_next_beat(
    downloading_config: Config, own_redis: OwnRedis, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=5_000)
    config = dataclasses.replace(downloading_config, redis_url=own_redis.url, download_lease_seconds=LEASE)
    async with two(config) as (service, carl, carl_elsewhere):
        ids = await asyncio.gather(*(begun(carl) for _ in range(4)))
        own_redis.kill()
        await asyncio.gather(*(cancelled(carl_elsewhere, id) for id in ids))
        await nothing_is_left(service)
        took = await delays(service)
    print(f"\nwithout Redis, {len(took)} cancels: slowest {took[-1]:.3f} s, a beat every {LEASE / 3:.1f} s")
    assert len(took) == 4 and took[-1] < LEASE / 3 + 8
