"""Blocked networks over HTTP, for admins: a list, one, a new one, and lifting one."""

from aiohttp import hdrs, web

from ytdl.api.http import BASE, Answer, client_ip, path_uuid, who
from ytdl.api.keys import BLOCKS
from ytdl.blocks import Block, BlockFilter, BlockPage, NewBlock


async def page(request: web.Request, query: BlockFilter) -> BlockPage:
    """List blocked addresses and networks, the newest first.

    Those in force, or with `active=false` those that ended within the last week.
    """
    return await request.app[BLOCKS].page(query)


async def create(request: web.Request, body: NewBlock) -> Answer:
    """Block an address or a network for some time.

    Every process refuses it within a second, and streams that are open to it end. A network with a trusted proxy, this
    machine or your own address in it cannot be blocked.
    """
    block = await request.app[BLOCKS].add(body, user_id=who(request).user_id, address=client_ip(request))
    return Answer(block, headers={hdrs.LOCATION: f"{BASE}/security/blocks/{block.id}"})


async def get(request: web.Request) -> Block:
    """Look at one block."""
    return await request.app[BLOCKS].get(path_uuid(request, "id"))


async def lift(request: web.Request) -> None:
    """Lift a block.

    Whoever it was made for is let in again within a second, and begins without points.
    """
    await request.app[BLOCKS].lift(path_uuid(request, "id"))
