"""How many series there are when all has happened once, and that ten times as many users and downloads make no more.

The service runs as a process of its own, as other tests leave series of theirs behind in this one. What a scrape takes
when all has happened is printed and not judged, as the machine has other things to do: `pytest -rP` shows it.
"""

import asyncio
import itertools
import json
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.conftest import PASSWORD, Person, Service
from tests.following import Download, ended
from tests.instance import Instance, serving, signed_in, standing_in
from tests.test_matrix import MATRIX, Scene
from ytdl import metrics
from ytdl.config import Config

pytestmark = pytest.mark.slow
MOST_SERIES = 2500
SCRAPES = 30
# One ends well; the others cannot be had, each for another reason.
VIDEOS = ("ordinary_01", "private_001", "removed_001", "agelimit_01", "geoblock_01", "live_now_01", "drmmovie_01")
# Each ends the session that asks, or all of them.
LAST = ("POST /api/v1/auth/logout", "POST /api/v1/auth/change-password")
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
# When the gauges had their last round; of three the last two ended, and the last began, since the first was seen.
ROUND = 'ytdl_worker_loop_last_success_timestamp_seconds{loop="sample"} '
_numbers = itertools.count()


class Crowd:
    """The service, the first admin, and people who come."""

    def __init__(self, service: Service, admin: aiohttp.ClientSession, stack: AsyncExitStack) -> None:
        self.service = service
        self._admin = admin
        self._stack = stack

    async def join(self, name: str, role: str = "user") -> Person:
        """A new account, signed in."""
        account = {"username": name, "email": f"{name}@example.org", "password": PASSWORD, "full_name": name}
        async with self.service.client.post("/api/v1/auth/register", json=account) as answer:
            id: str = (await answer.json())["id"]
        if role != "user":
            async with self._admin.put(f"/api/v1/auth/users/{id}", json={"role": role}) as answer:
                assert answer.status == 200
        credentials = {"username": name, "password": PASSWORD}
        async with self.service.client.post("/api/v1/auth/login", json=credentials) as answer:
            tokens = await answer.json()
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        session = await self._stack.enter_async_context(aiohttp.ClientSession(self.service.url, headers=headers))
        return Person(UUID(id), tokens["access_token"], tokens["refresh_token"], session)

    async def series(self) -> set[str]:
        """Of the product, by name and labels, once the gauges have had a round that began after this was asked."""
        lines: list[str] = []
        ends: set[str] = set()
        async with asyncio.timeout(60):
            while len(ends) < 3:
                await asyncio.sleep(0.05)
                async with self.service.client.get("/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                ends |= {line for line in lines if line.startswith(ROUND)}
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@asynccontextmanager
async def crowd_of(instance: Instance) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession(instance.url))
        admin = await stack.enter_async_context(signed_in(instance))
        yield Crowd(Service(instance.url, client, web.Application(), Config()), admin, stack)


async def ask_everything(crowd: Crowd, people: dict[str, Person]) -> None:
    """Every route, by everybody who may be told something else, with what it wants and with nonsense."""
    sessions = {"nobody": crowd.service.client, **{name: person.session for name, person in people.items()}}
    scene = Scene(crowd.service, sessions, people["alice"], people["root"], people["root"])
    for address in sorted(MATRIX, key=LAST.__contains__):
        await asyncio.gather(
            *(_ask_well(scene, address, session) for session in sessions.values()),
            _ask_nonsense(scene, *address.split(" ", 1)),
        )


async def _ask_well(scene: Scene, address: str, session: aiohttp.ClientSession) -> None:
    row, (method, template) = MATRIX[address], address.split(" ", 1)
    path = row.path or template.replace("{id}", await row.id(scene) if row.id else "")
    body = await row.body(scene) if row.body else None
    await _ask(session, method, path, row.headers, json=body)


async def _ask_nonsense(scene: Scene, method: str, template: str) -> None:
    """About what is not there, with a body that nobody wants, with half of one, and in a way that there is not."""
    for id in (str(uuid4()), "x" * 200):
        await _ask(scene.root.session, method, re.sub(r"\{\w+\}", id, template), {}, json={"x": 1})
    path = re.sub(r"\{\w+\}", "1", template)
    await _ask(scene.root.session, method, path, {"Content-Type": "application/json"}, data=b"{")
    await _ask(scene.root.session, "PATCH", path, {})


