"""The operational addresses: alive, ready, metrics. None of them asks who is there; nginx does not publish
metrics.
"""

import asyncio
from typing import Literal

import msgspec
from aiohttp import hdrs, web
from prometheus_client import exposition

from ytdl import metrics
from ytdl.api.http import Answer
from ytdl.api.keys import HEALTH


class Alive(msgspec.Struct, frozen=True):
    status: Literal["ok"] = "ok"


async def healthz(request: web.Request) -> Alive:
    """Says that the process is alive.

    Asks nothing else: a database that is away is no reason to start this process again.
    """
    return Alive()


async def readyz(request: web.Request) -> Answer:
    """Says whether the service can do its work, and which of its needs is not met.

    Answers 503 when one is not, and while the service is about to stop. Takes 2 seconds at most. What was found less
    than a second ago is not looked for again.
    """
    readiness = await request.app[HEALTH].readiness()
    return Answer(readiness, status=200 if readiness.status == "ready" else 503)


async def prometheus(request: web.Request) -> web.Response:
    """Every metric, for Prometheus.

    Plain text, or OpenMetrics where `Accept` asks for it.
    """
    encode, content_type = exposition.choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
    # Some thousand lines are more than the loop should wait for.
    body = await asyncio.to_thread(encode, metrics.REGISTRY)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})
