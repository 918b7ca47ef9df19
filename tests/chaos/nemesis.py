"""What goes wrong: each fault by name, how often it comes, and when each began.

A fault that lasts runs beside the others; `heal` ends them all. Which comes when follows from the seed, what it meets
does not, as that depends on the machine.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

import aiohttp
import psutil
import psycopg
from redis.exceptions import RedisError

from tests.chaos.causes import Fault
from tests.chaos.fleet import LEASE_SECONDS, Member
from tests.chaos.ground import Ground
from tests.chaos.proxy import Toxics

# What it says when its victim is down already.
DOWN = (OSError, psutil.Error, psycopg.Error, RedisError, aiohttp.ClientError)
ZOMBIE = "stop a service past its lease"
# So often, and so far apart, a zombie looks whether its turn has come.
TURNS, TURN_SECONDS = 100, 0.1


@dataclass
class Nemesis:
    """`faults` met something. Of those tried, the others met nothing, were cut short by the end, or did not come to
    their point: `failed` counts these by kind and error."""

    ground: Ground
    members: list[Member]
    seed: int
    faults: list[Fault] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    cut_short: list[Fault] = field(default_factory=list)
    # What went wrong with the nemesis itself.
    broken: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._running: set[asyncio.Task[None]] = set()
        self._zombies = asyncio.Semaphore(max(1, len(self.members) - 1))

    async def rage(self, seconds: float, per_second: float, kinds: dict[str, int]) -> None:
        """Faults for so long, on average so many a second."""
        deadline = time.monotonic() + seconds
        kinds = {kind: weight for kind, weight in kinds.items() if kind not in self.left_out()}
        cards = dealt(self._dice, kinds)
        self.tried.update(dict.fromkeys(kinds, 0))
        while (left := deadline - time.monotonic()) > 0:
            pause = self._dice.expovariate(per_second)
            await asyncio.sleep(min(pause, left))
            if pause > left:
                return
            self.strike(next(cards))
            if self.broken:
                raise self.broken[0]

    def left_out(self) -> dict[str, str]:
        """Kinds that never come, and why."""
        return {} if self.ground.disk_is_own else {"fill disk": "this machine lets nobody mount a disk to be filled"}

    def strike(self, kind: str) -> None:
        self.tried[kind] += 1
        task = asyncio.create_task(self._do(kind), name=kind)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.broken.append(error)

    async def _do(self, kind: str) -> None:
        """A zombie waits for its turn: one that holds no lease would be none, and somebody has to take what it has."""
        if kind != ZOMBIE:
            await self._meet(kind)
            return
        async with self._zombies:
            await self._until_two_are_up()
            await self._meet(kind)

    async def _until_two_are_up(self) -> None:
        for _ in range(TURNS):
            if len(self._up()) > 1:
                return
            await asyncio.sleep(TURN_SECONDS)

    async def _meet(self, kind: str) -> None:
        """Counted only when it met something. What a fault meets may be down already."""
        fault = Fault(kind, time.time())
        try:
            met = await KINDS[kind](self)
        except DOWN as error:
            self.failed[f"{kind}: {type(error).__name__}"] += 1
            return
        except asyncio.CancelledError:
            fault.ended = time.time()
            self.cut_short.append(fault)
            raise
        if met:
            fault.ended = time.time()
            self.faults.append(fault)

    async def heal(self) -> None:
        """Everything as usual: links, upstream, disk, and nobody stopped."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.broken:
            raise self.broken[0]
        for member in self.members:
            for link in member.links.values():
                link.heal()
            member.signal(signal.SIGCONT)
        if self.ground.memory.pid:
            with contextlib.suppress(ProcessLookupError):
                psutil.Process(self.ground.memory.pid).resume()
        self.ground.free_disk()
        await self.ground.behave()

    def counts(self) -> Counter[str]:
        """Of each kind that was tried, also of those that met nothing."""
        met = Counter(fault.kind for fault in self.faults)
        met.update(dict.fromkeys(self.tried, 0))
        return met

    # processes

    def _up(self) -> list[Member]:
        return [member for member in self.members if member.up]

    def _any(self) -> Member:
        up = [m for m in self.members if m.alive and not m.stopped]
        return self._dice.choice(up or self.members)

    async def kill(self) -> bool:
        return self._any().signal(signal.SIGKILL)

    async def terminate(self) -> bool:
        return self._any().signal(signal.SIGTERM)

    async def zombie(self) -> bool:
        """Stopped for longer than its lease, then alive again and none the wiser. Its children go on meanwhile."""
        up = self._up()
        if len(up) < 2 or not (member := self._dice.choice(up)).signal(signal.SIGSTOP):
            return False
        name = member.name()
        try:
            await asyncio.sleep(LEASE_SECONDS * self._dice.uniform(1.25, 1.55))
        finally:
            woken = name == member.name() and member.signal(signal.SIGCONT)
        return woken

    async def kill_fork_server(self) -> bool:
        server = self._any().fork_server()
        if server:
            server.kill()
        return server is not None

    async def kill_child(self) -> bool:
        child = self._any().job_child()
        if child:
            child.kill()
        return child is not None

    # servers

    async def flush_redis(self) -> bool:
        await self.ground.flush_redis()
        return True

    async def kill_redis(self) -> bool:
        self.ground.kill_redis(empty=False)
        return True

    async def empty_redis(self) -> bool:
        self.ground.kill_redis(empty=True)
        return True

    async def stall_redis(self) -> bool:
        if not self.ground.memory.pid:
            return False
        process = psutil.Process(self.ground.memory.pid)
        process.suspend()
        try:
            await asyncio.sleep(self._dice.uniform(0.5, 4))
        finally:
            with contextlib.suppress(psutil.Error):
                process.resume()
        return True

    async def roll_back_redis(self) -> bool:
        await self.ground.keep_redis()
        await asyncio.sleep(self._dice.uniform(0.5, 5))
        await self.ground.roll_back_redis()
        return True

    async def crash_postgres(self) -> bool:
        self.ground.crash_postgres()
        return True

    async def end_backends(self) -> bool:
        await self.ground.end_backends()
        return True

    # links

    async def _poison(self, names: tuple[str, ...], toxics: Toxics, low: float, high: float) -> bool:
        """One link of one service; only one such fault a link at a time."""
        link = self._any().links[self._dice.choice(names)]
        if link.toxics != Toxics():
            return False
        link.toxics = replace(toxics)
        if toxics.shut:
            link.reset()
        try:
            await asyncio.sleep(self._dice.uniform(low, high))
        finally:
            link.heal()
        return True

    async def delay(self) -> bool:
        return await self._poison(("postgres", "redis", "upstream"), Toxics(latency=0.05, jitter=0.2), 1, 4)

    async def slice(self) -> bool:
        return await self._poison(("postgres", "redis"), Toxics(slice=7), 1, 4)

    async def narrow(self) -> bool:
        return await self._poison(("upstream",), Toxics(rate=60_000), 1, 4)

    async def hole(self) -> bool:
        return await self._poison(("postgres", "redis", "upstream"), Toxics(hole=True), 0.5, 3)

    async def partition(self) -> bool:
        """From PostgreSQL, for longer than the lease; the service itself goes on."""
        return await self._poison(("postgres",), Toxics(shut=True), LEASE_SECONDS * 1.3, LEASE_SECONDS * 2.2)

    async def reset(self) -> bool:
        link = self._any().links[self._dice.choice(("postgres", "redis", "upstream"))]
        return link.reset(chance=0.7) > 0

    # upstream, disk

    async def refuse(self) -> bool:
        """The site fails for a moment: at the player's API, or with the file."""
        place = self._dice.choice(("player_status", "media_status"))
        await self.ground.misbehave(**{place: self._dice.choice((500, 502, 503)), "times": self._dice.randint(1, 4)})
        return True

    async def slow_down(self) -> bool:
        """The site asks for patience; the lane is left alone for a moment."""
        place = self._dice.choice(("player_status", "media_status"))
        await self.ground.misbehave(**{place: 429, "times": 1})
        return True

    async def cut(self) -> bool:
        """A few answers with media break off in the middle."""
        await self.ground.misbehave(media_cut_after=self._dice.randint(1, 150_000), times=self._dice.randint(1, 4))
        return True

    async def fill_disk(self) -> bool:
        self.ground.fill_disk()
        try:
            await asyncio.sleep(self._dice.uniform(0.5, 3))
        finally:
            self.ground.free_disk()
        return True


