"""What is bounded or closed by a fixed policy: what runs in pages, what a socket takes, how many streams are open."""

import asyncio
import dataclasses
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import Person, Service, running
from ytdl.api.docs import STATIC
from ytdl.api.keys import EVENTS
from ytdl.config import Config

PAGES = sorted(path.name for path in STATIC.glob("*.html"))
ADDRESSES = ("/", "/docs", "/api/docs", "/redoc")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_script_or_style_of_its_own_and_nothing_from_elsewhere(name: str) -> None:
    text = Path(STATIC / name).read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", text, re.IGNORECASE)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_the_policy_allows_scripts_from_here_only(service: Service, address: str) -> None:
    async with service.client.get(address) as answer:
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy.get("script-src", "'self'") == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_a_socket_takes_no_message_that_unpacks_to_more_than_its_limit(alice: Person) -> None:
    async with alice.session.ws_connect("/api/v1/ws", compress=15) as socket:
        await socket.receive_json()
        await socket.send_str("a" * 2**20)
        assert (await socket.receive()).type.name in ("CLOSE", "CLOSED")
        assert socket.close_code == 1009


async def readers(service: Service, person: Person, expected: int) -> None:
    async with asyncio.timeout(20):
        while service.app[EVENTS].open_streams(person.user_id) != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_user_has_so_many_streams_and_no_more(config: Config) -> None:
    async with running(dataclasses.replace(config, streams_per_user=2)) as service, AsyncExitStack() as stack:
        ann, ben = [await stack.enter_async_context(service.person(name)) for name in ("ann", "ben")]
        held = [await ann.get("/downloads/events")]
        socket = await stack.enter_async_context(ann.session.ws_connect("/api/v1/ws"))
        await readers(service, ann, 2)
        refused = await ann.get("/downloads/events")
        assert (refused.status, (await refused.json())["violated-policies"]) == (429, ["streams"])
        held.append(await ben.get("/downloads/events"))
        await socket.close()
        await readers(service, ann, 1)
        held.append(await ann.get("/downloads/events"))
        assert [answer.status for answer in held] == [200, 200, 200]
        for answer in held:
            answer.close()
