"""Offences, and that those who are blocked for them are refused, everywhere and at once.

The services here trust loopback as their proxy, so a test says from where a request comes.
"""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import WSMsgType

from tests.conftest import Person, Service, running
from tests.fakes.gate import Gate
from tests.redises import OwnRedis
from tests.signing_in import change
from ytdl import blocklist, blocks, metrics, offences, scores
from ytdl.api.keys import BLOCKS, DB, EVENTS, KV, OFFENCES
from ytdl.blocks import Block, BlockFilter
from ytdl.config import Config
from ytdl.errors import Offence
from ytdl.offences import POINTS
from ytdl.scores import Gain
from ytdl.sql import Query

HERE, THERE = "198.51.100.7", "198.51.100.8"
TYPES = Query("test.types", "many", "", b"SELECT type, host(ip) AS ip FROM audit_events WHERE object_kind = 'block'")


@pytest.fixture
def config(config: Config) -> Config:
    return dataclasses.replace(config, trusted_proxies=("127.0.0.1/32", "198.51.100.200/32"))


def coming(address: str, **more: str) -> dict[str, Any]:
    return {"headers": {"X-Forwarded-For": address, **more}}


async def status(service: Service, path: str, address: str = HERE, method: str = "GET", **more: str) -> int:
    async with service.client.request(method, path, **coming(address, **more)) as answer:
        return answer.status


async def wrong_login(service: Service, n: int, address: str = HERE) -> int:
    body = {"username": f"nobody{n}", "password": "wrong"}
    async with service.client.post("/api/v1/auth/login", json=body, **coming(address)) as answer:
        return answer.status


