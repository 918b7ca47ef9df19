"""The moments in which something is away or comes too early: outages longer than a lease, words that cross."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests import fetching
from tests.conftest import Person, Service, running
from tests.fakes.gate import Gate
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, look, until
from ytdl import db as database
from ytdl import health, metrics, worker
from ytdl.api.keys import DB, WORKER
from ytdl.attempts import Attempts, Started
from ytdl.config import Config
from ytdl.sql import Query

LEASE = 1.5


@pytest.fixture
async def gate(database_url: str, tmp_path: Path) -> AsyncIterator[Gate]:
    """A door before PostgreSQL."""
    folder = unquote(database_url.partition("host=")[2])
    async with Gate(tmp_path / ".s.PGSQL.5432", Path(folder) / ".s.PGSQL.5432") as gate:
        yield gate


@pytest.fixture
async def behind(downloading_config: Config, gate: Gate, tmp_path: Path) -> AsyncIterator[Service]:
    """A worker that reaches its database through the door."""
    url = re.sub(r"host=.*", f"host={quote(str(tmp_path), safe='')}", downloading_config.database_url)
    config = dataclasses.replace(downloading_config, database_url=url, download_lease_seconds=LEASE)
    async with running(config) as service:
        yield service


@pytest.fixture
async def carl(behind: Service) -> AsyncIterator[Person]:
    async with behind.person("carl") as person:
        yield person


async def away(gate: Gate, seconds: float) -> None:
    await gate.shut()
    await asyncio.sleep(seconds)
    await gate.open()


async def test_an_outage_longer_than_a_lease_costs_a_running_job_nothing(
    carl: Person, behind: Service, gate: Gate, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=40_000)
    ids = [(await ask(carl, youtube.url(f"many_{n:06}"), quality="360p"))["id"] for n in range(3)]
    for id in ids:
        await until(carl, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    await away(gate, LEASE * 3)
    await answered(carl)
    youtube.behave()
    assert [(d["status"], d["attempts"]) for d in [await ended(carl, id) for id in ids]] == [("completed", 1)] * 3
    crashes = Query("test.crashes", "value", "", b"SELECT sum(crashes)::int FROM jobs")
    assert await behind.app[DB].value(crashes) == 0


async def answered(person: Person) -> None:
    for _ in range(600):
        if (await person.get("/downloads")).status == 200:
            return
        await asyncio.sleep(0.05)
    pytest.fail("The service did not come back within 30 s.")


async def test_requests_are_refused_clearly_while_the_database_is_away(carl: Person, gate: Gate) -> None:
    await gate.shut()
    response = await carl.get("/downloads")
    assert (response.status, (await response.json())["code"]) == (503, "unavailable")
    assert int(response.headers["Retry-After"]) > 0
    await gate.open()
    await answered(carl)


async def test_the_title_survives_an_outage(carl: Person, gate: Gate, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", player_delay=1.5)
    youtube.forget()
    id = (await ask(carl, youtube.url("ordinary"), quality="144p"))["id"]
    # The site is asked, and answers when PostgreSQL is away.
    await fetching.until(lambda: any(seen.path.endswith("/player") for seen in youtube.requests), 40)
    await away(gate, 4)
    await answered(carl)
    done = await ended(carl, id, 40)
    assert (done["status"], done["title"]) == ("completed", "An ordinary video")


async def while_leasing(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Does `act` between the commit of a lease and the worker's hearing of it."""
    real = Attempts.lease

    async def lease(self: Attempts, suggested: list[int]) -> list[Started]:
        started = await real(self, suggested)
        if started:
            await act()
        return started

    monkeypatch.setattr(Attempts, "lease", lease)


