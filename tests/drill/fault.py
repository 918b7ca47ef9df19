"""What a fault is: something that is broken, how, and which alert must say so. The faults are in `faults`.

A fault is a context: entering it breaks something, leaving it mends it. It may go on doing harm in between.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from redis.exceptions import RedisError

from tests.drill.ground import Ground
from tests.drill.people import FAILURES, Admin, repeat

Breaking = Callable[[Ground, Admin], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`labels` tell the alert from others of its name; what is broken `apart` would end other alerts too early.
    The alerts in `also` must fire as well before anything is mended. Channels in `silent` may say nothing, because what
    is broken is on their way.
    """

    name: str
    what: str
    alert: str
    breaking: Breaking
    labels: dict[str, str] = field(default_factory=dict)
    apart: bool = False
    also: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def alerts(self) -> set[str]:
        return {self.alert, *self.also}


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    what: str,
    alert: str,
    *,
    apart: bool = False,
    also: tuple[str, ...] = (),
    silent: tuple[str, ...] = (),
    **labels: str,
) -> Callable[[Callable[[Ground, Admin], AsyncIterator[None]]], None]:
    def keep(breaking: Callable[[Ground, Admin], AsyncIterator[None]]) -> None:
        FAULTS[name] = Fault(name, what, alert, asynccontextmanager(breaking), labels, apart, also, silent)

    return keep


@asynccontextmanager
async def again(work: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Does the harm again and again; that it fails is no news while something is broken."""
    task = asyncio.create_task(repeat(work, seconds, (*FAILURES, RedisError, psycopg.Error)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