async def comes(holds: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Fails when it took longer than it may. What is promised within a second gets ten, as machines that test stand
    still now and then: nothing else would bring it about later."""
    begun = time.monotonic()
    while not await holds():
        assert time.monotonic() - begun < seconds, "it did not come to that in time"
        await asyncio.sleep(0.01)


async def refused(service: Service, address: str = HERE) -> bool:
    return await status(service, "/healthz", address) == 403


async def made(service: Service) -> list[Block]:
    return (await service.app[BLOCKS].page(BlockFilter())).items


async def add_up(service: Service) -> None:
    """Until what was noted is scored, and a block made if it comes to one."""
    held = service.app[OFFENCES]
    while held._waiting or held._due or held._busy.locked():  # noqa: ASYNC110 - it only empties
        await asyncio.sleep(0.01)


def noted() -> dict[offences.Sort, float]:
    """How often each offence came, as this process counted it."""
    return {sort: metrics.blocks_offences.labels(sort)._value.get() for sort in POINTS}


async def misbehave(service: Service, sort: offences.Sort, times: int, address: str = HERE) -> list[Block]:
    for _ in range(times):
        service.app[OFFENCES].note(address, sort)
    await add_up(service)
    return await made(service)


async def blocking(service: Service, address: str = HERE) -> Block:
    """A block for offences."""
    [block] = await misbehave(service, "scan", 5, address)
    await comes(lambda: refused(service, address))
    return block


@asynccontextmanager
async def beside(service: Service, **changes: Any) -> AsyncIterator[Service]:
    """Another process of the same service."""
    async with running(dataclasses.replace(service.config, **changes)) as other:
        yield other


# --- being refused


async def test_who_is_blocked_is_refused_everywhere_and_told_for_how_long(service: Service) -> None:
    await blocking(service)
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/nothing", "/api/v1/downloads"):
        assert await status(service, path) == 403, path
    async with service.client.post("/api/v1/auth/login", data=b"{", **coming(HERE)) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert (answer.status, problem["code"]) == (403, "blocked")
        assert 590 < int(answer.headers["Retry-After"]) <= 600
    assert await status(service, "/healthz", THERE) == 200


async def test_a_token_lets_nobody_in_from_a_blocked_address(service: Service, alice: Person) -> None:
    assert (await alice.get("/auth/profile", **coming(HERE))).status == 200
    await blocking(service)
    assert (await alice.get("/auth/profile", **coming(HERE))).status == 403
    assert (await alice.get("/auth/profile", **coming(THERE))).status == 200


async def test_a_blocked_body_is_not_waited_for(service: Service) -> None:
    """It announces a body that never comes."""
    await blocking(service)
    port = urlsplit(service.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {HERE}\r\nContent-Length: 100000\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(10):
        assert b" 403 " in await reader.readline()
    writer.close()


async def test_a_proxys_connection_stays_open_and_a_blocked_clients_own_does_not(service: Service) -> None:
    await blocking(service)
    async with service.client.get("/healthz", **coming(HERE)) as answer:
        assert (answer.status, answer.headers.get("Connection")) == (403, None)
    service.app[BLOCKS].list._protected.clear()
    await blocking_self(service)
    async with service.client.get("/healthz") as answer:
        assert (answer.status, answer.headers.get("Connection")) == (403, "close")


async def blocking_self(service: Service) -> None:
    await misbehave(service, "scan", 5, "127.0.0.1")
    await comes(lambda: refused(service, "127.0.0.1"))


async def test_refusals_are_counted(service: Service) -> None:
    await blocking(service)
    before = metrics.blocks_refused._value.get()
    await status(service, "/healthz")
    assert metrics.blocks_refused._value.get() == before + 1


# --- what leads to a block


@pytest.fixture
def slow_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What drains while a test waits counts for nothing."""
    monkeypatch.setattr(scores, "DRAIN_SECONDS", 6000.0)


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize(
    ("sort", "times"), [("login", 26), ("reuse", 6), ("forgery", 21), ("limit", 101), ("probe", 51), ("scan", 5)]
)
async def test_an_offence_blocks_when_it_came_often_enough(service: Service, sort: offences.Sort, times: int) -> None:
    assert await misbehave(service, sort, times - 2) == []
    [block] = await misbehave(service, sort, 2)
    assert (block.network, block.kind, block.reason, block.offences) == (HERE, "automatic", sort, {sort: times})
    assert metrics.blocks_created.labels("automatic", sort)._value.get() >= 1


async def test_all_sorts_of_offences_have_points() -> None:
    assert set(POINTS) == {*Offence.__args__, "scan"}  # type: ignore[attr-defined]


async def test_a_hundred_wrong_passwords_at_once_make_one_block(service: Service) -> None:
    answers = await asyncio.gather(*(wrong_login(service, n) for n in range(100)))
    assert set(answers) <= {401, 403, 503} and answers.count(401) >= 25
    await comes(lambda: refused(service))
    await add_up(service)
    [block] = await made(service)
    assert (block.network, block.reason) == (HERE, "login")


async def test_processes_that_come_to_the_same_block_make_one(service: Service) -> None:
    async with beside(service) as other:
        for each in (service, other):
            for _ in range(20):
                each.app[OFFENCES].note(HERE, "scan")
        await asyncio.gather(add_up(service), add_up(other))
        assert len(await made(service)) == 1


async def test_forged_tokens_lead_to_a_block(service: Service, alice: Person) -> None:
    for n in range(40):
        forged = f"{alice.token[:-12]}{n:04}{alice.token[-8:]}"
        assert await status(service, "/api/v1/auth/profile", Authorization=f"Bearer {forged}") in (401, 403)
    await comes(lambda: refused(service))
    assert (await made(service))[0].reason == "forgery"


async def test_looking_for_holes_leads_to_a_block_and_is_on_record(service: Service) -> None:
    for path in ("/wp-login.php", "/.env", "/.git/config", "/cgi-bin/x", "/api/v1/../../etc/passwd"):
        assert await status(service, path) in (404, 403)
    await comes(lambda: refused(service))
    [block] = await made(service)
    assert (block.reason, set(block.offences)) == ("scan", {"scan"})
    found = [(row["type"], row["ip"]) for row in await service.app[DB].many(TYPES)]
    assert sorted(found) == [("malicious_excess_404", HERE), ("network_blocked", HERE)]


ASKED: dict[tuple[str, str], offences.Sort | None] = {
    ("GET", "/nothing"): "probe",
    ("POST", "/api/v1/nothing"): "probe",
    ("PATCH", "/api/v1/auth/login"): "probe",
    ("GET", "/WP-Login.PHP"): "scan",
    ("GET", "/%2eenv"): "scan",
    ("GET", "/x/..%2f..%2fetc"): "scan",
    ("GET", "/favicon.ico"): None,
    ("GET", "/.well-known/change-password"): None,
    ("GET", "/robots.txt"): None,
    ("OPTIONS", "/api/v1/auth/login"): None,
    ("GET", "/healthz"): None,
}


async def test_an_address_that_is_not_there_is_a_probe(service: Service) -> None:
    found: dict[tuple[str, str], offences.Sort | None] = {}
    for n, (method, path) in enumerate(ASKED):
        before = noted()
        await status(service, path, f"203.0.113.{n}", method)
        found[method, path] = next((sort for sort, times in noted().items() if times > before[sort]), None)
    assert found == ASKED


async def test_what_a_page_elsewhere_has_a_browser_ask_for_is_not_its_users_doing(service: Service) -> None:
    before = noted()
    assert await status(service, "/.env", **{"Sec-Fetch-Site": "cross-site"}) == 404
    assert noted() == before


FLOODS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", "/robots.txt", {}, 404),
    ("OPTIONS", "/api/v1/auth/login", {}, 405),
    ("OPTIONS", "/nothing", {}, 404),
    ("OPTIONS", "/nothing", {"Origin": "https://app.example.org", "Access-Control-Request-Method": "GET"}, 204),
]


