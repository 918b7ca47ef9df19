"""Whose address counts behind nginx: the client's, and never one that a client claims to have."""

import dataclasses

import aiohttp
import pytest

from tests.conftest import PASSWORD, Person, Service
from tests.front import NGINX, fronting
from tests.test_apikeys import recorded
from ytdl.config import Config

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
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
