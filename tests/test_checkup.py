"""The service's state in one word, and the check by hand: what it writes and runs, and what it finds broken."""

import asyncio
import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import Person, Service, running
from tests.queueing import sql
from tests.redises import OwnRedis
from tests.watching import needs_prometheus, prometheus
from ytdl import checkup
from ytdl.api.keys import CHECKUP, HEALTH, KV
from ytdl.api.keys import DB as DB_KEY
from ytdl.config import Config
from ytdl.fetcher import forkserver
from ytdl.health import Health

OFF = {"prometheus": "off", "alertmanager": "off"}


@pytest.fixture(autouse=True)
def looking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "BELIEVED_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is not over after two seconds: nothing here is about what takes long, and machines stand still."""
    monkeypatch.setattr(Health, "ask", functools.partialmethod(Health.ask, seconds=20.0))


async def looked(person: Person) -> dict[str, Any]:
    return await found(await person.get("/monitoring/health"))


async def tried(person: Person) -> dict[str, Any]:
    return await found(await person.post("/monitoring/health/check"))


async def found(answer: Any) -> dict[str, Any]:
    """The status, and each check by its name."""
    condition = await answer.json()
    assert answer.status == 200, condition
    return {"status": condition["status"], **{check["name"]: check for check in condition["checks"]}}


def states(condition: dict[str, Any]) -> dict[str, str]:
    return {name: check["status"] for name, check in condition.items() if name != "status"}


async def test_anyone_signed_in_sees_how_the_service_is(alice: Person) -> None:
    condition = await looked(alice)
    assert condition["status"] == "ok"
    assert states(condition) == {"postgres": "ok", "redis": "ok", "disk": "ok", **OFF}
    assert condition["postgres"]["latency_seconds"] > 0 and "PostgreSQL" in condition["postgres"]["detail"]
    assert "PROMETHEUS_URL" in condition["prometheus"]["detail"]


async def test_what_many_ask_at_once_is_looked_at_once(
    service: Service, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "BELIEVED_SECONDS", 60.0)
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        return "asked"

    service.app[HEALTH].asks["disk"] = ask
    conditions = await asyncio.gather(*(looked(alice) for _ in range(10)))
    assert {condition["disk"]["detail"] for condition in conditions} == {"asked"} and asked == 1


async def test_strangers_see_nothing(service: Service) -> None:
    assert (await service.client.get("/api/v1/monitoring/health")).status == 401


async def test_a_check_is_for_admins(alice: Person) -> None:
    assert (await alice.post("/monitoring/health/check")).status == 403


async def test_a_check_writes_and_reads_back_and_leaves_nothing(service: Service, root: Person) -> None:
    before = set(service.config.data_dir.iterdir())
    condition = await tried(root)
    assert condition["status"] == "ok"
    for name in ("postgres", "redis", "disk"):
        assert "written and read back" in condition[name]["detail"]
    assert await sql(service.app[DB_KEY], "SELECT count(*) FROM health_probes") == [(0,)]
    kv = service.app[KV]
    assert [key async for key in kv.client.scan_iter(match=kv.key("probe", "*"))] == []
    assert set(service.config.data_dir.iterdir()) == before


async def test_what_a_check_left_that_died_goes_with_a_later_one(service: Service, root: Person) -> None:
    await sql(
        service.app[DB_KEY],
        "INSERT INTO health_probes VALUES (gen_random_uuid(), now() - interval '2 h'), (gen_random_uuid(), now())",
    )
    await tried(root)
    assert await sql(service.app[DB_KEY], "SELECT count(*) FROM health_probes") == [(1,)]


async def test_a_worker_runs_its_programs(downloading: Service) -> None:
    async with downloading.person("root", role="admin") as root:
        condition = await tried(root)
    assert (
        states(condition) == dict.fromkeys(("postgres", "redis", "disk", "ytdlp", "javascript", "ffmpeg"), "ok") | OFF
    )
    assert condition["javascript"]["detail"].endswith("ran a script")
    assert condition["ffmpeg"]["detail"].endswith("ran")
    assert condition["ytdlp"]["detail"].endswith("forked a job")


