"""People who use the service while it is watched: the admin, and somebody who lists and downloads all the time.

They put up with whatever goes wrong; what the service answers is not what is tried here. What was downloaded a while
ago is deleted, as the drill's disk is small.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.drill.ground import PASSWORD, Ground
from tests.drill.inbox import HOOK

ANSWER_SECONDS = 10.0
# Downloads that the visitor keeps, of some 100 kB each.
KEPT = 60


class Refused(Exception):
    """The service does not let the admin in; something is broken."""


# What everybody who uses a broken service must put up with.
FAILURES = (aiohttp.ClientError, TimeoutError, OSError, Refused)


class Admin:
    """The first admin. Tokens are asked for when they are needed."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._videos = itertools.count()
        self.token = ""

    async def sign_in(self) -> dict[str, Any]:
        """A session of its own; its tokens."""
        credentials = {"username": "admin", "password": PASSWORD}
        status, tokens = await self.ask("POST", "/auth/login", credentials)
        if status != 200:
            raise Refused(tokens)
        return dict(tokens)

    async def request(self, method: str, path: str, json: Any = None) -> tuple[int, Any]:
        """Signed in, once more where the token has ended."""
        for _ in range(2):
            if not self.token:
                self.token = (await self.sign_in())["access_token"]
            status, body = await self.ask(method, path, json, Authorization=f"Bearer {self.token}")
            if status != 401:
                break
            self.token = ""
        return status, body

    async def ask(self, method: str, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        """As anybody. A header's name may be written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        timeout = aiohttp.ClientTimeout(ANSWER_SECONDS)
        url = f"{self._ground.url}/api/v1{path}"
        async with self._ground.client.request(method, url, json=json, headers=named, timeout=timeout) as answer:
            body = await answer.json() if answer.content_type.endswith("json") else await answer.text()
            return answer.status, body

    async def tell_everybody(self, wait: float, interval: float) -> None:
        """Sets that each alert goes to each channel at any hour, and the watchdog to the webhook."""
        channels = self._ground.inbox.channels()
        wish = {
            "channels": channels,
            "routes": [{"name": "all", "channels": [channel["name"] for channel in channels]}],
            "quiet_hours": None,
            "pace": {"wait_seconds": round(wait), "interval_seconds": round(interval)},
            "dead_man": {"channel": HOOK, "every_seconds": 10},
        }
        status, found = await self.request("POST", "/monitoring/config/notifications", wish)
        assert status == 200, found

    async def download(self, video: str = "") -> tuple[int, Any]:
        """Asks for a small file that nobody asked for before, or for that video."""
        video = video or f"plain_{next(self._videos):05}"
        wanted = {"url": f"https://www.youtube.com/watch?v={video}", "quality": "360p"}
        return await self.request("POST", "/downloads", wanted)


@asynccontextmanager
async def visited(admin: Admin, list_seconds: float = 0.1, download_seconds: float = 1.0) -> AsyncIterator[None]:
    """Somebody lists downloads and asks for new ones, that far apart, until the end of the block."""
    kept: deque[str] = deque()
    tasks = [
        asyncio.create_task(repeat(lambda: admin.request("GET", "/downloads"), list_seconds)),
        asyncio.create_task(repeat(lambda: _download(admin, kept), download_seconds)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _download(admin: Admin, kept: deque[str]) -> None:
    """One more; beyond `KEPT` the oldest goes. One whose deletion fails is tried again next time."""
    status, made = await admin.download()
    if status == 202:
        kept.append(made["id"])
    if len(kept) > KEPT and (await admin.request("DELETE", f"/downloads/{kept[0]}"))[0] in (204, 404):
        kept.popleft()


async def repeat(
    work: Callable[[], Awaitable[object]], seconds: float, failures: tuple[type[Exception], ...] = FAILURES
) -> None:
    """Does it again and again, so far apart, until it is cancelled; a failure is no news where things break."""
    while True:
        with contextlib.suppress(*failures):
            await work()
        await asyncio.sleep(seconds)


def addresses() -> Iterator[str]:
    """Addresses of documentation networks, each once; as clients behind the trusted proxy they may be blocked."""
    for network, host in itertools.product((2, 51, 113), range(1, 255)):
        yield {2: "192.0.2", 51: "198.51.100", 113: "203.0.113"}[network] + f".{host}"
