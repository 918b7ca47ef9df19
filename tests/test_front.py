"""Whose address counts behind nginx: the client's, and never one that a client claims to have. What nginx writes."""

import dataclasses
import io
import socket
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.conftest import PASSWORD, Person, Service
from tests.front import fronting, needs_nginx
from tests.test_apikeys import recorded
from ytdl.config import Config

pytestmark = needs_nginx
# All of 127.0.0.0/8 is this machine, so a client can be told from nginx, which is 127.0.0.1.
CLIENT, BEFORE = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def config(config: Config) -> Config:
    return dataclasses.replace(config, trusted_proxies=("127.0.0.1/32",))


async def address_of(service: Service, source: str, claims: str, before: str = "") -> str:
    """From where a sign-in of alice came, as the service has it on record."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with fronting([service.url], before) as front, aiohttp.ClientSession(connector=connector) as client:
        body, headers = {"username": "alice", "password": PASSWORD}, {"X-Forwarded-For": claims}
        async with client.post(f"{front.addresses[0]}/api/v1/auth/login", json=body, headers=headers) as answer:
            assert answer.status == 200
    return str((await recorded(service, "authn_login_success"))[-1]["ip"])


async def test_through_nginx_the_address_that_counts_is_the_clients(service: Service, alice: Person) -> None:
    assert await address_of(service, CLIENT, "198.51.100.7") == CLIENT
    assert await address_of(service, CLIENT, "198.51.100.7, 127.0.0.1") == CLIENT


async def test_where_tls_ends_before_nginx_it_is_who_came_there(service: Service, alice: Person) -> None:
    claims = "203.0.113.9, 198.51.100.7"
    assert await address_of(service, BEFORE, claims, before=BEFORE) == "198.51.100.7"
    # Whoever goes round it is believed nothing.
    assert await address_of(service, CLIENT, claims, before=BEFORE) == CLIENT


async def test_nginx_writes_no_query_string_whatever_fails() -> None:
    """No service answers, a body is too large, and there is no room for one that is not."""
    ticket = "/api/v1/downloads/events?ticket=THE-SECRET-TICKET"
    async with AsyncExitStack() as stack:
        # It is taken, so nobody else comes to listen there, and does not listen.
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        front = await stack.enter_async_context(fronting([f"http://127.0.0.1:{taken.getsockname()[1]}"]))
        client = await stack.enter_async_context(aiohttp.ClientSession(front.addresses[0]))
        front.log.with_name("client_body").rmdir()
        for size, status in ((0, 502), (2**21, 413), (2**19, 500)):
            async with client.post(ticket, data=io.BytesIO(b"x" * size)) as answer:
                assert answer.status == status
        assert "TICKET" not in front.log.read_text()
