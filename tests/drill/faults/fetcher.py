"""The site refuses, has changed, fails or is slow; what fetches is killed."""

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin


@fault("site-changed", "The site's answers are not what yt-dlp reads", "ExtractorBroken")
async def _changed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(player_garbage=True)
    yield
    await ground.behave()


@fault("site-failing", "The site answers with errors", "SiteFailing")
async def _failing(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(player_status=503)
    async with again(admin.download, 0.5):
        yield
    await ground.behave()


@fault("media-refused", "The site describes videos and refuses their files", "MediaForbidden")
async def _refused(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_status=403)
    async with again(admin.download, 0.5):
        yield
    await ground.behave()


@fault("transfers-stall", "The site stops in the middle of files", "JobsStalling")
async def _stall(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_stall_after=5000)
    yield
    await ground.behave()


@fault("fork-server-killed", "Somebody kills the fork server now and then", "ForkServerRestarting")
async def _fork_server_killed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with again(_killing(lambda: _fork_servers(ground)), 4.0):
        yield


@fault("fork-server-gone", "The fork server is killed whenever it comes back", "ForkServerDown")
async def _fork_server_gone(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with again(_killing(lambda: _fork_servers(ground)), 0.1):
        yield


@fault("bot-check", "The site wants to know whether the server is a person", "BotChecksRising")
async def _bot_check(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(player_locked="bot_check")
    yield
    await ground.behave()


@fault("site-closed", "The site answers everybody with 429", "AllLanesPaused")
async def _closed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(player_status=429)
    yield
    await ground.behave()


@fault("jobs-killed", "Somebody kills the processes of downloads", "AttemptsFailHere", apart=True)
async def _jobs_killed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_throttle=5000)
    async with again(_killing(lambda: _jobs(ground)), 0.3):
        yield
    await ground.behave()


@fault(
    "cookies-broken",
    "The operator's file of cookies is no such file",
    "OperatorCookiesUnusable",
    apart=True,
    also=("OperatorCookiesOld",),
)
async def _cookies_broken(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    file = ground.folder / "cookies.txt"
    file.write_text("{}")
    os.utime(file, (0, time.time() - 40 * 86400))
    await ground.kill_service()
    await ground.start_service(YTDLP_COOKIES_FILE=str(file))
    await ground.seen()
    yield
    await ground.kill_service()
    await ground.start_service()


def _killing(find: Callable[[], list[psutil.Process]]) -> Callable[[], Awaitable[None]]:
    async def kill() -> None:
        for process in find():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    return kill


def _fork_servers(ground: Ground) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(ground.instance.pid).children()
    return []


def _jobs(ground: Ground) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [job for server in _fork_servers(ground) for job in server.children()]
    return []
