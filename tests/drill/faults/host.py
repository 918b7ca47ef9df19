"""The disk full, or about to be."""

import asyncio
from collections.abc import AsyncIterator

from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin


@fault("disk-full", "The disk for downloads is full", "DiskFull", also=("NotReady",))
async def _full(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.fill_disk()
    yield
    ground.free_disk()


@fault("disk-short", "The disk has no room for what downloads want", "DownloadsPutOffForDisk")
async def _short(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.fill_disk(leave=40 * 2**20)
    # Each is put off once a minute, and the same one asked for twice is one. Together they are too large for the disk.
    asked = [(await admin.download(f"big032_{number:04}"))[1]["id"] for number in range(1, 15)]
    yield
    for id in asked:
        await admin.request("POST", f"/downloads/{id}/cancel")
    ground.free_disk()


@fault("disk-filling", "The disk fills slowly", "DiskWillFill")
async def _filling(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.fill_disk(leave=90 * 2**20)
    async with again(lambda: asyncio.to_thread(ground.add_to_disk, 2**18), 1.0):
        yield
    ground.free_disk()
