"""The service killed, hung, short of memory, or failing at what it does."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator

import psutil

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin


@fault("service-killed", "The service is killed and stays away", "InstanceDown", apart=True, silent=("twilio",))
async def _killed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.kill_service()
    yield
    await ground.start_service()


@fault("service-restarting", "The service is killed again and again", "InstanceRestarting", apart=True)
async def _restarting(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    for _ in range(3):
        await ground.kill_service()
        await ground.start_service()
        await ground.seen()
    yield


@fault("loop-blocked", "The event loop stands still for half a second, again and again", "EventLoopLagHigh")
async def _blocked(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async def pulse() -> None:
        os.kill(ground.instance.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.5)
        finally:
            os.kill(ground.instance.pid, signal.SIGCONT)

    async with again(pulse, 0.3):
        yield


@fault(
    "requests-slow",
    "Each query takes half a second more",
    "RequestsTooSlow",
    also=(
        "LatencyBudgetBurn",
        "PoolWaitHigh",
    ),
)
async def _slow(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.gate.delay = 0.25
    yield
    ground.gate.delay = 0.0


@fault("requests-failing", "A table that most requests read is renamed", "HighErrorRatio")
async def _failing(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("ALTER TABLE downloads RENAME TO elsewhere")
        yield
        await db.execute("ALTER TABLE elsewhere RENAME TO downloads")


@fault(
    "budget-spent", "The same, as the objective of availability sees it", "AvailabilityBudgetBurn", severity="critical"
)
async def _spent(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("ALTER TABLE downloads RENAME TO elsewhere")
        yield
        await db.execute("ALTER TABLE elsewhere RENAME TO downloads")


@fault("postgres-silent", "PostgreSQL says nothing any more", "PostgresDown", apart=True, silent=("twilio",))
async def _silent(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.gate.stall()
    yield
    await ground.gate.open()


@fault("loop-failing", "The table of the ways out is renamed", "LoopFailing")
async def _loop_failing(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("ALTER TABLE egress_lanes RENAME TO elsewhere")
        yield
        await db.execute("ALTER TABLE elsewhere RENAME TO egress_lanes")


@fault("sign-in-crowd", "Two hundred sign in at once", "PasswordsRefused")
async def _crowd(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    wrong = [{"username": f"nobody{n}", "password": "Wrong-horse-9"} for n in range(200)]
    asking = asyncio.gather(*(admin.ask("POST", "/auth/login", one) for one in wrong), return_exceptions=True)
    yield
    await asking


@fault("memory-short", "Eighty downloads run at once, more than the memory is meant for", "MemoryNearLimit", apart=True)
async def _memory(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.kill_service()
    await ground.start_service(DOWNLOAD_CONCURRENCY="80", DOWNLOAD_USER_CONCURRENCY="80", DOWNLOAD_STALL_SECONDS="60")
    await ground.misbehave(media_throttle=2000)
    for number in range(80):
        await admin.download(f"big002_{number:04}")
    yield
    await ground.behave()
    await ground.kill_service()
    await ground.start_service()


@fault("files-short", "The service may open few more files than it has", "FilesNearLimit")
async def _files(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    # Prometheus keeps its connection; after the last fault's restart it must have got one first.
    await ground.seen()
    process = psutil.Process(ground.instance.pid)
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)

    async def narrow() -> None:
        # What is open when the fault begins may be more than what is open later, when downloads have ended. Without a
        # few to spare the service cannot even count its own, as that opens a folder, and then has no figure of them.
        least = min(process.num_fds() + 4, resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0])
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (least, hard))

    async with again(narrow, 0.5):
        yield
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
