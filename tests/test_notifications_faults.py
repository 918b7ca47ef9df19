"""Alertmanager reads another file, may not read it, hangs or is something else, and the database is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from tests import alerting, watching
from tests.alerting import PATH, Stage
from tests.servers import Servers
from tests.test_alertmanager import answering, saying
from ytdl import alertmanager, metrics, notifications, routing, trials
from ytdl.api.keys import NOTIFICATIONS
from ytdl.channels import Settings, Webhook
from ytdl.notifications import Notifications

pytestmark = [watching.needs_alertmanager, pytest.mark.asyncio(loop_scope="module")]
DENIED = b"failed to reload config: open /etc/alertmanager.yml: permission denied"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with alerting.staged(servers, tmp_path_factory.mktemp("faults")) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(whole: Stage) -> AsyncIterator[Stage]:
    await whole.forget()
    yield whole


def own(stage: Stage) -> Notifications:
    return stage.service.app[NOTIFICATIONS]


def reloads(outcome: str) -> float:
    return metrics.REGISTRY.get_sample_value("ytdl_notifications_reloads_total", {"outcome": outcome}) or 0.0


async def until(stage: Stage, in_force: bool | None) -> None:
    async with asyncio.timeout(30):
        while (await own(stage).state()).in_force is not in_force:  # noqa: ASYNC110 - rounds are waited for
            await asyncio.sleep(0.05)


@asynccontextmanager
async def talking_to(
    stage: Stage, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], patch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """The service has something else for its Alertmanager."""
    async with answering(answer) as other:
        with patch.context() as patched:
            patched.setattr(own(stage), "_alertmanager", other)
            yield


async def test_a_file_that_alertmanager_may_not_read_is_not_left_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not what the admin sent that is wrong, and a restart of Alertmanager finds what it had."""
    stage.file.chmod(0o644)
    before = stage.file.stat()
    async with talking_to(stage, saying(DENIED, 500), monkeypatch):
        refused = await stage.set_all("hook", status=503)
        after = stage.file.stat()
    assert "runs as another user" in refused["detail"]
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


async def nothing(*_: object) -> None:
    pass


async def test_an_alertmanager_that_reads_another_file_is_found_out(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, told = await stage.set_all("hook"), reloads("elsewhere")
    # A round that came between would find what was in force before, which it still is.
    monkeypatch.setattr(own(stage), "_follow", nothing)
    monkeypatch.setattr(own(stage), "_file", tmp_path / "alertmanager.yml")
    refused = await stage.set(dead_man={"channel": "hook"}, status=503)
    assert "does not read ALERTMANAGER_CONFIG_FILE" in refused["detail"]
    shown = await own(stage).state()
    assert shown.version == first["version"] and shown.in_force is not True and reloads("elsewhere") > told


async def test_rounds_find_it_out_and_reload_once_in_a_while(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reload begins Alertmanager's waits anew: in every round, nobody would hear of anything."""
    await stage.set_all("hook")
    (tmp_path / "other.yml").write_text(routing.shipped())
    async with watching.alertmanager(tmp_path, tmp_path / "other.yml") as other:
        asked = alertmanager.Alertmanager(other.url)
        told = reloads("elsewhere")
        monkeypatch.setattr(own(stage), "_alertmanager", asked)
        for _ in range(3):
            await own(stage).follow()
        assert (await own(stage).state()).in_force is False and reloads("elsewhere") == told + 1
        monkeypatch.undo()
        async with own(stage)._turn:
            # The service's own round has done with it, too.
            await asked.close()


async def test_whoever_says_yes_to_everything_is_not_believed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking_to(stage, saying(b"<html>Welcome</html>"), monkeypatch):
        refused = await stage.set_all("hook", status=503)
        assert refused["detail"].startswith("Nothing was changed")
        await until(stage, None)


async def test_in_force_is_not_known_without_alertmanager(stage: Stage) -> None:
    await stage.set_all("hook")
    await stage.alertmanager.kill()
    await until(stage, None)
    await stage.alertmanager.start()
    await until(stage, True)


async def test_in_force_is_not_known_where_the_file_cannot_be_written(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.set_all("hook")
    (tmp_path / "no folder").touch()
    monkeypatch.setattr(own(stage), "_file", tmp_path / "no folder" / "alertmanager.yml")
    await until(stage, None)


async def test_an_alertmanager_that_hangs_leaves_the_database_to_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a request waits for a connection, which would be refused then."""
    over = asyncio.Event()
    hasten(monkeypatch, 30.0)

    async def hanging(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    async with talking_to(stage, hanging, monkeypatch):
        changes = [asyncio.create_task(stage.root.post(PATH, {"dead_man": None})) for _ in range(15)]
        await asyncio.sleep(0.5)
        assert (await stage.root.get("/downloads")).status == 200
        over.set()
        assert {(await change).status for change in changes} == {503}
        over.clear()
        hasten(monkeypatch, 0.5)
        assert {(await stage.root.post(PATH, {"dead_man": None})).status for _ in range(2)} == {503}
        over.set()


def hasten(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """So long at most a change waits for Alertmanager, or for another change."""
    monkeypatch.setattr(alertmanager, "TIMEOUT_SECONDS", seconds)
    monkeypatch.setattr(notifications, "TURN_SECONDS", seconds)


async def test_a_second_test_is_told_of_the_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "EACH_SECONDS", 30.0)
    stage.chat.silent = {"telegram"}
    first = asyncio.create_task(stage.set_all("telegram", test=True))
    await stage.chat.until_asked("telegram", seconds=25)
    refused = await stage.set(channels=[], routes=[], test=True, status=409)
    assert "a test is under way" in refused["detail"]
    monkeypatch.setattr(trials, "EACH_SECONDS", 0.0)
    answer = await first
    assert (await own(stage).state()).version == answer["version"]


async def test_a_change_that_was_made_is_told_so_though_its_test_was_cut_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.chat.silent = {"telegram"}
    monkeypatch.setattr(trials, "EACH_SECONDS", 30.0)
    asking = asyncio.create_task(stage.set_all("hook", "telegram", test=True))
    await stage.chat.until_asked("telegram", seconds=25)
    await stage.alertmanager.kill()
    answer = await asking
    await stage.alertmanager.start()
    await until(stage, True)
    assert {trial["channel"]: trial["outcome"] for trial in answer["tests"]}["telegram"] == "unknown"
    assert (await own(stage).state()).version == answer["version"]


async def test_an_empty_database_silences_nobody(servers: Servers, tmp_path: Path) -> None:
    """As where its folder is lost: what the file says stays, until an admin says what is to be."""
    hook = Webhook(name="hook", url="https://hooks.example/***")
    kept = routing.render(
        Settings(channels=[hook]), {"hook": {"url": "https://hooks.example/x"}}, routing.Surroundings()
    )
    async with alerting.staged(servers, tmp_path) as stage:
        await until(stage, True)
        stage.file.write_text(kept)
        await until(stage, False)
        await own(stage).follow()
        assert stage.file.read_text() == kept and reloads("withheld") > 0
        await stage.set(channels=[], routes=[])
        assert stage.file.read_text() != kept
        await until(stage, True)
