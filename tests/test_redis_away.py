"""The service while Redis forgets, hangs, dies and comes back: nothing is lost, nothing is refused."""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.conftest import PASSWORD, Person, Service, running
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, until
from tests.redises import OwnRedis
from ytdl import worker
from ytdl.api.keys import WORKER
from ytdl.config import Config
from ytdl.loops import settle

MEGABYTE = 2**20
ROUND_SECONDS = 2.0


@pytest.fixture
async def beside(
    downloading_config: Config, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """A service whose Redis may be killed, and which does not look by itself for what the index has lost."""
    monkeypatch.setattr(worker, "RECONCILE_SECONDS", 600.0)
    config = dataclasses.replace(downloading_config, redis_url=own_redis.url, download_lease_seconds=3.0)
    async with running(config) as service:
        yield service


@pytest.fixture
async def carl(beside: Service) -> AsyncIterator[Person]:
    async with beside.person("carl") as person:
        yield person


async def claims(service: Service) -> list[tuple[int, float]]:
    """Job and moment of each claim, in order."""
    async with await psycopg.AsyncConnection.connect(service.config.database_url) as connection:
        text = "SELECT job_id, extract(epoch FROM at)::float8 FROM job_events WHERE event = 'claim' ORDER BY seq"
        return await (await connection.execute(text)).fetchall()


async def asked(person: Person, number: int, first: int = 0) -> list[str]:
    urls = [f"https://www.youtube.com/watch?v=many_{n:06}" for n in range(first, first + number)]
    return [(await ask(person, url, quality="144p"))["id"] for url in urls]


async def all_completed_the_first_time(person: Person, service: Service, ids: list[str]) -> None:
    """Each with one attempt, and none that was begun twice."""
    done = [await ended(person, id, 60) for id in ids]
    assert [(d["status"], d["attempts"]) for d in done] == [("completed", 1)] * len(ids)
    jobs = [job for job, _ in await claims(service)]
    assert len(jobs) == len(set(jobs)) == len(ids)


async def test_a_redis_that_is_emptied_again_and_again_costs_no_job_and_doubles_none(
    carl: Person, beside: Service, own_redis: OwnRedis, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=40_000)
    ids = await asked(carl, 8)
    await until(carl, ids[0], lambda d: d["progress"]["downloaded_bytes"] > 0)
    for n in range(5):
        await own_redis.flush()
        await asyncio.sleep(0.2)
        ids += await asked(carl, 1, 100 + n)
    youtube.behave()
    await all_completed_the_first_time(carl, beside, ids)


async def test_a_redis_that_comes_back_with_an_older_file_costs_no_job_and_doubles_none(
    carl: Person, beside: Service, own_redis: OwnRedis, youtube: YouTube
) -> None:
    youtube.misbehave("many_000001", media_throttle=20_000)
    ids = await asked(carl, 6)
    file = await own_redis.saved()
    for id in (ids[0], *ids[2:]):
        await ended(carl, id)
    ids += await asked(carl, 4, 100)
    own_redis.kill()
    await own_redis.start(file)
    youtube.behave()
    # What the file does not know is found by the next round of this, which would be within 15 seconds.
    await settle(beside.app[WORKER]._queue.index.reconcile, lambda: False)
    await all_completed_the_first_time(carl, beside, ids)


class Visitor:
    """Somebody who goes on as if nothing were the matter, and notes what is answered and how soon."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.ids: list[str] = []
        self.answers: dict[str, set[int]] = {}
        self.slowest: dict[str, float] = {}
        self._numbers = itertools.count(200_000)

    async def come(self, seconds: float) -> None:
        for _ in range(round(seconds / ROUND_SECONDS)):
            pause = asyncio.create_task(asyncio.sleep(ROUND_SECONDS))
            await self._visit()
            await pause

    async def _visit(self) -> None:
        url = f"https://www.youtube.com/watch?v=many_{next(self._numbers)}"
        self.ids.append((await self._ask("submit", "POST", "/downloads", {"url": url, "quality": "144p"}))["id"])
        await self._ask("look", "GET", f"/downloads/{self.ids[-1]}")
        await self._ask("list", "GET", "/downloads")
        await self._ask("sign in", "POST", "/auth/login", {"username": "carl", "password": PASSWORD})

    async def _ask(self, what: str, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        response = await self.person.request(method, path, json=body)
        self.answers.setdefault(what, set()).add(response.status)
        self.slowest[what] = max(self.slowest.get(what, 0.0), time.monotonic() - began)
        return await response.json()


@pytest.mark.slow
async def test_with_redis_away_for_a_minute_all_is_answered_and_what_runs_goes_on(
    carl: Person, beside: Service, own_redis: OwnRedis, youtube: YouTube
) -> None:
    """For a quarter of it Redis hangs, then it is gone; it comes back empty."""
    youtube.misbehave("*", media_throttle=MEGABYTE // 2)
    visitor = Visitor(carl)
    under_way = [(await ask(carl, youtube.url(f"big{n:03}_0001"), quality="144p"))["id"] for n in (4, 12)]
    for id in under_way:
        await until(carl, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    own_redis.hang()
    await visitor.come(16)
    own_redis.kill()
    await visitor.come(44)
    before = len(await claims(beside))
    assert [(await ended(carl, id, 60))["status"] for id in under_way] == ["completed"] * 2
    await own_redis.start()
    back = time.time()
    youtube.behave()
    await all_completed_the_first_time(carl, beside, under_way + visitor.ids)
    first = (await claims(beside))[before][1] - back
    print(f"\nslowest answers in s: {visitor.slowest}; first claim {first:.2f} s after Redis came back")
    assert visitor.answers == {"submit": {202}, "look": {200}, "list": {200}, "sign in": {200}}
    # The regular look would find what the index has lost minutes later.
    assert before == 2 and first < 30
