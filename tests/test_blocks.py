"""Blocks as admins handle them, the list in memory, and the points that addresses gather."""

import asyncio
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Person, Service
from tests.signing_in import counted
from ytdl import audit, blocks
from ytdl import scores as points
from ytdl.api.keys import BLOCKS, DB, EVENTS
from ytdl.blocklist import KNOWN, Blocklist, Entry, network_of
from ytdl.kv import KV
from ytdl.scores import Gain, Scores
from ytdl.sql import Query

AUDIT = Query("test.audit", "many", "", b"SELECT * FROM audit_events WHERE object_kind = 'block' ORDER BY at")
AGE = Query(
    "test.age",
    "exec",
    "",
    b"UPDATE blocks SET created_at = created_at - %(by)s::interval, expires_at = expires_at - %(by)s::interval",
)


def entry(network: str, seconds: float = 60.0) -> Entry:
    return Entry(uuid4(), network, time.monotonic() + seconds, 1)


def holding(*entries: Entry, protected: tuple[str, ...] = ()) -> Blocklist:
    found = Blocklist(protected)
    found.replace(entries)
    return found


async def block(person: Person, network: str, **more: Any) -> dict[str, Any]:
    response = await person.post("/security/blocks", {"network": network, "reason": "for a test", **more})
    body: dict[str, Any] = await response.json()
    assert response.status == 201, body
    return body


async def fault(person: Person, network: str) -> str:
    """The sentence with which a network is refused, which must name the field."""
    response = await person.post("/security/blocks", {"network": network, "reason": "for a test"})
    body = await response.json(content_type=None)
    assert (response.status, body["errors"][0]["field"]) == (422, "network"), body
    return str(body["errors"][0]["message"])


async def listed(person: Person, query: str = "") -> list[str]:
    response = await person.get(f"/security/blocks{query}")
    assert response.status == 200, await response.text()
    return [item["network"] for item in (await response.json())["items"]]


# --- the list in memory


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("2001:db8:1:2::/64", "2001:db8:1:2:ffff::1", "2001:db8:1:3::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::c000:207/128", "::c000:207", "192.0.2.7"),
    ],
)
def test_a_network_holds_its_addresses_and_no_others(network: str, inside: str, outside: str) -> None:
    found = holding(entry(network), entry("198.51.100.0/25"))
    assert 50 < found.seconds_left(inside) <= 60
    assert found.seconds_left(inside) and not found.seconds_left(outside) and not found.seconds_left("")


def test_of_several_networks_around_an_address_the_longest_counts() -> None:
    found = holding(entry("192.0.2.7/32", 0.05), entry("192.0.2.0/24", 30), entry("192.0.0.0/16", 0.05))
    assert 20 < found.seconds_left("192.0.2.7") <= 30


def test_a_block_ends_in_the_moment_it_runs_out() -> None:
    short = entry("192.0.2.7/32", 60)
    found = holding(short, entry("192.0.2.8/32", 60))
    assert found.seconds_left("192.0.2.7")
    short.until = time.monotonic()
    assert not found.seconds_left("192.0.2.7") and found.seconds_left("192.0.2.8")
    found.mark()
    assert len(found) == 1


def test_what_changes_in_the_list_is_seen_at_once() -> None:
    found, one = holding(entry("198.51.100.1/32")), entry("192.0.2.0/24")
    assert not found.seconds_left("192.0.2.7")
    found.put(one)
    assert found.seconds_left("192.0.2.7")
    assert found.remove(one.id) is one and not found.seconds_left("192.0.2.7")


def test_an_older_block_that_goes_takes_no_newer_one_along() -> None:
    older, newer = entry("192.0.2.7/32", 1), entry("192.0.2.7/32", 90)
    found = holding(older)
    found.put(newer)
    found.remove(older.id)
    assert found.seconds_left("192.0.2.7") > 50