async def test_a_cancel_that_crosses_the_lease_is_not_lost(
    downloading_config: Config, youtube: YouTube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No beat tells of it in time, and the download would take minutes."""
    youtube.misbehave("*", media_throttle=20_000)
    config = dataclasses.replace(downloading_config, download_lease_seconds=600.0)
    async with running(config) as service, service.person("carl") as carl:

        async def cancel() -> None:
            newest = (await (await carl.get("/downloads")).json())["items"][0]
            assert (await carl.post(f"/downloads/{newest['id']}/cancel")).status == 202

        await while_leasing(monkeypatch, cancel)
        id = (await ask(carl, youtube.url("big008_0001"), quality="360p"))["id"]
        assert (await ended(carl, id))["status"] == "cancelled"


async def test_draining_waits_for_the_lease_that_is_being_taken(
    ann: Person, youtube: YouTube, downloading: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    leasing = asyncio.Event()

    async def linger() -> None:
        leasing.set()
        await asyncio.sleep(0.3)

    monkeypatch.setattr(worker, "HAND_BACK_SECONDS", 30.0)
    await while_leasing(monkeypatch, linger)
    id = (await ask(ann, youtube.url("ordinary")))["id"]
    await leasing.wait()
    await downloading.app[WORKER].drain()
    rows = await (await ann.get(f"/downloads/{id}/logs")).json()
    assert ((await look(ann, id))["status"], [r["status"] for r in rows]) == ("queued", ["yielded"])


async def test_a_retry_right_after_a_cancel_keeps_its_folder(
    ann: Person, youtube: YouTube, downloading: Service
) -> None:
    youtube.misbehave("ordinary", media_throttle=40_000)
    id = (await ask(ann, youtube.url("ordinary"), quality="360p"))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    await ann.post(f"/downloads/{id}/cancel")
    await ended(ann, id)
    youtube.behave()
    for _ in range(3):
        await ann.post(f"/downloads/{id}/retry")
        await ann.post(f"/downloads/{id}/cancel")
        await ended(ann, id)
    assert (await ann.post(f"/downloads/{id}/retry")).status in (202, 409)
    assert (await ended(ann, id))["status"] in ("completed", "cancelled")


async def test_what_a_stopped_attempt_used_is_written_down(ann: Person, youtube: YouTube) -> None:
    youtube.misbehave("*", media_throttle=60_000)
    id = (await ask(ann, youtube.url("big008_0001"), quality="360p"))["id"]
    await until(ann, id, lambda d: d["progress"]["downloaded_bytes"] > 0)
    await ann.post(f"/downloads/{id}/cancel")
    await ended(ann, id)
    (row,) = await (await ann.get(f"/downloads/{id}/logs")).json()
    assert row["status"] == "cancelled" and row["cpu_seconds"] > 0 and row["peak_memory_bytes"] > 2**20
    assert row["downloaded_bytes"] > 0 and row["speed_bytes_per_second"] > 0


async def test_deleting_a_finished_download_is_no_cancelling(ann: Person, youtube: YouTube) -> None:
    id = (await ask(ann, youtube.url("ordinary"), quality="144p"))["id"]
    await ended(ann, id)
    cancelled = metrics.downloads_finished.labels("cancelled")._value
    before = cancelled.get()
    await ann.delete(f"/downloads/{id}")
    assert cancelled.get() == before


async def test_nothing_is_counted_that_was_not_committed(alice: Person, service: Service) -> None:
    counted = metrics.queue_transitions.labels("cancel")._value
    before = counted.get()
    with pytest.raises(ZeroDivisionError):
        async with service.app[DB].transaction() as tx:
            tx.on_commit(metrics.queue_transitions.labels("cancel").inc)
            raise ZeroDivisionError
    assert counted.get() == before
    async with service.app[DB].transaction() as tx:
        tx.on_commit(metrics.queue_transitions.labels("cancel").inc)
        assert counted.get() == before
    assert counted.get() == before + 1


@pytest.mark.slow
async def test_a_database_that_says_nothing_is_not_waited_for_without_end(
    carl: Person, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(carl)
    monkeypatch.setattr(database, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)
    gate.stall()
    # Then the driver has ten seconds to end the statement.
    async with asyncio.timeout(60):
        assert (await carl.get("/downloads")).status == 503
        assert (await carl.get("//readyz")).status == 503
    await gate.open()
    await answered(carl)
