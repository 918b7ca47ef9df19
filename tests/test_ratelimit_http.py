"""Limits as clients meet them: what is counted, the headers of every answer, and the refusal."""

import asyncio
import dataclasses
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.conftest import PASSWORD, Person, Service, running
from tests.redises import OwnRedis
from ytdl import apikeys, gcra, leases, metrics
from ytdl import config as settings
from ytdl.api.http import Route
from ytdl.api.keys import AUTH
from ytdl.config import Config
from ytdl.db import DB
from ytdl.routes import ROUTES
from ytdl.sql import Query

EVENTS = Query("test.events", "many", "", b"SELECT * FROM audit_events WHERE type = 'excess_rate_limit_exceeded'")
# A member of both fields: a string, then integers as parameters (RFC 9651).
MEMBER = r'"[a-z]+"(?:;[a-z]+=\d+)+'
FIELD = re.compile(rf"{MEMBER}(?:, {MEMBER})*")


@asynccontextmanager
async def limited(
    config: Config, *, api: int = 10**6, address: int = 10**6, login: int = 10**6, create: int = 10**6
) -> AsyncIterator[Service]:
    """A service with small limits; what is not named is plenty."""
    small = dataclasses.replace(
        config,
        rate_limit_per_minute=api,
        rate_limit_address_per_minute=address,
        rate_limit_login_per_minute=login,
        rate_limit_create_per_minute=create,
        max_login_attempts=100,
    )
    async with running(small) as service:
        yield service


@pytest.fixture
def refusals_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a busy machine does late is still within the moment after a refusal."""
    monkeypatch.setattr(leases, "LIFE_SECONDS", 60.0)
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 30.0)


@pytest.fixture
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as long: nothing comes back before a busy machine has counted."""
    monkeypatch.setattr(gcra, "WINDOW_SECONDS", 600)
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 30.0)


def fields(response: aiohttp.ClientResponse) -> dict[str, dict[str, int]]:
    """Policies and what is left of each, by name."""
    found: dict[str, dict[str, int]] = {}
    for header in ("RateLimit-Policy", "RateLimit"):
        text = response.headers[header]
        assert FIELD.fullmatch(text), text
        for member in text.split(", "):
            name, *parameters = member.split(";")
            found.setdefault(name.strip('"'), {}).update((p[0], int(p[2:])) for p in parameters)
    return found


async def test_every_counted_answer_says_what_is_left(alice: Person) -> None:
    before, after = [fields(await alice.get("/auth/profile")) for _ in range(2)]
    assert list(after) == ["api", "address"]
    for name, policy in after.items():
        assert policy["w"] == 60
        assert policy["q"] - 20 <= policy["r"] < policy["q"], name
    assert before["api"]["r"] - after["api"]["r"] in (0, 1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/downloads/nothing", 404),
        ("GET", "/downloads?limit=9999", 422),
        ("POST", "/downloads", 400),
        ("GET", "//no/such/address", 404),
        ("PATCH", "/downloads", 405),
        ("GET", "//docs", 200),
        ("HEAD", "/auth/profile", 200),
    ],
)
async def test_errors_and_pages_say_it_too(alice: Person, method: str, path: str, status: int) -> None:
    response = await alice.request(method, path)
    assert response.status == status
    assert fields(response)["address"]["q"] == 5_000_000


async def test_somebody_unknown_is_told_of_the_address(service: Service) -> None:
    async with service.client.get("/api/v1/downloads", headers={"Authorization": "Bearer nonsense"}) as response:
        assert response.status == 401
        assert list(fields(response)) == ["address"]


async def test_probes_and_metrics_are_not_limited(config: Config) -> None:
    async with limited(config, address=1) as service:
        for path in ("/healthz", "/readyz", "/metrics") * 3:
            async with service.client.get(path) as response:
                assert response.status == 200
                assert "RateLimit" not in response.headers


async def test_of_a_thousand_requests_at_once_exactly_the_limit_is_answered(config: Config, long_window: None) -> None:
    """One comes back every two minutes."""
    async with (
        limited(config, api=5) as service,
        service.person("alice") as alice,
    ):
        answers = await asyncio.gather(*(alice.get("/auth/profile") for _ in range(1000)))
    assert Counter(answer.status for answer in answers) == {200: 5, 429: 995}