async def test_a_fork_server_that_hangs_is_found_by_trying(
    downloading: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look would be content with what it said when it was warm."""
    fetcher = downloading.app[HEALTH]._fetcher
    assert fetcher and fetcher.zygote_pid
    async with downloading.person("root", role="admin") as root:
        os.kill(fetcher.zygote_pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(forkserver, "TRY_SECONDS", 0.5)
            hung = await tried(root)
        assert (await looked(root))["ytdlp"]["status"] == "ok"
        os.kill(fetcher.zygote_pid, signal.SIGCONT)
        assert (await tried(root))["ytdlp"]["status"] == "ok"
    assert (hung["status"], hung["ytdlp"]["status"]) == ("degraded", "failing")
    assert hung["ytdlp"]["detail"] == "The fork server does not start a job when asked."


async def test_an_ffmpeg_that_does_not_run_any_more_is_found_by_trying(downloading: Service, tmp_path: Path) -> None:
    """A look would be content with the version that was found before."""
    async with downloading.person("root", role="admin") as root:
        assert (await looked(root))["ffmpeg"]["status"] == "ok"
        fetcher = downloading.app[HEALTH]._fetcher
        assert fetcher
        fetcher._settings = dataclasses.replace(fetcher._settings, ffmpeg=str(tmp_path / "gone"), deno="/bin/false")
        assert (await looked(root))["ffmpeg"]["status"] == "ok"
        condition = await tried(root)
    assert (condition["status"], condition["ffmpeg"]["status"]) == ("degraded", "failing")
    assert (condition["javascript"]["status"], condition["ytdlp"]["status"]) == ("failing", "ok")


async def test_a_folder_that_takes_no_file_is_found(service: Service, root: Person) -> None:
    """The user of these tests may write everywhere, so the folder goes away instead."""
    service.app[CHECKUP]._storage.root = Path("/proc/1/nowhere")
    condition = await tried(root)
    assert (condition["status"], condition["disk"]["status"]) == ("degraded", "failing")
    assert condition["disk"]["detail"]


async def test_without_redis_it_is_degraded(config: Config, own_redis: OwnRedis) -> None:
    config = dataclasses.replace(config, redis_url=own_redis.url)
    async with running(config) as service, service.person("root", role="admin") as root:
        own_redis.kill()
        for condition in (await looked(root), await tried(root)):
            assert (condition["status"], condition["redis"]["status"]) == ("degraded", "failing")
            assert condition["postgres"]["status"] == "ok"
        await own_redis.start()


async def test_a_database_that_only_reads_passes_a_look_and_fails_a_check(
    service: Service, root: Person, database_url: str
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    await sql(service.app[DB_KEY], f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    # Also of those connections that a round of the service has just now.
    await service.app[DB_KEY]._pool.drain()
    assert (await looked(root))["postgres"]["status"] == "ok"
    condition = await tried(root)
    assert (condition["status"], condition["postgres"]["status"]) == ("down", "failing")


async def test_a_database_that_takes_no_row_fails_a_check(service: Service, root: Person) -> None:
    await sql(service.app[DB_KEY], "ALTER TABLE health_probes ADD CONSTRAINT full_up CHECK (false)")
    condition = await tried(root)
    assert (condition["status"], condition["postgres"]["status"]) == ("down", "failing")


async def test_a_service_about_to_stop_is_down(service: Service, root: Person) -> None:
    service.app[HEALTH].draining = True
    condition = await looked(root)
    assert condition["status"] == "down" and set(states(condition).values()) == {"ok", "off"}


async def test_checks_do_not_run_beside_each_other(service: Service, root: Person) -> None:
    """Ten at once come to an end, one after the other."""
    conditions = await asyncio.gather(*(tried(root) for _ in range(10)))
    assert {condition["status"] for condition in conditions} == {"ok"}


@needs_prometheus
async def test_prometheus_is_asked_where_there_is_one(config: Config, tmp_path: Path) -> None:
    async with prometheus(tmp_path / "prometheus", {}) as watcher:
        config = dataclasses.replace(config, prometheus_url=watcher.url)
        async with running(config) as service, service.person("root", role="admin") as root:
            assert (await looked(root))["prometheus"]["detail"].startswith("Prometheus 2.")
            await watcher.kill()
            condition = await looked(root)
            assert (condition["status"], condition["prometheus"]["status"]) == ("degraded", "failing")


@contextlib.asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[str]:
    """A server that answers everything so; its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text"), [(200, "<html>"), (422, "{}"), (200, '{"x":' + "[" * 9999), (200, " " * 9 * 2**20)]
)
async def test_what_is_no_prometheus_is_told_apart(config: Config, status: int, text: str) -> None:
    async def other(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    async with answering(other) as url:
        config = dataclasses.replace(config, prometheus_url=url)
        async with running(config) as service, service.person("root", role="admin") as root:
            check = (await looked(root))["prometheus"]
    assert (check["status"], check["detail"]) == (
        "failing",
        "What is at PROMETHEUS_URL does not answer like Prometheus.",
    )


async def test_alertmanager_is_asked_where_there_is_one(config: Config) -> None:
    status = 200

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with answering(handler) as url:
        config = dataclasses.replace(config, alertmanager_url=url)
        async with running(config) as service, service.person("root", role="admin") as root:
            assert (await tried(root))["alertmanager"]["status"] == "ok"
            status = 503
            condition = await tried(root)
    assert (condition["status"], condition["alertmanager"]["status"]) == ("degraded", "failing")
