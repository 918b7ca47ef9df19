"""Short plays in which one thing goes wrong at the one moment that matters, and the check after them."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos import history
from tests.chaos.checker import BEAT_SECONDS, ENDS, Violation, check
from tests.chaos.fleet import LEASE_SECONDS, Member, gathered
from tests.chaos.ground import Ground, read_json_lines
from tests.chaos.ledger import Ledger, Wish
from tests.chaos.run import drain
from tests.chaos.users import Habits, Person, invited
from tests.chaos.wire import Said

SLOTS = 2
PATIENCE_SECONDS = 30.0
INDEX_SECONDS = 6.0


class OutOfTune(Exception):
    """The play did not come to its point; nothing can be said of the product."""


@dataclass
class Scene:
    ground: Ground
    members: list[Member]
    person: Person
    ledger: Ledger
    said: list[Said]
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(90_000))

    async def ask(self, *, rate: int = 0, delay: float = 0.0) -> int:
        """A download whose film comes at that rate, after the site took so long to answer; its job."""
        video = f"plain_{next(self.numbers):05}"
        if rate:
            await self.ground.misbehave(video=video, media_throttle=rate)
        if delay:
            await self.ground.misbehave(video=video, player_delay=delay)
        asking = self.ledger.ask(Wish(self.person.name, video, "360p", "mp4"))
        await self.person.ask(asking, lambda: self.members[0].url)
        async with self.ground.database() as db:
            found = await db.execute("SELECT job_id FROM downloads WHERE id = %s", (next(iter(asking.ids)),))
            row = await found.fetchone()
        assert row
        return int(row["job_id"])

    async def events(self, job: int) -> list[str]:
        """The job's history so far, as `claim(1)`."""
        async with self.ground.database() as db:
            found = await db.execute("SELECT event, fence FROM job_events WHERE job_id = %s ORDER BY seq", (job,))
            return [f"{row['event']}({row['fence']})" for row in await found.fetchall()]

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await holds():
            if time.monotonic() > deadline:
                raise OutOfTune(f"it never came to: {what}")
            await asyncio.sleep(0.05)

    async def until_event(self, job: int, event: str) -> None:
        async def holds() -> bool:
            return event in await self.events(job)

        try:
            await self.until(f"{event} of job {job}", holds)
        except OutOfTune as error:
            raise OutOfTune(f"{error}; its history is {await self.events(job)}") from None

    async def holder(self) -> Member:
        """The service whose child is at work; only one may be."""
        found: list[Member] = []

        async def holds() -> bool:
            found[:] = [member for member in self.members if member.job_child()]
            return bool(found)

        await self.until("a child at work", holds)
        return found[0]

    async def calm(self) -> None:
        """No child is left of what was before, and the stand-in remembers nothing of it."""

        async def holds() -> bool:
            return not any(member.job_child() for member in self.members)

        await self.until("calm", holds)
        await self.ground.forget()

    async def judge(self) -> list[Violation]:
        """Calm, the end of all jobs, and the rules."""
        await self.ground.behave()
        for member in self.members:
            member.signal(signal.SIGCONT)
            for link in member.links.values():
                link.heal()
        await drain(self.ground, lambda _: None, PATIENCE_SECONDS, INDEX_SECONDS)
        h = await history.gathered(self.ground, self.ledger, self.said)
        await history.sweep(self.ground, h)
        return check(h)


@asynccontextmanager
async def staged(ground: Ground) -> AsyncIterator[Scene]:
    ledger, said = Ledger(), list[Said]()
    async with gathered(ground, 2, said, {"DOWNLOAD_CONCURRENCY": str(SLOTS)}) as members:
        people = await invited(ground, members[0].url, 1, ledger, Habits(keys=0), seed=1)
        yield Scene(ground, members, people[0], ledger, said)


async def finish_while_cut_off(scene: Scene) -> None:
    """A service cannot reach PostgreSQL while its child finishes. The job goes to the other one, which is at work on it
    when the first one can say at last that it is done."""
    job = await scene.ask(rate=80_000)
    holder = await scene.holder()
    await scene.until("bytes of the film", scene.ground.media_asked_for)
    holder.postgres.shut()
    await scene.ground.misbehave(player_delay=12.0)

    async def finished() -> bool:
        return holder.job_child() is None

    await scene.until("the end of the child", finished)
    await scene.until_event(job, "claim(2)")
    holder.postgres.heal()

    async def told() -> bool:
        lines = read_json_lines(holder.log)
        return any(line.get("event") == "downloads.finished" and line.get("job") == job for line in lines)

    await scene.until("the word of the first service", told)
    await scene.ground.behave()


async def suggest_what_runs(scene: Scene) -> None:
    """The index goes back to a moment at which a job was still waiting, while that job runs and slots are free."""
    for _ in range(2 * SLOTS):
        await scene.ask(rate=100_000)
    job = await scene.ask(rate=45_000)
    await scene.ground.keep_redis()
    await scene.until_event(job, "claim(1)")

    async def alone() -> bool:
        servers = [member.fork_server() for member in scene.members]
        return sum(len(server.children()) for server in servers if server) == 1

    await scene.until("free slots", alone)
    # Its beats would set the index right again before anybody looks.
    holder = await scene.holder()
    holder.signal(signal.SIGSTOP)
    await scene.ground.roll_back_redis()
    # The other one looks every second; the lease is not over then.
    await asyncio.sleep(LEASE_SECONDS / 2)
    holder.signal(signal.SIGCONT)
    await scene.until("the job's end", lambda: _ended(scene, job))


async def wake_after_the_lease(scene: Scene) -> None:
    """A service is stopped until another one has its job, and goes on."""
    job = await scene.ask(rate=25_000)
    holder = await scene.holder()
    # Until it has beaten at least once.
    await scene.until("a beat", lambda: _beaten(scene, job))
    holder.signal(signal.SIGSTOP)
    await asyncio.gather(scene.ground.behave(), asyncio.sleep(BEAT_SECONDS + 1))
    await scene.until_event(job, "claim(2)")
    holder.signal(signal.SIGCONT)
    # Its next beat is due by now, and on a busy machine late.
    await asyncio.sleep(LEASE_SECONDS / 3 + 2)


async def _beaten(scene: Scene, job: int) -> bool:
    return any(said.kind == "named" and job in said.jobs for said in scene.said)


async def _ended(scene: Scene, job: int) -> bool:
    return bool(ENDS & {event.partition("(")[0] for event in await scene.events(job)})