async def test_a_refusal_says_what_was_exceeded_and_when_to_come_back(config: Config, long_window: None) -> None:
    async with (
        limited(config, api=3) as service,
        service.person("alice") as alice,
    ):
        refused = [await alice.get("/auth/profile") for _ in range(4)][-1]
    problem: dict[str, Any] = await refused.json(content_type=None)
    assert refused.status == problem["status"] == 429
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (problem["code"], problem["violated-policies"]) == ("rate_limited", ["api"])
    seconds = int(refused.headers["Retry-After"])
    assert 170 <= seconds <= 200
    assert fields(refused)["api"] == {"q": 3, "w": 600, "r": 0, "t": seconds}


async def test_after_retry_after_a_request_passes(config: Config) -> None:
    async with (
        limited(config, api=60) as service,
        service.person("alice") as alice,
    ):
        answers = await asyncio.gather(*(alice.get("/auth/profile") for _ in range(80)))
        refused = next(answer for answer in answers if answer.status == 429)
        await asyncio.sleep(int(refused.headers["Retry-After"]))
        assert (await alice.get("/auth/profile")).status == 200


async def test_guessing_of_tokens_is_limited_by_the_address(config: Config, long_window: None) -> None:
    async with limited(config, address=5) as service:
        assert await statuses(service, "GET", "/api/v1/downloads", headers={"Authorization": "Bearer x"}) == {
            401: 5, 429: 3,
        }  # fmt: skip


async def test_guessing_of_tickets_is_limited_by_the_address(config: Config, long_window: None) -> None:
    async with limited(config, address=5) as service:
        assert await statuses(service, "GET", "/api/v1/downloads/events?ticket=x") == {401: 5, 429: 3}


def asked(query: str) -> float:
    """How often this process asked the database that."""
    return float(metrics.db_queries.labels(query)._value.get())


@pytest.mark.parametrize(
    ("query", "path", "credential"),
    [
        ("auth.redeem_ticket", "/api/v1/downloads/events?ticket=x", {}),
        ("apikeys.identify", "/api/v1/downloads", {"Authorization": f"Bearer {apikeys.mint()}"}),
    ],
)
async def test_who_was_refused_a_moment_ago_costs_no_query(
    config: Config, refusals_hold: None, query: str, path: str, credential: dict[str, str]
) -> None:
    async with limited(config, address=5) as service:
        before = asked(query)
        assert await statuses(service, "GET", path, headers=credential) == {401: 5, 429: 3}
        # The first refusal is that of somebody who might still have passed.
        assert asked(query) - before == 6


async def test_a_refused_request_does_not_cost_its_ticket(config: Config, refusals_hold: None) -> None:
    async with limited(config, address=5) as service, service.person("alice") as alice:
        ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
        before = asked("auth.redeem_ticket")
        assert await statuses(service, "GET", "/api/v1/downloads/events?ticket=x") == {401: 4, 429: 4}
        async with service.client.get(f"/api/v1/downloads/events?ticket={ticket}") as response:
            assert (response.status, fields(response)["address"]["r"]) == (429, 0)
        assert asked("auth.redeem_ticket") - before == 5
        assert (await service.app[AUTH].redeem(ticket)).user_id == alice.user_id


async def test_what_was_refused_once_passes_again_when_there_is_more(config: Config) -> None:
    async with limited(config, address=30) as service, service.person("alice") as alice:
        answers = await asyncio.gather(*(alice.get("/auth/profile") for _ in range(60)))
        assert {answer.status for answer in answers} == {200, 429}
        await statuses(service, "GET", "/api/v1/downloads/events?ticket=x")
        await asyncio.sleep(2.1)
        assert (await alice.get("/auth/profile")).status == 200


async def test_looking_for_addresses_is_limited(config: Config, long_window: None) -> None:
    async with limited(config, address=5) as service:
        assert await statuses(service, "GET", "/nothing/here") == {404: 5, 429: 3}


@pytest.mark.parametrize("path", ["/auth/login", "/security/token"])
async def test_guessing_of_passwords_is_limited_by_the_address(config: Config, long_window: None, path: str) -> None:
    async with limited(config, login=5) as service:
        wrong = {"username": "alice", "password": PASSWORD}
        assert await statuses(service, "POST", f"/api/v1{path}", json=wrong) == {401: 5, 429: 3}
        async with service.client.get("/docs") as response:
            assert response.status == 200, "what is no sign-in goes on"


