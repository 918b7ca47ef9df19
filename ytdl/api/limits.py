"""Rate limits over HTTP: who a request counts for, the headers of every counted answer, and the own state.

A row's `limit` says what it counts as. Whoever could not be identified, and whatever no route answers, counts for the
address, so that guessing is limited too; where a page elsewhere made a browser ask, the policy `elsewhere` counts it as
well. The policies and the counting are `ytdl.ratelimit`'s.
"""

import time

from aiohttp import web
from multidict import CIMultiDict, istr

from ytdl import log
from ytdl.api import origins
from ytdl.api.keys import CALLER, IDENTITY, LIMITER
from ytdl.ratelimit import Kind, State

# The syntax is that of draft-ietf-httpapi-ratelimit-headers-11.
POLICY, LIMIT = istr("RateLimit-Policy"), istr("RateLimit")


async def count(request: web.Request, kind: Kind) -> None:
    """Raises `errors.RateLimited`."""
    limiter = request.app[LIMITER]
    ip, who = log.client_ip.get() or "", request.get(IDENTITY)
    request[CALLER] = caller = limiter.caller(kind, ip, who, elsewhere=is_elsewhere(request))
    # What is leased already is spent here, which saves most requests a coroutine.
    if not caller.spend(time.monotonic()):
        await limiter.take(caller)


def forestall(request: web.Request, kind: Kind) -> None:
    """Raises `errors.RateLimited` for an address of which a request was refused a moment ago, before anybody looks at
    who asks: a refusal costs neither a query nor the ticket then. Counts nothing. By a page elsewhere somebody known is
    refused too while such pages have used up their limit, or the limit would not keep them from the database."""
    limiter = request.app[LIMITER]
    caller = limiter.refused(kind, log.client_ip.get() or "", elsewhere=is_elsewhere(request))
    if caller is not None:
        request[CALLER] = caller
        raise limiter.refusal(caller)


def is_elsewhere(request: web.Request) -> bool:
    """Whether a page elsewhere made a browser ask. It has no credentials to send: whoever is identified is nobody's
    mere visitor."""
    return IDENTITY not in request and origins.is_elsewhere(request)


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