async def _ask(session: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str], **given: Any) -> None:
    (await session.request(method, path, headers=headers, **given)).close()


async def want(person: Person, videos: Sequence[str], **how: str) -> list[Download]:
    """Downloads that all come to an end, each of which is looked at in every way."""
    ids = []
    for video in videos:
        asked = await person.post("/downloads", {"url": f"https://www.youtube.com/watch?v={video}", **how})
        ids.append((await asked.json())["id"])
    found = [await ended(person, id, 120) for id in ids]
    for id in ids:
        for way in ("logs", "events", "file"):
            (await person.get(f"/downloads/{id}/{way}")).close()
        for part in ("bytes=0-9", "bytes=999999999-", "nonsense"):
            (await person.get(f"/downloads/{id}/file", headers={"Range": part})).close()
    return found


async def fail_to_sign_in(crowd: Crowd) -> None:
    for username, password in (("alice", "Wrong-horse-9"), (f"nobody{next(_numbers)}", PASSWORD), ("", "")):
        body = json.dumps({"username": username, "password": password})
        headers = {"Content-Type": "application/json"}
        await _ask(crowd.service.client, "POST", "/api/v1/auth/login", headers, data=body)
    await _ask(crowd.service.client, "POST", "/api/v1/security/refresh", {}, json={"refresh_token": "r" * 43})


async def live(crowd: Crowd, name: str) -> None:
    """What somebody does who uses the service."""
    person = await crowd.join(name)
    await want(person, VIDEOS, quality="360p")
    for path in ("/auth/profile", "/auth/sessions", "/downloads", "/downloads/events", "/cookies"):
        (await person.session.get(f"/api/v1{path}")).close()


async def test_there_are_few_series_and_more_people_make_no_more(tmp_path: Path) -> None:
    async with standing_in(tmp_path) as youtube:
        settings = youtube.settings | {"METRICS_COLLECTION_INTERVAL": "0.2"}
        async with serving(tmp_path, **settings) as instance, crowd_of(instance) as crowd:
            people = {"alice": await crowd.join("alice"), "root": await crowd.join("root", role="admin")}
            outcomes = await want(people["alice"], VIDEOS)
            assert [found["status"] for found in outcomes] == ["completed"] + ["failed"] * 6
            await fail_to_sign_in(crowd)
            await ask_everything(crowd, people)
            series = await crowd.series()
            assert len(series) < MOST_SERIES
            await asyncio.gather(*(live(crowd, f"user{n}") for n in range(10)))
            await fail_to_sign_in(crowd)
            assert await crowd.series() - series == set()
            await parses(crowd)
            await told(crowd, len(series))


async def parses(crowd: Crowd) -> None:
    """Both forms can be read, and have all that is declared."""
    async with crowd.service.client.get("/metrics", headers=OPEN_METRICS) as answer:
        assert answer.content_type == "application/openmetrics-text"
        read = text_string_to_metric_families(await answer.text())  # type: ignore[no-untyped-call]
        families = {family.name: family.type for family in read}
    for declared in metrics.CATALOGUE:
        assert families[declared.name.removesuffix("_total")] == declared.type
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "python_gc_collections"} <= set(
        families
    )


async def told(crowd: Crowd, series: int) -> None:
    """Prints how many series there are and what a scrape of them takes."""
    took, size = [], 0
    for _ in range(SCRAPES):
        begun = time.perf_counter()
        async with crowd.service.client.get("/metrics", headers=OPEN_METRICS) as answer:
            size = len(await answer.read())
        took.append((time.perf_counter() - begun) * 1000)
    middle, longest = statistics.median(took), max(took)
    print(f"{series} series of {MOST_SERIES}, {size / 1000:.0f} kB as OpenMetrics;", end=" ")
    print(f"of {SCRAPES} scrapes the middle one took {middle:.1f} ms and the longest {longest:.1f} ms.")
