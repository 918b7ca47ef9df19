"""What is broken, how, and which alert must say so.

A fault is a context: entering it breaks something, leaving it mends it. It may go on doing harm in between.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from tests.drill.ground import Ground
from tests.drill.people import FAILURES, Admin, addresses

Breaking = Callable[[Ground, Admin], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`labels` tell the alert from others of its name; `channel` is where its message must arrive."""

    name: str
    what: str
    alert: str
    breaking: Breaking
    labels: dict[str, str] = field(default_factory=dict)


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, what: str, alert: str, **labels: str
) -> Callable[[Callable[[Ground, Admin], AsyncIterator[None]]], None]:
    def keep(breaking: Callable[[Ground, Admin], AsyncIterator[None]]) -> None:
        FAULTS[name] = Fault(name, what, alert, asynccontextmanager(breaking), labels)

    return keep


@asynccontextmanager
async def again(work: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Does the harm again and again; that it fails is no news while something is broken."""

    async def repeat() -> None:
        while True:
            with contextlib.suppress(*FAILURES):
                await work()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@fault("redis-down", "Redis is stopped", "RateLimiterDegraded")
async def _redis_down(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.stop_redis()
    yield
    await ground.start_redis()


@fault("stolen-token", "A refresh token that was spent is presented again", "RefreshTokenReused")
async def _stolen_token(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    spent = token = (await admin.sign_in())["refresh_token"]
    for _ in range(2):
        _, tokens = await admin.ask("POST", "/security/refresh", {"refresh_token": token})
        token = tokens["refresh_token"]
    status, _ = await admin.ask("POST", "/security/refresh", {"refresh_token": spent})
    assert status == 401
    yield


@fault("login-storm", "Passwords are guessed from many addresses", "SignInsFailing")
async def _login_storm(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    wrong = ({"username": f"nobody{n}", "password": "Wrong-horse-9"} for n in range(10**6))
    some = addresses()
    async with again(lambda: admin.ask("POST", "/auth/login", next(wrong), X_Forwarded_For=next(some)), 0.5):
        yield