def test_proxies_and_this_machine_are_never_refused_whatever_the_list_holds() -> None:
    found = holding(entry("10.0.0.0/8"), entry("127.0.0.0/8"), entry("::/1"), protected=("10.9.0.0/16",))
    assert [found.seconds_left(a) > 0 for a in ("10.8.0.1", "10.9.0.1", "127.0.0.1", "::1")] == [True] + [False] * 3


def test_addresses_that_come_once_do_not_fill_the_memory() -> None:
    found = holding(entry("198.51.100.1/32"))
    for n in range(KNOWN + 100):
        found.seconds_left(f"10.0.{n // 256}.{n % 256}")
    assert len(found._known) <= KNOWN


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1/128"),
    ],
)
def test_an_address_stands_for_what_one_line_has(address: str, network: str) -> None:
    assert network_of(address) == ip_network(network)


# --- points


@pytest.fixture
async def nowhere(tmp_path: Path) -> AsyncIterator[KV]:
    """A Redis that is not there."""
    client = KV(f"unix://{tmp_path}/none", "none")
    yield client
    await client.close()


@pytest.fixture(params=["shared", "own"])
async def scores(request: pytest.FixtureRequest, kv: KV, nowhere: KV) -> Scores:
    """In Redis, and in the process without one."""
    return Scores(kv if request.param == "shared" else nowhere, 100)


async def test_points_add_up_to_the_limit_over_several_offences(scores: Scores) -> None:
    assert await scores.add([Gain("192.0.2.7/32", 60, "login", 15)]) == {}
    over = await scores.add([Gain("192.0.2.7/32", 25, "scan"), Gain("192.0.2.7/32", 20, "reuse")])
    assert over == {"192.0.2.7/32": {"login": 15, "scan": 1, "reuse": 1}}


async def test_each_address_has_points_of_its_own(scores: Scores) -> None:
    assert await scores.add([Gain("192.0.2.7/32", 99, "login"), Gain("192.0.2.8/32", 100, "login")]) == {
        "192.0.2.8/32": {"login": 1}
    }


