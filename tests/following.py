"""Asking for downloads in tests and following them to their end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.conftest import Person

Download = dict[str, Any]
ENDED = {"completed", "failed", "cancelled", "expired"}


async def ask(person: Person, url: str, **options: Any) -> Download:
    """Posts a download and returns the answer, which must be a success."""
    response = await person.post("/downloads", {"url": url, **options})
    body: Download = await response.json()
    assert response.status in (200, 202), body
    return body


async def look(person: Person, id: str) -> Download:
    response = await person.get(f"/downloads/{id}")
    body: Download = await response.json()
    assert response.status == 200, body
    return body


async def until(person: Person, id: str, holds: Callable[[Download], bool], seconds: float = 60.0) -> Download:
    """Polls a download until `holds` says so; fails after `seconds` with what was last seen."""
    deadline = time.monotonic() + seconds
    while True:
        download = await look(person, id)
        if holds(download):
            return download
        assert time.monotonic() < deadline, download
        await asyncio.sleep(0.05)


async def ended(person: Person, id: str, seconds: float = 60.0) -> Download:
    return await until(person, id, lambda d: d["status"] in ENDED, seconds)


async def fetched(person: Person, url: str, **options: Any) -> Download:
    """A download that was asked for and completed."""
    download = await ended(person, (await ask(person, url, **options))["id"])
    assert download["status"] == "completed", download["error"]
    return download


@dataclass(frozen=True)
class Told:
    """One server-sent event."""

    type: str
    data: Any
    id: str


async def told(response: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    """The events of a stream, as an EventSource would see them."""
    async with response:
        fields: dict[str, str] = {}
        async for raw in response.content:
            line = raw.decode().rstrip("\r\n")
            if line:
                name, _, value = line.partition(":")
                fields[name] = fields.get(name, "") + value.removeprefix(" ")
            elif "data" in fields:
                yield Told(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
                fields = {}
            else:
                fields = {}
