"""Redis as the rest of the service sees it: it answers, or it is `Down`."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote
from uuid import uuid4

import pytest

from tests.fakes.gate import Gate
from ytdl import errors, kv
from ytdl.kv import KV, Down


@pytest.fixture
async def gate(redis_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    async with Gate(tmp_path / "gate", Path(unquote(redis_url.removeprefix("unix://")))) as gate:
        yield gate


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is given up only because the machine stands still."""
    monkeypatch.setattr(kv, "TIMEOUT_SECONDS", 30.0)


@pytest.fixture
async def behind(gate: Gate, patient: None) -> AsyncIterator[KV]:
    """Reaches Redis through the gate."""
    client = KV(f"unix://{gate.path}", f"behind-{uuid4()}")
    yield client
    await client.close()


async def test_keys_stand_below_the_prefix(kv: KV) -> None:
    assert kv.key("queue", "users") == f"{kv.prefix}:queue:users"


async def test_a_value_is_text_or_nothing(kv: KV) -> None:
    await kv.client.set(kv.key("a"), "ä")
    assert (await kv.get(kv.key("a")), await kv.get(kv.key("b"))) == ("ä", None)


async def test_a_script_that_redis_forgot_is_sent_again(kv: KV) -> None:
    for _ in range(2):
        assert await kv.script("queue", [kv.key("queue")], ["rank", "", 1, 1]) == "EPOCH"
        await kv.client.script_flush()


async def test_what_redis_calls_an_error_is_down(kv: KV) -> None:
    await kv.client.set(kv.key("queue", "epoch"), "1")
    await kv.client.set(kv.key("queue", "jobs"), "not a hash")
    with pytest.raises(Down):
        await kv.script("queue", [kv.key("queue")], ["rank", "1", 1, 1])


async def test_with_nobody_there_every_call_is_down_at_once(patient: None) -> None:
    nobody = KV("redis://127.0.0.1:1", "x")
    async with asyncio.timeout(10):
        for call in (nobody.ping(), nobody.get("a"), nobody.script("queue", ["x"], ["rank", "", 1, 1])):
            with pytest.raises(errors.Unavailable) as caught:
                await call
            assert caught.value.retry_after
    await nobody.close()


async def test_a_redis_that_came_back_is_used_again_without_an_error(behind: KV, gate: Gate) -> None:
    await asyncio.gather(*(behind.ping() for _ in range(5)))
    await gate.shut()
    await gate.open()
    await asyncio.gather(*(behind.ping() for _ in range(5)))


async def test_a_redis_that_says_nothing_is_down_within_the_timeout(
    behind: KV, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the call: the client library's own are 30 seconds here."""
    await behind.ping()
    gate.stall()
    monkeypatch.setattr(kv, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(kv, "SILENT_SECONDS", 60.0)
    async with asyncio.timeout(10):
        with pytest.raises(Down):
            await behind.ping()
    monkeypatch.setattr(kv, "TIMEOUT_SECONDS", 30.0)
    async with asyncio.timeout(10):
        with pytest.raises(Down):
            # Whoever comes next need not wait as well.
            await behind.ping()
    await gate.open()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60, perf_counter=time.perf_counter)
    monkeypatch.setattr(kv, "time", later)
    await behind.ping()


async def test_a_call_that_was_cancelled_leaves_no_answer_for_the_next(kv: KV) -> None:
    for n in range(20):
        await kv.client.set(kv.key(str(n)), n)

    async def ask(n: int) -> None:
        assert await kv.get(kv.key(str(n))) == str(n)

    for _ in range(30):
        tasks = [asyncio.create_task(ask(n)) for n in range(20)]
        await asyncio.sleep(random.uniform(0, 0.004))
        for task in random.sample(tasks, 10):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)


async def test_once_closed_every_call_is_down(redis_url: str) -> None:
    closed = KV(redis_url, "x")
    await closed.ping()
    await closed.close()
    for call in (closed.ping(), closed.get("a"), closed.script("queue", ["x"], ["rank", "", 1, 1])):
        with pytest.raises(Down):
            await call


async def test_what_is_under_way_comes_to_its_end_before_all_is_closed(behind: KV, gate: Gate) -> None:
    await behind.ping()
    gate.stall()
    asking = asyncio.create_task(behind.ping())
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(behind.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    await gate.open()
    await asyncio.gather(asking, closing)
