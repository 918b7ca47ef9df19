"""Starts a Postgres and a Redis of the service's own, in the data folder, where no URL of another one is set.

The data folder is claimed first: one service a folder. Both servers listen on Unix sockets in a private
folder only, are durable, are watched and started again when they die, and end with the service even when it
is killed. Making tables and talking to the servers is left to `db` and `kv`.
"""

import asyncio

from ytdl.embedded.folder import Claim, claim
from ytdl.embedded.postgres import start_postgres
from ytdl.embedded.process import Server
from ytdl.embedded.redis import start_redis

__all__ = ["Claim", "Server", "claim", "start_both", "start_postgres", "start_redis"]


async def start_both(folder: Claim) -> tuple[Server, Server]:
    """Postgres and Redis side by side. Where one can't start, the other is stopped and its error raised."""
    starts = [asyncio.create_task(start_postgres(folder)), asyncio.create_task(start_redis(folder))]
    try:
        await asyncio.wait(starts)
        return starts[0].result(), starts[1].result()
    except BaseException:
        for start in starts:
            start.cancel()
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, Server):
                await outcome.stop()
        raise
