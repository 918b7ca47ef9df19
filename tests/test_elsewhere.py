"""What pages of other sites make browsers ask: it is limited and blocks nobody, and who pretends it gains little.

The service trusts loopback as its proxy, so a test says from where a request comes.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Service, running
from ytdl import metrics, offences, ratelimit
from ytdl.api.keys import BLOCKS, OFFENCES
from ytdl.blocks import BlockFilter
from ytdl.config import Config
from ytdl.offences import POINTS

HERE = "198.51.100.7"
OURS, THEIRS = "https://app.example.org", "https://evil.example.net"
# Of an address's requests and sign-ins in a minute, pages elsewhere have as many; one comes back every ten seconds, so
# a busy machine sees one or two more pass.
REQUESTS, SIGN_INS, FEW = 16, 12, 6
PAGE = {"Sec-Fetch-Site": "cross-site"}
LOGIN, PROFILE = "/api/v1/auth/login", "/api/v1/auth/profile"
WRONG = {"json": {"username": "nobody", "password": "wrong"}}
# What a page can have a browser send without asking the service first, and what it gets while there is a limit left.
SENT: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/.env", {"headers": PAGE}, 404),
    ("GET", "/docs", {"headers": PAGE}, 200),
    ("GET", "/api/v1/downloads/events?ticket=x", {"headers": PAGE}, 401),
    ("POST", LOGIN, {"headers": PAGE | {"Content-Type": "text/plain"}, "data": "x"}, 415),
    ("OPTIONS", LOGIN, {"headers": PAGE | {"Origin": THEIRS, "Access-Control-Request-Method": "POST"}}, 405),
    # Where browsers do not come by HTTPS they name the origin only.
    ("POST", LOGIN, {"headers": {"Origin": THEIRS, "Content-Type": "text/plain"}, "data": "x"}, 415),
    ("GET", "/nothing", {"headers": {"Origin": "null", "Upgrade": "websocket", "Connection": "Upgrade"}}, 404),
]
SENT_IDS = ["probe", "page", "ticket", "post", "preflight", "post by HTTP", "socket"]


@pytest.fixture
def config(config: Config) -> Config:
    """A block comes for 20 limits gone over."""
    return dataclasses.replace(
        config,
        max_login_attempts=100,
        trusted_proxies=("127.0.0.1/32",),
        cors_allowed_origins=(OURS,),
        rate_limit_per_minute=1000,
        rate_limit_address_per_minute=REQUESTS,
        rate_limit_login_per_minute=SIGN_INS,
        block_score=20,
    )


@pytest.fixture
async def service(config: Config) -> AsyncIterator[Service]:
    async with running(config) as service:
        yield service


async def statuses(service: Service, times: int, method: str, path: str, asked: dict[str, Any]) -> Counter[int]:
    headers = asked.get("headers", {}) | {"X-Forwarded-For": HERE}

    async def once() -> int:
        async with service.client.request(method, path, **asked | {"headers": headers}) as answer:
            return answer.status

    return Counter(await asyncio.gather(*(once() for _ in range(times))))


def noted() -> dict[offences.Sort, float]:
    return {sort: metrics.blocks_offences.labels(sort)._value.get() for sort in POINTS}


async def blocked_for(service: Service) -> list[str]:
    """Reasons of the blocks there are, once all that was noted is added up."""
    held = service.app[OFFENCES]
    async with asyncio.timeout(30):
        while held._waiting or held._due or held._busy.locked():  # noqa: ASYNC110 - it only empties
            await asyncio.sleep(0.01)
    return [block.reason for block in (await service.app[BLOCKS].page(BlockFilter())).items]


@pytest.mark.parametrize(("method", "path", "asked", "status"), SENT, ids=SENT_IDS)
async def test_what_a_page_makes_browsers_ask_is_limited_and_blocks_nobody(
    service: Service, method: str, path: str, asked: dict[str, Any], status: int
) -> None:
    before = noted()
    found = await statuses(service, 40, method, path, asked)
    assert set(found) == {status, 429}
    assert FEW <= found[status] <= FEW + 2
    assert noted() == before
    assert await blocked_for(service) == []


async def test_a_page_leaves_its_visitors_their_requests_and_sign_ins(service: Service) -> None:
    text = {"headers": PAGE | {"Content-Type": "text/plain"}, "data": "x"}
    assert (await statuses(service, 40, "POST", LOGIN, text))[429] > 20
    assert await statuses(service, 3, "POST", LOGIN, WRONG) == {401: 3}
    assert await statuses(service, 5, "GET", "/docs", {}) == {200: 5}


async def test_who_pretends_to_be_a_page_is_answered_no_more_than_a_page_whatever_is_asked(service: Service) -> None:
    found = [await statuses(service, 10, method, path, asked) for method, path, asked, _ in SENT]
    assert FEW <= 10 * len(SENT) - sum(each[429] for each in found) <= 2 * FEW


async def test_who_pretends_to_be_a_page_is_blocked_for_guessing_like_anybody(service: Service) -> None:
    """No page can send a body that is JSON, or a token, without asking first."""
    assert (await statuses(service, FEW, "POST", LOGIN, WRONG | {"headers": PAGE}))[401] >= 5
    assert await blocked_for(service) == ["login"]


async def test_who_is_known_is_no_pages_visitor(service: Service) -> None:
    async with service.person("alice") as alice:
        known = {"headers": PAGE | {"Authorization": f"Bearer {alice.token}"}}
        assert (await statuses(service, 40, "GET", PROFILE, known))[200] >= REQUESTS
        assert await blocked_for(service) == ["limit"]


async def test_a_listed_sites_page_is_limited_and_scored_like_the_own(service: Service) -> None:
    listed = {"headers": PAGE | {"Origin": OURS}}
    assert (await statuses(service, 40, "GET", "/docs", listed))[200] >= REQUESTS
    assert await blocked_for(service) == ["limit"]


@pytest.mark.parametrize("own", ["same-origin", "same-site", "none"])
async def test_what_a_browser_says_of_the_site_is_believed_before_the_origin(service: Service, own: str) -> None:
    """Behind a proxy that changes the host, the own page's origin looks like another's."""
    asked = {"headers": {"Sec-Fetch-Site": own, "Origin": "https://ytdl.example.com"}}
    assert await statuses(service, REQUESTS, "GET", "/docs", asked) == {200: REQUESTS}


async def test_pages_have_half_of_the_smallest_limit_at_most() -> None:
    def of_pages(**limits: int) -> int:
        return ratelimit.policies_of(Config(**limits))["elsewhere"].limit  # type: ignore[arg-type]

    assert of_pages() == 30
    assert of_pages(rate_limit_login_per_minute=10) == 5
    assert of_pages(rate_limit_address_per_minute=8) == 4
    assert of_pages(rate_limit_per_minute=1) == 1
