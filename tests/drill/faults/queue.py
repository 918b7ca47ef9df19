"""Nobody takes downloads, takes them too late, or loses them."""

import re
from collections.abc import AsyncIterator

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin

REFUSE_LEASES = """
CREATE FUNCTION drill_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER drill BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.state = 'running' AND OLD.state <> 'running')
EXECUTE FUNCTION drill_refuse()
"""


@fault(
    "leases-refused", "A trigger in the database keeps jobs from being taken", "QueueStalled", also=("OldestJobTooOld",)
)
async def _refused(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute(REFUSE_LEASES.encode())
        yield
        await db.execute("DROP TRIGGER drill ON jobs")
        await db.execute("DROP FUNCTION drill_refuse")


@fault("no-workers", "Every process is an API only", "NoWorkers", apart=True)
async def _no_workers(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.kill_service()
    await ground.start_service(DOWNLOAD_CONCURRENCY="0")
    yield
    await ground.kill_service()
    await ground.start_service()


@fault("slots-full", "Downloads take long, and more are asked for than are done", "WorkersSaturated")
async def _full(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_throttle=3000)
    yield
    await ground.behave()


@fault("gives-up", "Downloads fail until they are given up", "DeadLettersGrowing", also=("SuccessBudgetBurn",))
async def _gives_up(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(player_status=503)
    async with again(admin.download, 0.5):
        yield
    await ground.behave()


@fault("workers-lost", "The service is killed in the middle of its downloads", "JobsReaped", apart=True)
async def _lost(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_throttle=3000)
    for _ in range(6):
        await admin.download()
    await ground.running(6)
    await ground.kill_service()
    await ground.start_service()
    yield
    await ground.behave()


@fault("index-damaged", "Somebody deletes in Redis who waits", "RedisIndexDiverged")
async def _damaged(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.misbehave(media_throttle=3000)
    for _ in range(30):
        await admin.download()
    async with ground.index() as index:
        keys = [key async for key in index.scan_iter() if re.search(rb":u:|:jobs$", key)]
        await index.delete(*keys)
        yield
    await ground.behave()
