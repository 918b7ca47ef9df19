"""Where Alertmanager's messages arrive: a webhook receiver that keeps what came and when, and can refuse to.

One address a channel: `/pager` for all messages, `/deadman` for the watchdog. Times are of `time.monotonic`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True)
class Message:
    """What one message says of one alert."""

    at: float
    channel: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def alert(self) -> str:
        return self.labels["alertname"]


@dataclass
class Inbox:
    url: str
    messages: list[Message] = field(default_factory=list)
    refusing: set[str] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        channel = request.match_info["channel"]
        if channel in self.refusing:
            return web.Response(status=500)
        body: dict[str, Any] = await request.json()
        now = time.monotonic()
        for one in body["alerts"]:
            self.messages.append(Message(now, channel, one["status"], one["labels"], one["annotations"]))
        async with self._arrived:
            self._arrived.notify_all()
        return web.Response()

    def found(self, wanted: Callable[[Message], bool]) -> Message | None:
        return next(filter(wanted, self.messages), None)

    async def arrival(self, wanted: Callable[[Message], bool], seconds: float) -> Message | None:
        """The first such message, also one that is there already; None when none came in time."""
        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(lambda: self.found(wanted))
        except TimeoutError:
            return None
        return self.found(wanted)


@asynccontextmanager
async def listening() -> AsyncIterator[Inbox]:
    inbox = Inbox("")
    app = web.Application()
    app.router.add_post("/{channel}", inbox.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        inbox.url = f"http://{host}:{port}"
        yield inbox
    finally:
        await runner.cleanup()


async def alive(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        async with aiohttp.ClientSession() as client, client.get(url):
            return True
    except aiohttp.ClientError:
        return False
