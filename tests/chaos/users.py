"""Users who ask for downloads, cancel some, try failed ones again and fetch files, over HTTP, at whichever service.

They write down what they were told. A user whose answer was lost asks another service again under the same
Idempotency-Key, or gives up and never learns of it.
"""

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import psycopg

from tests.chaos.fleet import Member
from tests.chaos.ground import Ground
from tests.chaos.ledger import Asking, Ledger, Wish
from ytdl import db as database
from ytdl import users
from ytdl.crypto import Hasher

PASSWORD = "Correct-horse-9"
ANSWER_SECONDS = 15.0
VIDEOS_A_USER = 4000
REFUSED = ("private_001", "removed_001", "members_001", "geoblock_01", "drmmovie_01")
QUALITIES = ("best", "1080p", "720p", "480p", "360p", "240p", "144p", "worst")
FORMATS = ("mp4", "webm", "mkv", "m4a", "mp3")


@dataclass(frozen=True)
class Habits:
    """Shares of all askings; the rest are plain videos that need no ffmpeg."""

    merged: float = 0.06
    long: float = 0.04
    refused: float = 0.02
    cancels: float = 0.05
    fetches: float = 0.10
    keys: float = 0.6


class Person:
    """One account, signed in everywhere, for the services share the key."""

    def __init__(self, number: int, client: aiohttp.ClientSession, ledger: Ledger, habits: Habits, seed: int) -> None:
        self.number = number
        self.name = f"user{number:02}"
        self.id = ""
        self._client, self._ledger, self._habits = client, ledger, habits
        self._dice = random.Random(f"{seed}/{number}")
        self._wishes = self._wanting()
        self._headers: dict[str, str] = {}

    async def sign_in(self, url: str) -> None:
        credentials = {"username": self.name, "password": PASSWORD}
        async with self._client.post(f"{url}/api/v1/auth/login", json=credentials, raise_for_status=True) as answer:
            self._headers = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}

    def _wanting(self) -> Iterator[Wish]:
        """Never the same twice."""
        refused = iter(self._dice.sample([*itertools.product(REFUSED, QUALITIES, FORMATS)], 200))
        for n in itertools.count():
            dice = self._dice.random()
            if dice < self._habits.merged:
                yield Wish(self.name, f"many_{self.number * VIDEOS_A_USER + n:06}", "144p", "mp4")
            elif dice < self._habits.merged + self._habits.long:
                yield Wish(self.name, f"big002_{n:04}", "360p", "mp4")
            elif dice < self._habits.merged + self._habits.long + self._habits.refused:
                yield from (Wish(self.name, *rest) for rest in itertools.islice(refused, 1))
            else:
                yield Wish(self.name, f"plain_{self.number * VIDEOS_A_USER + n:05}", "360p", "mp4")

    # one visit

    async def visit(self, url: Callable[[], str]) -> None:
        asking = self._ledger.ask(next(self._wishes))
        await self.ask(asking, url)
        if asking.outcome != "accepted":
            return
        id = next(iter(asking.ids))
        if self._dice.random() < self._habits.cancels:
            await asyncio.sleep(self._dice.uniform(0, 2))
            # Until there is an answer it may have been carried out.
            asking.cancel = 0
            asking.cancel, _ = await self._request("POST", f"{url()}/api/v1/downloads/{id}/cancel")
            if self._dice.random() < 0.5:
                asking.retry = 0
                asking.retry, _ = await self._request("POST", f"{url()}/api/v1/downloads/{id}/retry")
        elif self._dice.random() < self._habits.fetches:
            await self.fetch_when_done(id, url)

    async def ask(self, asking: Asking, url: Callable[[], str]) -> None:
        """Asks until there is an answer, where the user has a key; else once."""
        keyed = self._dice.random() < self._habits.keys
        headers = {"Idempotency-Key": str(uuid4())} if keyed else {}
        for go in range(4 if keyed else 1):
            status, body = await self._request("POST", f"{url()}/api/v1/downloads", json=asking.wish.body(), **headers)
            if status in (200, 202):
                asking.outcome = "accepted"
                asking.ids.add(body["id"])
                return
            # Like a 503, what is said to somebody who asks again may come after a commit whose answer was lost.
            if 400 <= status < 500:
                asking.outcome = "unknown" if go else "refused"
                return
            await asyncio.sleep(self._dice.uniform(0.1, 0.5))

    async def fetch_when_done(self, id: str, url: Callable[[], str], looks: int = 20) -> None:
        for _ in range(looks):
            status, body = await self._request("GET", f"{url()}/api/v1/downloads/{id}")
            if status == 200 and body["status"] == "completed":
                await self._fetch(id, f"{url()}/api/v1/downloads/{id}/file")
                return
            if status == 200 and body["status"] in ("failed", "cancelled"):
                return
            await asyncio.sleep(1)

    async def _fetch(self, id: str, url: str) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            async with self._client.get(url, headers=self._headers, timeout=limit) as answer:
                if answer.status == 200:
                    self._ledger.fetched.append((id, hashlib.sha256(await answer.read()).hexdigest()))

    async def _request(self, method: str, url: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body; 0 where no answer came."""
        try:
            limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            async with self._client.request(
                method, url, json=json, headers=self._headers | headers, timeout=limit
            ) as answer:
                self._ledger.answers[answer.status] += 1
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self._ledger.answers[0] += 1
            return 0, None


class Crowd:
    """All users, who come back as long as less waits in the queue than `patience`."""

    def __init__(self, ground: Ground, members: Sequence[Member], people: Sequence[Person], *, patience: int) -> None:
        self._ground, self._members, self.people = ground, members, people
        self._patience = patience
        self.open = 0
        self._tasks: list[asyncio.Task[None]] = []

    def anywhere(self) -> str:
        """A balancer in front would not send anybody to a service that is down."""
        up = [m for m in self._members if m.alive and not m.stopped] or self._members
        return random.choice(up).url

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._come_back(person)) for person in self.people]
        self._tasks.append(asyncio.create_task(self._count()))

    async def stop(self) -> None:
        """Raises what made a user fall silent: a fault of the harness, for the product's are written down."""
        for task in self._tasks:
            task.cancel()
        for error in await asyncio.gather(*self._tasks, return_exceptions=True):
            if error and not isinstance(error, asyncio.CancelledError):
                raise error

    async def _come_back(self, person: Person) -> None:
        await asyncio.sleep(random.uniform(0, 0.5))
        while True:
            if self.open < self._patience:
                await person.visit(self.anywhere)
            await asyncio.sleep(random.uniform(0.05, 0.4))

    async def _count(self) -> None:
        while True:
            with contextlib.suppress(psycopg.Error):
                self.open = await count_open(self._ground)
            await asyncio.sleep(0.5)


async def count_open(ground: Ground) -> int:
    async with ground.database() as db:
        found = await db.execute("SELECT count(*) AS open FROM jobs WHERE finished_at IS NULL")
        row = await found.fetchone()
    assert row
    return int(row["open"])


async def invited(ground: Ground, url: str, count: int, ledger: Ledger, habits: Habits, seed: int) -> list[Person]:
    """Accounts whose passwords cost little to check, signed in."""
    people = [Person(n, ground.client, ledger, habits, seed) for n in range(count)]
    db = database.DB(ground.postgres.url, size=2)
    await db.open()
    try:
        for person in people:
            made = await users.create(
                db, Hasher(cost=4), username=person.name, email=f"{person.name}@example.org", password=PASSWORD,
                full_name=person.name.title(),
            )  # fmt: skip
            person.id = str(made.id)
            await person.sign_in(url)
    finally:
        await db.close()
    return people