async def test_points_drain_with_time(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_drain", 1000.0)
    await scores.add([Gain("192.0.2.7/32", 90, "login", 9)])
    await asyncio.sleep(0.2)
    assert await scores.add([Gain("192.0.2.7/32", 90, "probe", 9)]) == {}


async def test_who_is_forgotten_begins_from_nothing(scores: Scores) -> None:
    await scores.add([Gain("192.0.2.7/32", 99, "login")])
    await scores.forget("192.0.2.7/32")
    assert await scores.add([Gain("192.0.2.7/32", 99, "login")]) == {}


async def test_points_are_shared_and_leave_nothing_behind(kv: KV) -> None:
    here, there = Scores(kv, 100), Scores(kv, 100)
    await here.add([Gain("192.0.2.7/32", 50, "login")])
    assert await there.add([Gain("192.0.2.7/32", 60, "login")]) == {"192.0.2.7/32": {"login": 2}}
    assert 0 < await kv.client.ttl(kv.key("score", "192.0.2.7/32")) <= 2 * points.DRAIN_SECONDS


async def test_a_process_alone_remembers_so_many_addresses_and_no_more(
    nowhere: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "REMEMBERED", 10)
    alone = Scores(nowhere, 100)
    await alone.add([Gain(f"192.0.2.{n}/32", 99, "login") for n in range(30)])
    assert len(alone._own) == 10
    assert await alone.add([Gain("192.0.2.29/32", 5, "login")])


# --- the API


async def test_an_admin_blocks_an_address_and_lifts_it(root: Person) -> None:
    made = await block(root, "192.0.2.7")
    assert (made["network"], made["kind"], made["active"]) == ("192.0.2.7", "manual", True)
    assert (made["created_by"], made["reason"]) == (str(root.user_id), "for a test")
    assert await listed(root) == ["192.0.2.7"]
    assert (await root.delete(f"/security/blocks/{made['id']}")).status == 204
    assert await listed(root) == [] and await listed(root, "?active=false") == ["192.0.2.7"]
    assert (await root.delete(f"/security/blocks/{made['id']}")).status == 404


async def test_the_location_of_a_block_is_where_it_is(root: Person) -> None:
    response = await root.post("/security/blocks", {"network": "192.0.2.0/24", "reason": "x", "expires_in_seconds": 60})
    assert response.status == 201
    found = await root.get(response.headers["Location"].removeprefix("/api/v1"))
    assert await found.json() == await response.json()
    assert (await root.get(f"/security/blocks/{uuid4()}")).status == 404


WRITTEN = {
    "192.0.2.77/24": "192.0.2.0/24",
    "192.0.2.7/32": "192.0.2.7",
    "2001:DB8:0:0::1/64": "2001:db8::/64",
    "::ffff:192.0.2.8": "192.0.2.8",
    "::ffff:192.0.3.7/120": "192.0.3.0/24",
}


async def test_a_network_is_written_in_one_way(root: Person) -> None:
    assert {written: (await block(root, written))["network"] for written in WRITTEN} == WRITTEN


async def test_what_is_no_network_is_refused(root: Person) -> None:
    for network in (
        "nonsense",
        "192.0.2.7/33",
        "192.0.2",
        "192.0.2.0/255.255.255.0",
        "192.0.2.7 ",
        "fe80::1%eth0",
        "/",
    ):
        assert "must be an IP address" in await fault(root, network)


async def test_half_of_the_world_cannot_be_blocked(root: Person) -> None:
    for network in ("0.0.0.0/0", "11.0.0.0/7", "::/0", "2001::/31"):
        assert "wider" in await fault(root, network)


async def test_this_machine_cannot_be_blocked(root: Person) -> None:
    for network in ("127.0.0.1", "127.0.0.0/8", "::1", "::ffff:127.0.0.1", "::/32"):
        assert "this machine" in await fault(root, network)


async def test_a_network_that_is_blocked_already_is_not_blocked_twice(root: Person) -> None:
    first = await block(root, "192.0.2.7")
    again = await root.post("/security/blocks", {"network": "192.0.2.7", "reason": "again"})
    assert again.status == 409
    await root.delete(f"/security/blocks/{first['id']}")
    await block(root, "192.0.2.7")


async def test_a_block_ends_within_a_year(root: Person) -> None:
    for seconds in (0, 59, 365 * 86_400 + 1, None):
        body = {"network": "192.0.2.7", "reason": "x", "expires_in_seconds": seconds}
        assert (await root.post("/security/blocks", body)).status == 422


@pytest.mark.parametrize("reason", ["", "  ", "\u202e\x07x", "two\nlines", "x" * 201])
async def test_a_reason_is_a_line_that_can_be_read(root: Person, reason: str) -> None:
    refused = await root.post("/security/blocks", {"network": "192.0.2.7", "reason": reason})
    assert (refused.status, (await refused.json())["errors"][0]["field"]) == (422, "reason")
    made = await root.post("/security/blocks", {"network": "192.0.2.7", "reason": " for a test "})
    assert (await made.json())["reason"] == "for a test"


async def test_blocks_come_in_pages_and_by_kind_and_address(root: Person, service: Service) -> None:
    for network in ("192.0.2.7", "192.0.2.0/24", "198.51.100.1"):
        await block(root, network)
    await service.app[BLOCKS].add_automatic("203.0.113.9/32", "login", {"login": 25}, address="203.0.113.9")
    page = await (await root.get("/security/blocks?limit=3")).json()
    assert [i["network"] for i in page["items"]] == ["203.0.113.9", "198.51.100.1", "192.0.2.0/24"]
    assert await listed(root, f"?cursor={page['next_cursor']}") == ["192.0.2.7"]
    assert await listed(root, "?ip=192.0.2.7") == ["192.0.2.0/24", "192.0.2.7"]
    assert await listed(root, "?kind=automatic") == ["203.0.113.9"]
    assert (await root.get("/security/blocks?ip=x")).status == 422


async def test_users_know_nothing_of_blocks(alice: Person, root: Person) -> None:
    id = (await block(root, "192.0.2.7"))["id"]
    assert (await alice.get("/security/blocks")).status == 403
    assert (await alice.post("/security/blocks", {"network": "192.0.2.8", "reason": "x"})).status == 403
    assert (await alice.get(f"/security/blocks/{id}")).status == 403
    assert (await alice.delete(f"/security/blocks/{id}")).status == 403


async def test_blocking_and_lifting_are_on_record(root: Person, service: Service) -> None:
    made = await block(root, "192.0.2.7")
    await root.delete(f"/security/blocks/{made['id']}")
    first, second = await service.app[DB].many(AUDIT)
    assert (first["type"], second["type"]) == ("network_blocked", "network_block_lifted")
    assert {first["object_id"], second["object_id"]} == {made["id"]}
    assert {first["user_id"], second["user_id"]} == {root.user_id}
    assert {"network_blocked", "network_block_lifted", "malicious_excess_404"} <= audit.TYPES.keys()


# --- how long


async def lasts(service: Service, network: str = "192.0.2.7/32") -> float:
    """The seconds of a new automatic block; the ones before have just run out."""
    held = service.app[BLOCKS]
    assert await held.add_automatic(network, "login", {"login": 25}, address="192.0.2.7")
    [newest, *_] = (await held.page(blocks.BlockFilter())).items
    await service.app[DB].exec(AGE, by=newest.expires_at - newest.created_at)
    return (newest.expires_at - newest.created_at).total_seconds()


async def test_each_further_block_lasts_twice_as_long_up_to_a_day(service: Service) -> None:
    found = [await lasts(service) for _ in range(10)]
    assert found[:4] == [600, 1200, 2400, 4800] and found[-2:] == [86_400, 86_400]
    assert await lasts(service, "192.0.2.8/32") == 600


async def test_a_block_that_was_lifted_makes_no_later_one_longer(service: Service) -> None:
    held = service.app[BLOCKS]
    await held.add_automatic("192.0.2.7/32", "login", {}, address="192.0.2.7")
    [made] = (await held.page(blocks.BlockFilter())).items
    await held.lift(made.id)
    assert await lasts(service) == 600


async def test_what_is_a_week_past_is_forgotten_and_swept(service: Service) -> None:
    await lasts(service)
    await lasts(service)
    assert await blocks.sweep(service.app[DB]) == 0
    await service.app[DB].exec(AGE, by="7 days")
    assert await lasts(service) == 600
    # Perhaps the janitor's own round was quicker.
    await blocks.sweep(service.app[DB])
    assert await counted(service.config.database_url, "blocks") == 1


async def test_too_many_addresses_do_not_fill_the_memory(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST", 3)
    held = service.app[BLOCKS]
    made = [await held.add_automatic(f"192.0.2.{n}/32", "scan", {}, address=f"192.0.2.{n}") for n in range(5)]
    assert made == [True] * 3 + [False] * 2


async def test_a_list_longer_than_a_page_is_read_whole(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    held = service.app[BLOCKS]
    for n in range(7):
        await held.add_automatic(f"192.0.2.{n}/32", "scan", {}, address=f"192.0.2.{n}")
    monkeypatch.setattr(blocks, "PAGE", 3)
    held.list.replace(())
    await held._read()
    assert len(held.list) == 7


async def test_words_that_are_no_ids_and_floods_of_them_do_no_harm(service: Service) -> None:
    await service.app[EVENTS].tell_all("blocks", ["nonsense", *(str(uuid4()) for _ in range(2000))])
    held = service.app[BLOCKS]
    assert await held.add_automatic("192.0.2.7/32", "scan", {}, address="192.0.2.7")
    heard = time.monotonic() + blocks.COMPARE_SECONDS
    async with asyncio.timeout(30):
        while held._compared_at < heard or held._heard:  # noqa: ASYNC110 - its rounds tell nobody
            await asyncio.sleep(0.02)
    assert len(held.list) == 1