def dealt(dice: random.Random, kinds: dict[str, int]) -> Iterator[str]:
    """Each kind once, then each as often as it weighs, and so on, every hand in an order of its own: none is left to
    chance, not even in a short run."""
    hands = list(kinds), [kind for kind, weight in kinds.items() for _ in range(weight)]
    while True:
        for hand in hands:
            yield from dice.sample(hand, len(hand))


KINDS: dict[str, Callable[[Nemesis], Awaitable[bool]]] = {
    "kill -9 a service": Nemesis.kill,
    ZOMBIE: Nemesis.zombie,
    "SIGTERM a service": Nemesis.terminate,
    "kill -9 a fork server": Nemesis.kill_fork_server,
    "kill -9 a job's process": Nemesis.kill_child,
    "FLUSHALL": Nemesis.flush_redis,
    "kill -9 Redis": Nemesis.kill_redis,
    "kill -9 Redis, back empty": Nemesis.empty_redis,
    "stall Redis": Nemesis.stall_redis,
    "roll Redis back": Nemesis.roll_back_redis,
    "crash Postgres": Nemesis.crash_postgres,
    "end all backends": Nemesis.end_backends,
    "delay a link": Nemesis.delay,
    "slice a link": Nemesis.slice,
    "narrow a link": Nemesis.narrow,
    "black hole": Nemesis.hole,
    "partition from Postgres": Nemesis.partition,
    "reset connections": Nemesis.reset,
    "upstream refuses": Nemesis.refuse,
    "upstream says 429": Nemesis.slow_down,
    "upstream cuts": Nemesis.cut,
    "fill disk": Nemesis.fill_disk,
}
# How often each comes between two rounds in which each comes once.
MIX = {
    "kill -9 a service": 10, ZOMBIE: 40, "SIGTERM a service": 4, "kill -9 a fork server": 5,
    "kill -9 a job's process": 12, "FLUSHALL": 8, "kill -9 Redis": 3, "kill -9 Redis, back empty": 4, "stall Redis": 4,
    "roll Redis back": 8, "crash Postgres": 4, "end all backends": 5, "delay a link": 6, "slice a link": 4,
    "narrow a link": 2, "black hole": 5, "partition from Postgres": 4, "reset connections": 10, "upstream refuses": 6,
    "upstream says 429": 2, "upstream cuts": 5, "fill disk": 3,
}  # fmt: skip