@pytest.mark.parametrize(("method", "path", "more", "allowed"), FLOODS)
async def test_what_is_no_offence_is_one_beyond_the_limit(
    config: Config, method: str, path: str, more: dict[str, str], allowed: int
) -> None:
    listed = ("https://app.example.org",)
    async with running(
        dataclasses.replace(config, rate_limit_address_per_minute=5, cors_allowed_origins=listed)
    ) as service:
        before = noted()
        assert [await status(service, path, HERE, method, **more) for _ in range(8)] == [allowed] * 5 + [429] * 3
        assert noted() == before | {"limit": before["limit"] + 3}


async def test_a_download_that_is_not_there_is_no_offence(service: Service, alice: Person) -> None:
    before = noted()
    assert (await alice.get("/downloads/0", **coming(HERE))).status == 404
    assert noted() == before


async def test_what_is_no_http_is_a_probe(service: Service) -> None:
    before = noted()["probe"]
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(service.url).port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    assert noted()["probe"] == before + 1


async def test_ipv6_is_taken_by_its_network(service: Service) -> None:
    for n in range(6):
        service.app[OFFENCES].note(f"2001:db8:1:2::{n}", "scan")
    await add_up(service)
    assert [block.network for block in await made(service)] == ["2001:db8:1:2::/64"]
    assert await refused(service, "2001:db8:1:2:ffff::1") and not await refused(service, "2001:db8:1:3::1")


async def test_proxies_and_this_machine_are_not_blocked_for_anything(service: Service) -> None:
    for address in ("127.0.0.1", "127.9.9.9", "::1", "198.51.100.200", ""):
        assert await misbehave(service, "scan", 100, address) == []
    assert await service.app[KV].client.keys(service.app[KV].key("score", "*")) == []
    for network in ("127.9.9.9/32", "::1/128", "198.51.100.200/32", "198.51.100.0/24"):
        assert not await service.app[BLOCKS].add_automatic(network, "scan", {}, address=network)


async def test_without_a_score_nobody_is_blocked_by_itself(config: Config) -> None:
    async with running(dataclasses.replace(config, block_score=0)) as service:
        assert await misbehave(service, "scan", 100) == []


