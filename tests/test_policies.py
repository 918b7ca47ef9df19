"""The pages for people: nothing in them runs that is not a file of ours, and the policy they are sent with says so."""

import re
from pathlib import Path

import pytest

from tests.conftest import Person, Service
from ytdl.api.docs import STATIC

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