async def test_downloads_are_limited_by_the_user(config: Config, long_window: None) -> None:
    async with (
        limited(config, create=2) as service,
        service.person("alice") as alice,
        service.person("bob") as bob,
    ):
        urls = [f"https://www.youtube.com/watch?v=many_{n:06}" for n in range(3)]
        found = [(await who.post("/downloads", {"url": url})).status for who in (alice, bob) for url in urls]
        assert found == [202, 202, 429, 202, 202, 429]
        assert (await alice.get("/downloads")).status == 200


async def statuses(service: Service, method: str, path: str, **kwargs: Any) -> Counter[int]:
    """Of eight requests, one after the other."""
    found: Counter[int] = Counter()
    for _ in range(8):
        async with service.client.request(method, path, **kwargs) as response:
            found[response.status] += 1
    return found


async def test_the_own_state_is_there_to_see(config: Config, long_window: None) -> None:
    async with limited(config, api=12, address=15, create=6, login=6) as service, service.person("alice") as alice:
        await alice.post("/downloads", {"url": "https://www.youtube.com/watch?v=many_000001"})
        response = await alice.get("/security/rate-limit/api")
        state = await response.json()
        assert state["remaining"] == fields(response)["api"]["r"] == 10
        assert 50 < state.pop("reset_seconds") <= 100
        assert state == {"policy": "api", "limit": 12, "remaining": 10}
        for name, limit, left in (("create", 6, 5), ("login", 6, 6), ("address", 15, 10)):
            state = await (await alice.get(f"/security/rate-limit/{name}")).json()
            assert (state["limit"], state["remaining"]) == (limit, left), name


@pytest.mark.parametrize("name", ["nothing", "keys", "url", "API"])
async def test_a_policy_that_counts_nobody_like_you_is_not_there(alice: Person, name: str) -> None:
    assert (await alice.get(f"/security/rate-limit/{name}")).status == 404


async def test_a_limit_gone_over_is_on_record_once(config: Config, db: DB) -> None:
    async with (
        limited(config, api=3) as service,
        service.person("alice") as alice,
    ):
        for _ in range(30):
            await alice.get("/auth/profile")
    # The end of the service waits for what is being written.
    [event] = await db.many(EVENTS)
    assert (event["user_id"], event["object_id"], str(event["ip"])) == (alice.user_id, "api", "127.0.0.1")


async def test_without_redis_the_limit_holds_and_it_is_seen(config: Config, own_redis: OwnRedis) -> None:
    small = dataclasses.replace(config, redis_url=own_redis.url)
    async with (
        limited(small, api=5) as service,
        service.person("alice") as alice,
    ):
        own_redis.hang()
        answers = await asyncio.gather(*(alice.get("/auth/profile") for _ in range(50)))
        assert Counter(answer.status for answer in answers) == {200: 5, 429: 45}
        assert "ytdl_ratelimit_degraded 1.0" in await (await alice.get("//metrics")).text()


def _id(row: Route) -> str:
    return f"{row.method} {row.path}"


def test_only_probes_and_metrics_are_not_limited() -> None:
    assert [row.path for row in ROUTES if row.limit is None] == ["/healthz", "/readyz", "/metrics"]


def test_whatever_takes_a_password_or_a_refresh_token_counts_as_signing_in() -> None:
    taking = [row for row in ROUTES if row.body and {"password", "refresh_token", "current_password"} & _names(row)]
    assert len(taking) >= 5
    assert [_id(row) for row in taking if row.limit != "login" and row.role != "admin"] == []


def _names(row: Route) -> set[str]:
    return set(getattr(row.body, "__struct_fields__", ()))


def test_the_limits_are_settings() -> None:
    loaded = settings.load({"RATE_LIMIT_PER_MINUTE": "100000", "RATE_LIMIT_LOGIN_PER_MINUTE": "7"})
    assert (loaded.rate_limit_per_minute, loaded.rate_limit_login_per_minute) == (100_000, 7)
    with pytest.raises(settings.ConfigError):
        settings.load({"RATE_LIMIT_PER_MINUTE": "0"})
    assert gcra.policy("p", settings.MOST).interval == 1


async def test_the_document_tells_of_the_headers(service: Service) -> None:
    async with service.client.get("/openapi.json") as response:
        document = await response.json()
    for path, counted in (("/api/v1/downloads", True), ("/docs", True), ("/metrics", False)):
        answers = document["paths"][path]["get"]["responses"]
        assert ("429" in answers) == ("RateLimit" in answers["200"].get("headers", {})) == counted