async def test_a_flood_of_addresses_does_not_fill_the_memory(service: Service) -> None:
    held = service.app[OFFENCES]
    before = metrics.blocks_scored.labels("dropped")._value.get()
    for n in range(offences.WAITING + 500):
        held.note(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", "probe")
    assert len(held._waiting) == offences.WAITING
    assert metrics.blocks_scored.labels("dropped")._value.get() == before + 500


@pytest.mark.slow
async def test_a_block_is_made_when_the_database_is_back(config: Config, tmp_path: Path) -> None:
    url = urlsplit(config.database_url)
    (folder,) = parse_qs(url.query)["host"]
    async with Gate(tmp_path / ".s.PGSQL.5432", Path(folder) / ".s.PGSQL.5432") as gate:
        behind = url._replace(query=f"host={tmp_path}").geturl()
        async with running(dataclasses.replace(config, database_url=behind)) as service:
            await gate.shut()
            for _ in range(5):
                service.app[OFFENCES].note(HERE, "scan")
            failures = metrics.worker_loop_errors.labels("offences")._value
            before = failures.get()
            await comes(lambda: has_risen(failures, before), 30)
            await gate.open()
            await comes(lambda: refused(service), 30)


async def has_risen(counter: Any, before: float) -> bool:
    return bool(counter.get() > before)


# --- by hand


async def test_an_admin_cannot_lock_out_a_proxy_or_themself(root: Person) -> None:
    for network, words in (("198.51.100.192/26", "trusted proxy"), ("198.51.100.7", "from which you ask")):
        body = {"network": network, "reason": "x"}
        answer = await root.post("/security/blocks", body, **coming(HERE))
        assert answer.status == 422 and words in await answer.text()
    assert (await root.post("/security/blocks", {"network": HERE, "reason": "x"}, **coming(THERE))).status == 201


async def test_a_network_blocked_by_hand_shuts_out_all_its_addresses(root: Person, service: Service) -> None:
    answer = await root.post("/security/blocks", {"network": "198.51.100.0/25", "reason": "x"})
    assert answer.status == 201
    assert await refused(service, HERE) and await refused(service, THERE) and not await refused(service, "203.0.113.1")


async def test_who_is_let_in_again_begins_without_points(service: Service, root: Person) -> None:
    block = await blocking(service)
    await service.app[BLOCKS]._scores.add([Gain(f"{HERE}/32", 90, "login")])
    assert (await root.delete(f"/security/blocks/{block.id}")).status == 204
    # What was read a moment before may be put into the list a moment after.
    await comes(lambda: admitted(service))
    assert await misbehave(service, "probe", 20) == [] and not await refused(service)


# --- streams


async def test_streams_of_a_blocked_address_end(service: Service, alice: Person) -> None:
    stream = await alice.get("/downloads/events", **coming(HERE))
    elsewhere = await alice.get("/downloads/events", **coming(THERE))
    await stream.content.readline()
    socket = await alice.session.ws_connect("/api/v1/ws", **coming(HERE))
    await socket.receive()
    await blocking(service)
    async with asyncio.timeout(10):
        await stream.content.read()
        assert (await socket.receive()).type == WSMsgType.CLOSE
    assert not elsewhere.content.at_eof()
    elsewhere.close()


async def test_a_stream_that_opens_in_the_moment_of_a_block_ends_too(
    service: Service, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mailbox is there yet that the block could close."""
    monkeypatch.setattr(service.app[EVENTS], "end_addresses", lambda refused: None)
    stream = await alice.get("/downloads/events", **coming(HERE))
    await stream.content.readline()
    await blocking(service)
    for box in [box for boxes in service.app[EVENTS]._mailboxes.values() for box in boxes]:
        box.lose()
    async with asyncio.timeout(10):
        await stream.content.read()


async def test_many_blocks_at_once_are_taken_up_in_a_few_steps(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Callable[[str], bool]] = []
    monkeypatch.setattr(blocks, "GATHER_SECONDS", 0.3)
    monkeypatch.setattr(service.app[EVENTS], "end_addresses", looks.append)
    begun = time.monotonic()
    made = [service.app[BLOCKS].add_automatic(f"192.0.2.{n}/32", "scan", {}, address=HERE) for n in range(60)]
    assert all(await asyncio.gather(*made))
    await comes(lambda: all_taken_up(service))
    # For those made here, those heard of, and those that a comparison found.
    assert 1 <= len(looks) <= 3 * (1 + (time.monotonic() - begun) / blocks.GATHER_SECONDS)


async def all_taken_up(service: Service) -> bool:
    held = service.app[BLOCKS]
    return not (held._put or held._heard or held._woken.is_set())


async def test_a_block_that_cannot_be_made_keeps_no_other_from_being_made(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(service.app[OFFENCES]._due, "no network", (HERE, {"scan": 5}))
    assert await misbehave(service, "scan", 5)
    assert "offences.not_blocked" in [record.message for record in caplog.records]


# --- every process


async def test_another_process_knows_a_block_and_its_end_within_a_second(service: Service) -> None:
    async with beside(service) as other:
        block = await blocking(service)
        await comes(lambda: refused(other))
        await service.app[BLOCKS].lift(block.id)
        await comes(lambda: admitted(other))


async def admitted(service: Service) -> bool:
    return not await refused(service)


async def test_a_process_without_redis_knows_a_block_and_its_end_within_a_second(
    service: Service, own_redis: OwnRedis
) -> None:
    assert blocks.COMPARE_SECONDS < 1
    async with beside(service, redis_url=own_redis.url) as other:
        own_redis.kill()
        block = await blocking(service)
        await comes(lambda: refused(other))
        await service.app[BLOCKS].lift(block.id)
        await comes(lambda: admitted(other))


async def test_the_streams_in_another_process_end_within_a_second(service: Service, alice: Person) -> None:
    async with (
        beside(service) as other,
        other.client.get("/api/v1/downloads/events", **coming(HERE, Authorization=f"Bearer {alice.token}")) as stream,
    ):
        await stream.content.readline()
        await blocking(service)
        # Without a word and a look it would end by a heartbeat after 15 s.
        async with asyncio.timeout(10):
            await stream.content.read()


async def test_blocks_survive_a_restart(config: Config) -> None:
    async with running(config) as before:
        await blocking(before)
    async with running(config) as after:
        assert await refused(after)


async def test_without_redis_a_process_adds_up_alone(config: Config, own_redis: OwnRedis) -> None:
    async with running(dataclasses.replace(config, redis_url=own_redis.url)) as service:
        own_redis.kill()
        await blocking(service)


class Later:
    """A clock that is ahead by so much."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def monotonic(self) -> float:
        return time.monotonic() + self.seconds


async def test_a_block_that_ran_out_lets_in_at_once(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the database says of it by then."""
    block = await blocking(service)
    left = (block.expires_at - block.created_at).total_seconds()
    monkeypatch.setattr(blocklist, "time", Later(left - 60))
    assert left == 600 and await refused(service)
    monkeypatch.setattr(blocklist, "time", Later(left))
    assert not await refused(service)
    await change(database_url, "UPDATE blocks SET expires_at = now()")
    again = await misbehave(service, "scan", 5)
    assert (again[0].expires_at - again[0].created_at).total_seconds() == pytest.approx(2 * left)
