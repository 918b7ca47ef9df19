"""The operational addresses: alive, ready, metrics. None of them asks who is there."""

from aiohttp import web


async def healthz(request: web.Request) -> dict[str, str]:
    """Says that the process is alive.

    Asks nothing else: a database that is away is no reason to restart this process.
    """
    return {"status": "ok"}
