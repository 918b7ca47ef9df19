"""Rate limits over HTTP: who a request counts for, the headers of every counted answer, and the own state.

A row's `limit` says what it counts as. Whoever could not be identified, and whatever no route answers, counts for the
address, so that guessing is limited too. The policies and the counting are `ytdl.ratelimit`'s.
"""

import time

from aiohttp import web
from multidict import CIMultiDict, istr

from ytdl import log
from ytdl.api.keys import CALLER, IDENTITY, LIMITER
from ytdl.ratelimit import Kind, State

# The syntax is that of draft-ietf-httpapi-ratelimit-headers-11.
POLICY, LIMIT = istr("RateLimit-Policy"), istr("RateLimit")


async def count(request: web.Request, kind: Kind) -> None:
    """Raises `errors.RateLimited`."""
    limiter = request.app[LIMITER]
    request[CALLER] = caller = limiter.caller(kind, log.client_ip.get() or "", request.get(IDENTITY))
    # What is leased already is spent here, which saves most requests a coroutine.
    if not caller.spend(time.monotonic()):
        await limiter.take(caller)


def advertise(request: web.Request, headers: CIMultiDict[str]) -> None:
    """As of now, so an answer that took long says what is left by then."""
    caller = request.get(CALLER)
    if caller is not None:
        headers[POLICY] = caller.advertised
        headers[LIMIT] = caller.remaining()


async def state(request: web.Request) -> State:
    """See how many requests you have left.

    `api` is the general policy. Those of your address are shared by all who use it: `address`, and `login` for
    signing in. `create` is for new downloads. Asking counts like any other request, and nothing more.
    """
    ip, identity = log.client_ip.get() or "", request[IDENTITY]
    return await request.app[LIMITER].state(request.match_info["policy"], ip, identity, request[CALLER])
