"""The disk full."""

from collections.abc import AsyncIterator

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin


@fault("disk-full", "The disk for downloads is full", "DiskFull")
async def _full(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.fill_disk()
    yield
    ground.free_disk()


@fault("disk-short", "The disk has no room for what downloads want", "DownloadsPutOffForDisk")
async def _short(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.fill_disk(leave=12 * 2**20)
    async with again(lambda: admin.download("big032_0001"), 1.0):
        yield
    ground.free_disk()
