"""Limits that several processes share through Redis: exact, hardly ever asked for, and kept while Redis is away."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import unquote
from uuid import UUID, uuid4

import pytest

from tests.fakes.gate import Gate
from tests.redises import OwnRedis
from ytdl import denials, errors, gcra, leases, log, metrics, ratelimit
from ytdl.auth import Identity
from ytdl.config import Config
from ytdl.db import DB
from ytdl.denials import Denials
from ytdl.kv import KV
from ytdl.ratelimit import Kind, Limiter
from ytdl.sql import Query

FEW = 25
ALICE, BOB = UUID(int=1), UUID(int=2)
EVENTS = Query("test.events", "many", "", b"SELECT * FROM audit_events WHERE type = 'excess_rate_limit_exceeded'")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that takes its time on a busy machine is not given up; what is about that sets its own patience."""
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 30.0)
    monkeypatch.setattr("ytdl.kv.TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a test takes to count, nothing comes back meanwhile, and no block or refusal ends."""
    monkeypatch.setattr(gcra, "WINDOW_SECONDS", 100_000)
    monkeypatch.setattr(leases, "LIFE_SECONDS", 60.0)


@pytest.fixture
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back, and when, can be looked at without haste."""
    monkeypatch.setattr(gcra, "WINDOW_SECONDS", 600)


def limits(**each: int) -> dict[str, gcra.Policy]:
    """Plenty of everything but what is named."""
    return ratelimit.policies_of(Config(rate_limit_per_minute=10**6)) | {
        name: gcra.policy(name, limit) for name, limit in each.items()
    }


def person(user: UUID, key: UUID | None = None, per_minute: int | None = None) -> Identity:
    session = None if key else user
    return Identity(user, "somebody", "user", session_id=session, key_id=key, requests_per_minute=per_minute)


async def passes(
    limiter: Limiter, ip: str = "192.0.2.1", who: Identity | None = None, *, kind: Kind = "general", url: str = ""
) -> bool:
    try:
        await limiter.take(limiter.caller(kind, ip, who, url))
    except errors.RateLimited:
        return False
    return True


async def passed(number: int, *limiters: Limiter, who: Identity | None = None) -> int:
    """Of so many requests at once, spread over the processes."""
    tries = [passes(limiters[n % len(limiters)], who=who) for n in range(number)]
    return sum(await asyncio.gather(*tries))


@asynccontextmanager
async def process(kv: KV | None, db: DB | None = None, **each: int) -> AsyncIterator[Limiter]:
    """A limiter as another process would have it."""
    limiter = Limiter(limits(**each), kv, db)
    try:
        yield limiter
    finally:
        await limiter.close()


# exact


async def test_of_a_thousand_requests_at_once_exactly_the_limit_passes(kv: KV, timeless: None) -> None:
    async with process(kv, api=FEW) as limiter:
        assert await passed(1000, limiter, who=person(ALICE)) == FEW
        assert await passed(1000, limiter, who=person(BOB)) == FEW


async def test_of_a_thousand_requests_to_two_processes_exactly_the_limit_passes(kv: KV, timeless: None) -> None:
    async with process(kv, api=FEW) as one, process(kv, api=FEW) as other:
        assert await passed(1000, one, other, who=person(ALICE)) == FEW


async def test_of_many_callers_from_one_address_exactly_the_addresss_limit_passes(kv: KV, timeless: None) -> None:
    async with process(kv, address=FEW) as one, process(kv, address=FEW) as other:
        tries = [passes((one, other)[n % 2], who=person(UUID(int=n % 40))) for n in range(1000)]
        assert sum(await asyncio.gather(*tries)) == FEW


async def test_one_after_the_other_exactly_the_limit_passes(kv: KV, timeless: None) -> None:
    async with process(kv, api=FEW) as limiter:
        assert [await passes(limiter, who=person(ALICE)) for _ in range(FEW + 5)] == [True] * FEW + [False] * 5


async def test_two_processes_in_a_hurry_stay_within_the_bound(kv: KV) -> None:
    """What both let pass in a while, against the limit, what the while gives back, and half a second more. Each goes
    on until it is refused, so that there was a limit to come to however slow the machine is."""
    limit = 3000
    began = time.monotonic()

    async def hurry(limiter: Limiter) -> int:
        count, found = 0, 20
        while found == 20 or time.monotonic() - began < 1.5:
            found = await passed(20, limiter, who=person(ALICE))
            count += found
        return count

    async with process(kv, api=limit) as one, process(kv, api=limit) as other:
        count = sum(await asyncio.gather(*(hurry(limiter) for limiter in (one, one, other))))
    took = time.monotonic() - began
    assert limit / 2 <= count <= limit + (took + leases.LIFE_SECONDS) * limit / gcra.WINDOW_SECONDS


async def test_blocks_that_end_unused_cost_nobody_more_than_half_of_the_limit(kv: KV, timeless: None) -> None:
    """Alice stops in ten processes at the moment in which each has leased for what was to come."""
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(process(kv, api=600)) for _ in range(10)]
        early = [
            await passed(20, limiter, who=person(ALICE)) + await passed(1, limiter, who=person(ALICE))
            for limiter in crowd
        ]
        unused = sum(limiter.caller("general", "192.0.2.1", person(ALICE)).left for limiter in crowd)
        late = await passed(1000, await stack.enter_async_context(process(kv, api=600)), who=person(ALICE))
    assert sum(early) == 210 and 0 < unused <= 300
    assert sum(early) + late == 600 - unused


async def test_past_half_of_the_limit_no_request_is_lost_to_a_block(kv: KV, timeless: None) -> None:
    async with process(kv, api=600) as one, process(kv, api=600) as other:
        assert await passed(300, one, who=person(ALICE)) == 300
        for limiter in (one, other) * 5:
            assert await passed(20, limiter, who=person(ALICE)) == 20
        assert await passed(1000, other, who=person(ALICE)) == 100


async def test_a_refused_request_uses_nothing_of_the_other_policies(kv: KV, timeless: None) -> None:
    """Of different kinds, for a refusal of one is not asked about again."""
    kinds: tuple[Kind, ...] = ("general", "create", "login")
    async with process(kv, api=1, address=10) as limiter:
        for who in (person(ALICE), person(BOB)):
            assert [await passes(limiter, who=who, kind=kind) for kind in kinds] == [True, False, False]
        assert await passed(50, limiter) == 8


# who is counted


async def test_an_ipv6_network_of_64_bits_is_one_address(kv: KV) -> None:
    async with process(kv, address=2) as limiter:
        found = [
            await passes(limiter, ip) for ip in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8::3", "2001:db8:0:1::1")
        ]
    assert found == [True, True, False, True]


async def test_who_was_refused_is_refused_at_every_address_of_the_network(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIFE_SECONDS", 60.0)
    async with process(kv, address=1) as limiter:
        assert [await passes(limiter, "2001:db8::1") for _ in range(2)] == [True, False]
        refused = [limiter.refused("general", ip) for ip in ("2001:db8::2", "2001:db8:0:1::1", "192.0.2.1")]
        assert [caller is not None for caller in refused] == [True, False, False]
        assert limiter.refused("login", "2001:db8::2") is None, "it was not asked for"


async def test_an_ipv4_address_is_one(kv: KV) -> None:
    async with process(kv, address=1) as limiter:
        assert [await passes(limiter, ip) for ip in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [True, True, False]


async def test_a_user_counts_whatever_the_address(kv: KV) -> None:
    async with process(kv, api=2) as limiter:
        found = [await passes(limiter, f"192.0.2.{n}", person(ALICE)) for n in range(3)]
    assert found == [True, True, False]


async def test_an_api_key_leaves_its_user_the_users_own_but_more_keys_are_not_more_requests(kv: KV) -> None:
    one, other = person(ALICE, UUID(int=11)), person(ALICE, UUID(int=12))
    async with process(kv, api=2, keys=3) as limiter:
        assert [await passes(limiter, who=one) for _ in range(3)] == [True, True, False]
        assert [await passes(limiter, who=other) for _ in range(2)] == [True, False]
        assert await passes(limiter, who=person(ALICE))


async def test_sign_ins_count_by_address_and_downloads_by_user(kv: KV) -> None:
    async with process(kv, login=1, create=1) as limiter:
        assert [await passes(limiter, kind="login") for _ in range(2)] == [True, False]
        assert await passes(limiter)
        creating = [person(ALICE), person(ALICE), person(BOB)]
        assert [await passes(limiter, who=who, kind="create") for who in creating] == [True, False, True]


async def test_a_temporary_url_counts_for_itself(kv: KV) -> None:
    async with process(kv, url=1) as limiter:
        found = [await passes(limiter, kind="url", url=url) for url in ("a", "a", "b")]
    assert found == [True, False, True]


async def test_what_an_admin_allows_a_user_takes_the_settings_place(kv: KV) -> None:
    async with process(kv, api=2) as limiter:
        assert await passed(9, limiter, who=person(ALICE, per_minute=5)) == 5
        assert await passed(9, limiter, who=person(BOB)) == 2


def test_raising_the_general_limit_raises_all() -> None:
    for name, policy in ratelimit.policies_of(Config(rate_limit_per_minute=100_000)).items():
        assert policy.limit >= 5000, name
    own = Config(rate_limit_address_per_minute=1, rate_limit_login_per_minute=2, rate_limit_create_per_minute=3)
    found = ratelimit.policies_of(own)
    assert [found[name].limit for name in ("api", "address", "login", "create")] == [600, 1, 2, 3]


# blocks


async def calls(kv: KV) -> int:
    """How often Redis ran a script."""
    stats = await kv.client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


async def test_somebody_in_a_hurry_asks_redis_hardly_ever(kv: KV) -> None:
    async with process(kv) as limiter:
        before = await calls(kv)
        assert all([await passes(limiter, who=person(ALICE)) for _ in range(5000)])
        assert await calls(kv) - before < 60


async def test_somebody_slow_is_charged_for_what_was_asked_and_no_more(kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcra, "WINDOW_SECONDS", 100_000)
    async with process(kv, api=1000) as limiter:
        for _ in range(2 * leases.OFTEN):
            assert await passes(limiter, who=person(ALICE))
            await asyncio.sleep(0.08)
        asking = limiter.caller("general", "192.0.2.1", person(BOB))
        assert (await limiter.state("api", "192.0.2.1", person(ALICE), asking)).remaining == 1000 - 2 * leases.OFTEN


@pytest.mark.parametrize("spurt", range(100, 1300, 100))
def test_what_was_leased_and_not_used_is_at_most_what_was_used(spurt: int) -> None:
    """Spurts that end as suddenly as they begin, which is what a guess of the next half second cannot know."""
    caller = leases.Caller([(gcra.policy("p", 100_000), "p")])
    used = charged = 0
    for now in (ms / 1000 for ms in range(0, 60_000, 7) if ms % 3000 < spurt):
        used += 1
        if not caller.spend(now):
            wish = caller.wish(1, now)
            charged += wish
            caller.lease(wish, [0], now, short=False)
            assert caller.spend(now)
    assert used <= charged <= 2 * used


async def test_a_block_ends_after_half_a_second(kv: KV) -> None:
    async with process(kv) as limiter:
        caller = limiter.caller("general", "192.0.2.1", person(ALICE))
        while caller.left < 2:
            began = time.monotonic()
            await limiter.take(caller)
        assert caller.spend(began + 0.49)
        assert not caller.spend(time.monotonic() + 0.5)


async def test_requests_that_wait_go_to_redis_together(kv: KV) -> None:
    async with process(kv) as limiter:
        assert await passes(limiter)
        before = await calls(kv)
        await asyncio.gather(*(passes(limiter, who=person(UUID(int=n % 50))) for n in range(500)))
        assert await calls(kv) - before <= 2


async def test_a_refusal_is_repeated_without_asking_redis(kv: KV, timeless: None) -> None:
    async with process(kv, api=240) as limiter:
        assert await passed(300, limiter, who=person(ALICE)) == 240
        before = await calls(kv)
        for _ in range(50):
            assert not await passes(limiter, who=person(ALICE))
        assert await calls(kv) - before <= 1


async def test_a_refusal_is_repeated_no_longer_than_until_there_is_more(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIFE_SECONDS", 60.0)
    async with process(kv, api=240) as limiter:
        await passed(300, limiter, who=person(ALICE))
        async with asyncio.timeout(30):
            while not await passes(limiter, who=person(ALICE)):  # noqa: ASYNC110 - what it waits for is the time
                await asyncio.sleep(0.02)


async def test_whoever_hangs_up_while_waiting_takes_nobody_along(kv: KV, timeless: None) -> None:
    async with process(kv, api=FEW) as limiter:
        tries = [asyncio.create_task(passes(limiter, who=person(ALICE))) for _ in range(100)]
        await asyncio.sleep(0)
        for one in tries[::2]:
            one.cancel()
        found = Counter([r for r in await asyncio.gather(*tries, return_exceptions=True) if isinstance(r, bool)])
        assert found == {True: FEW, False: 25}


async def test_whoever_hung_up_is_not_charged(kv: KV, timeless: None) -> None:
    async with process(kv, api=60) as limiter:
        tries = [asyncio.create_task(passes(limiter, who=person(ALICE))) for _ in range(50)]
        await asyncio.sleep(0)
        for one in tries[1:]:
            one.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        asking = limiter.caller("general", "192.0.2.1", person(BOB))
        assert (await limiter.state("api", "192.0.2.1", person(ALICE), asking)).remaining == 59


async def test_what_leases_for_all_speaks_in_nobodys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its log lines would have the request's id of whoever came first."""
    ids: list[str | None] = []

    def heard(record: logging.LogRecord) -> bool:
        ids.append(log.request_id.get())
        return True

    monkeypatch.setattr(leases.log, "filters", [heard])
    monkeypatch.setattr(leases.log, "level", logging.INFO)
    nobody = KV("redis://127.0.0.1:1", "x")
    async with process(nobody, api=FEW) as limiter:
        log.request_id.set("of-the-first")
        assert await passes(limiter, who=person(ALICE))
    await nobody.close()
    assert ids == [None]


# what is said


async def test_the_policies_and_what_is_left_stand_in_structured_fields(kv: KV) -> None:
    async with process(kv, api=600, address=3000) as limiter:
        caller = limiter.caller("general", "192.0.2.1", person(ALICE))
        assert caller.remaining() == '"api";r=600;t=0, "address";r=3000;t=0'
        await limiter.take(caller)
    assert caller.advertised == '"api";q=600;w=60, "address";q=3000;w=60'
    assert caller.remaining() == '"api";r=599;t=1, "address";r=2999;t=1'


async def test_a_refusal_names_the_policies_and_how_long_to_wait(kv: KV, long_window: None) -> None:
    async with process(kv, api=6, address=6) as limiter:
        caller = limiter.caller("general", "192.0.2.1", person(ALICE))
        for _ in range(6):
            await limiter.take(caller)
        with pytest.raises(errors.RateLimited) as caught:
            await limiter.take(caller)
    assert caught.value.extra == {"violated-policies": ["api", "address"]}
    assert caught.value.offence == "limit"
    assert caught.value.retry_after and 90 < caught.value.retry_after <= 100
    seconds = math.ceil(caught.value.retry_after)
    assert caller.remaining() == f'"api";r=0;t={seconds}, "address";r=0;t={seconds}'


async def test_the_state_is_told_without_using_anything(kv: KV, long_window: None) -> None:
    async with process(kv, api=600, create=12) as limiter:
        alice = person(ALICE)
        asking = limiter.caller("create", "192.0.2.1", alice)
        for _ in range(3):
            await limiter.take(asking)
        for _ in range(3):
            state = await limiter.state("create", "192.0.2.1", alice, asking)
            assert (state.limit, state.remaining) == (12, 9)
            assert 140 < state.reset_seconds <= 150
        for name in ("url", "keys", "nonsense"):
            with pytest.raises(errors.NotFound):
                await limiter.state(name, "192.0.2.1", alice, asking)


async def test_the_audit_trail_has_one_event_for_a_caller_however_often_it_is_refused(kv: KV, db: DB) -> None:
    async with process(kv, db, api=1) as limiter:
        await passed(200, limiter, who=person(ALICE))
        await passed(200, limiter, who=person(BOB))
    rows = await db.many(EVENTS)
    assert [(row["result"], row["object_id"], row["detail"]) for row in rows] == [("denied", "api", {"limit": 1})] * 2


async def test_a_crowd_of_offenders_fills_neither_memory_nor_the_audit_trail(kv: KV, db: DB) -> None:
    offenders = Denials(db, "excess_rate_limit_exceeded")
    for n in range(10_000):
        offenders.tell(f"caller {n}", object=("policy", "api"), limit=1)
    await offenders.close()
    assert len(await db.many(EVENTS)) == denials.AT_MOST == len(offenders._told)


async def test_callers_are_remembered_in_bounded_number() -> None:
    async with process(None) as limiter:
        for n in range(leases.REMEMBERED + 500):
            await passes(limiter, f"198.51.{n // 250}.{n % 250}")
        assert len(limiter._callers) == leases.REMEMBERED == len(limiter._lender._tally)


# without Redis


@pytest.fixture
async def gate(redis_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    async with Gate(tmp_path / "gate", Path(unquote(redis_url.removeprefix("unix://")))) as gate:
        yield gate


@pytest.fixture
async def behind(gate: Gate) -> AsyncIterator[KV]:
    """Reaches Redis through the gate."""
    client = KV(f"unix://{gate.path}", f"behind-{uuid4()}")
    yield client
    await client.close()


def degraded() -> float | None:
    return metrics.REGISTRY.get_sample_value("ytdl_ratelimit_degraded")


async def test_without_redis_exactly_the_limit_passes_in_each_process(timeless: None) -> None:
    nobody = KV("redis://127.0.0.1:1", "x")
    async with process(nobody, api=FEW) as one, process(nobody, api=FEW) as other:
        assert await passed(500, one, who=person(ALICE)) == FEW
        assert await passed(500, other, who=person(ALICE)) == FEW
        assert degraded() == 1
    await nobody.close()


async def test_what_redis_said_last_counts_without_it_and_after_it(behind: KV, gate: Gate, timeless: None) -> None:
    """Neither its end nor its return, empty, gives anybody the limit anew."""
    async with process(behind, api=FEW) as limiter:
        assert await passed(20, limiter, who=person(ALICE)) == 20
        await gate.shut()
        assert await passed(3, limiter, who=person(ALICE)) == 3
        await gate.open()
        await until(lambda: degraded() == 0)
        await behind.client.delete(behind.key("limit", "api", str(ALICE)))
        assert await passed(50, limiter, who=person(ALICE)) == 2
        assert limiter._lender.where == "redis"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what it waits for is a server
            await asyncio.sleep(0.02)


async def test_a_redis_that_says_nothing_is_waited_for_once_and_not_long(
    behind: KV, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PATIENCE_SECONDS", 0.5)
    async with process(behind) as limiter:
        assert await passes(limiter)
        gate.stall()
        began = time.monotonic()
        assert await passed(50, limiter, who=person(ALICE)) == 50
        # Else as long as any call of Redis may take.
        assert time.monotonic() - began < 15
        # Longer than until it is tried again, and for as long as that lasts.
        for n in range(40):
            asking = asyncio.create_task(passes(limiter, who=person(UUID(int=n))))
            await asyncio.sleep(0)
            assert asking.done() and asking.result()
            await asyncio.sleep(0.05)
        await gate.open()
        await until(lambda: degraded() == 0)


async def test_a_redis_that_takes_nothing_down_is_no_redis(own_redis: OwnRedis) -> None:
    full = KV(own_redis.url, "full")
    async with process(full, api=FEW) as limiter:
        await full.client.config_set("maxmemory", "1")
        assert await passed(100, limiter, who=person(ALICE)) == FEW
        await asyncio.sleep(leases.AGAIN_SECONDS + 0.3)
        assert limiter._lender.where == "process"
        await full.client.config_set("maxmemory", "0")
        await until(lambda: limiter._lender.where == "redis")
    await full.close()


async def test_a_clock_of_redis_that_was_set_back_shuts_nobody_out_for_longer_than_a_minute(kv: KV) -> None:
    async with process(kv, api=FEW) as limiter:
        seconds, micros = await kv.client.time()
        ahead = (seconds + 3600) * gcra.MICROSECONDS + micros
        await kv.client.set(kv.key("limit", "api", str(ALICE)), ahead)
        asking = limiter.caller("general", "192.0.2.1", person(ALICE))
        assert (await limiter.state("api", "192.0.2.1", person(ALICE), asking)).reset_seconds <= gcra.WINDOW_SECONDS
