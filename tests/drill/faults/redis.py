"""Redis stopped, full, slow or unable to write."""

import shutil
from collections.abc import AsyncIterator

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin


@fault("redis-down", "Redis is stopped", "RedisDown", also=("RateLimiterDegraded",))
async def _down(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.stop_redis()
    yield
    await ground.start_redis()


@fault("redis-emptied", "Redis is emptied", "IndexRebuilt")
async def _emptied(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.index() as index:
        await index.flushall()
    yield


@fault("redis-nearly-full", "Redis may have little more memory than it uses", "RedisMemoryNearLimit")
async def _nearly_full(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.index() as index:
        used = (await index.info("memory"))["used_memory"]
        await index.config_set("maxmemory", int(used * 1.04))
        yield
        await index.config_set("maxmemory", 0)


@fault("redis-evicting", "Redis is told to forget keys when it is full", "RedisEvicting")
async def _evicting(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.index() as index:
        await index.mset({f"drill:{n}": "x" * 1000 for n in range(2000)})
        used = (await index.info("memory"))["used_memory"]
        await index.config_set("maxmemory-policy", "allkeys-random")
        await index.config_set("maxmemory", used - 500_000)
        yield
        await index.config_set("maxmemory", 0)
        await index.config_set("maxmemory-policy", "noeviction")
        await index.flushall()


@fault("redis-unwritten", "The folder that Redis writes to is gone", "RedisPersistenceFailing")
async def _unwritten(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    shutil.rmtree(ground.claim.folder / "redis")
    async with ground.index() as index, again(index.bgsave, 1.0):
        yield
    await ground.stop_redis()
    await ground.start_redis()


@fault("redis-slow", "Redis takes a fifth of a second for some calls", "RedisSlow")
async def _slow(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.index() as index, again(lambda: index.eval("local n = 0 while n < 2e7 do n = n + 1 end", 0), 0.3):
        yield


@fault("redis-full", "Redis may have less memory than it uses", "RedisCallsFailing")
async def _full(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.index() as index:
        await index.config_set("maxmemory", 1_000_000)
        yield
        await index.config_set("maxmemory", 0)
