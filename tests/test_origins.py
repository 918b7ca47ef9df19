"""What pages of other sites may do: nothing unless they are listed, and what is listed is a site, never a star."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import Person, Service, running
from ytdl import config as settings
from ytdl.api.keys import BLOCKS, OFFENCES
from ytdl.config import Config

OURS, THEIRS = "https://app.example.org", "https://evil.example.net"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture
def config(config: Config) -> Config:
    return dataclasses.replace(config, cors_allowed_origins=(OURS,), public_url="https://ytdl.example.org")


@pytest.fixture
async def service(config: Config) -> AsyncIterator[Service]:
    async with running(config) as service:
        yield service


async def test_a_listed_sites_page_may_ask_and_read(service: Service, alice: Person) -> None:
    async with service.client.options("/api/v1/downloads", headers=ASKS | {"Origin": OURS}) as asked:
        assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (204, OURS)
        assert {"POST", "DELETE"} <= set(asked.headers["Access-Control-Allow-Methods"].split(", "))
    answer = await alice.get("/downloads", headers={"Origin": OURS})
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", [THEIRS, "null", "*", OURS.upper(), f"{OURS}.evil.net", f"{OURS}:8443", ""])
async def test_another_sites_page_is_told_nothing(service: Service, alice: Person, origin: str) -> None:
    async with service.client.options("/api/v1/downloads", headers=ASKS | {"Origin": origin}) as asked:
        assert asked.status == 405
        assert not any(name.startswith("Access-Control") for name in asked.headers)
    answer = await alice.get("/downloads", headers={"Origin": origin})
    assert not any(name.startswith("Access-Control") for name in answer.headers)


async def test_a_browser_that_asks_first_is_counted_and_refused_like_any_other(config: Config) -> None:
    limited = dataclasses.replace(config, rate_limit_address_per_minute=5, trusted_proxies=("127.0.0.1/32",))
    async with running(limited) as service:

        async def asked(address: str) -> int:
            headers = ASKS | {"Origin": OURS, "X-Forwarded-For": address}
            async with service.client.options("/api/v1/downloads", headers=headers) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == OURS
                return answer.status

        assert [await asked("198.51.100.7") for _ in range(6)] == [204] * 5 + [429]
        for _ in range(10):
            service.app[OFFENCES].note("198.51.100.8", "scan")
        async with asyncio.timeout(30):
            while not service.app[BLOCKS].list.seconds_left("198.51.100.8"):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert await asked("198.51.100.8") == 403


async def test_answers_say_that_they_depend_on_the_origin_and_need_no_cookies(service: Service, alice: Person) -> None:
    answer = await alice.get("/downloads", headers={"Origin": OURS})
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_errors_can_be_read_by_a_listed_sites_page(service: Service) -> None:
    async with service.client.get("/api/v1/downloads", headers={"Origin": OURS}) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, OURS)


async def test_a_socket_is_opened_for_a_script_the_own_page_and_a_listed_one(alice: Person) -> None:
    host = str(alice.session._base_url).rstrip("/")
    for headers in ({}, {"Origin": OURS}, {"Origin": host}, {"Origin": "https://ytdl.example.org"}):
        async with alice.session.ws_connect("/api/v1/ws", headers=headers) as socket:
            assert (await socket.receive_json())["type"] == "snapshot"


@pytest.mark.parametrize("origin", [THEIRS, "null", "file://", "https://ytdl.example.org.evil.net", "http://[", ""])
async def test_a_socket_is_not_opened_for_another_sites_page(alice: Person, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await alice.session.ws_connect("/api/v1/ws", headers={"Origin": origin})
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "listed", ["*", "https://a.example/path", "https://a.example/", "a.example", "null", "HTTPS://A"]
)
def test_what_is_no_origin_is_not_listed(listed: str) -> None:
    with pytest.raises(settings.ConfigError, match="CORS_ALLOWED_ORIGINS"):
        settings.load({"CORS_ALLOWED_ORIGINS": listed})


async def test_browsers_are_told_to_come_by_https_where_that_is_how_they_come(service: Service, config: Config) -> None:
    async with service.client.get("/healthz") as answer:
        assert "max-age=63072000" in answer.headers["Strict-Transport-Security"]
    async with (
        running(dataclasses.replace(config, public_url="", redis_prefix="plain")) as plain,
        plain.client.get("/healthz") as answer,
    ):
        assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Origin": OURS}, 401), ({"Origin": THEIRS}, 403)])
async def test_a_form_is_not_taken_from_another_sites_page(
    service: Service, headers: dict[str, str], status: int
) -> None:
    """A browser posts a form for any page; with it a page could have its visitors sign in wrongly."""
    form = {"grant_type": "password", "username": "nobody", "password": "Wrong-guess-9"}
    async with service.client.post("/api/v1/security/token", data=form, headers=headers) as answer:
        assert answer.status == status
