"""Around every handler: the request's id, the headers of every answer, the counts and the access log line.

What is counted and logged names the route's template; query strings and raw paths, which may hold secrets,
never are.
"""

import functools
import logging
import re
import secrets
from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram

from ytdl import log, metrics, tracing
from ytdl.api import access, keys, limits, origins
from ytdl.api.keys import ADDRESS, BEGUN, EXEMPLAR, HEALTH, OUTCOME, REQUEST_ID, ROUTE

access_log = logging.getLogger("ytdl.access")
REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
# An answer of the API is data: nothing in it may run, be framed or be guessed to be something else.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    hdrs.CACHE_CONTROL: "no-store",
}
# Two years, and every name below ours: browsers that came once by HTTPS never come by anything else.
TRANSPORT = {"Strict-Transport-Security": "max-age=63072000; includeSubDomains"}
# Histograms of the rows that are timed, by template; streams are not in it.
_timed: dict[str, Histogram] = {}


def headers_for(public_url: str) -> Mapping[str, str]:
    """What stands in every answer of a service that users reach there."""
    return HEADERS | (TRANSPORT if public_url.startswith("https://") else {})


def name(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    # One that looks like a token would stand in every log line of its request.
    taken = REQUEST_ID_FORM.fullmatch(given) and log.redact(given) == given
    id = given if taken else secrets.token_hex(8)
    request[REQUEST_ID] = id
    log.request_id.set(id)
    return id


@web.middleware
async def identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request an id, the caller's own where it is well-formed."""
    name(request)
    request[ROUTE] = _template(request)
    request[ADDRESS] = address = access.client_ip(request)
    log.client_ip.set(address or None)
    metrics.http_in_flight.inc()
    try:
        return await (handler(request) if tracing.tracer is None else _traced(request, handler))
    finally:
        metrics.http_in_flight.dec()


async def _traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    method, route = _method(request), request[ROUTE]
    facts = {"http.request.method": method, "http.route": route}
    with tracing.request(f"{method} {route}", request.headers.get("traceparent"), facts) as span:
        request[EXEMPLAR] = tracing.exemplar()
        response = await handler(request)
        span.set_attribute("http.response.status_code", request.get(OUTCOME, response.status))
    return response


def _method(request: web.BaseRequest) -> str:
    return request.method if request.method in METHODS else "other"


async def finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Runs just before an answer's head is sent, for streams and files too; what a handler set itself
    stays.
    """
    request[BEGUN] = response
    headers = response.headers
    headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    headers[hdrs.SERVER] = "ytdl"
    for name, value in request.app.get(keys.HEADERS, HEADERS).items():
        if name not in headers:
            headers[name] = value
    origins.mark(request, headers)
    limits.advertise(request, headers)
    if _is_draining(request) and response.status != 101:
        # Whoever keeps connections open is to let go of them before they are closed in the middle of a request.
        response.force_close()
        headers[hdrs.CONNECTION] = "close"


def _is_draining(request: web.Request) -> bool:
    health = request.app.get(HEALTH)
    return health is not None and health.draining


def observe_route(method: str, template: str, status: int, *, timed: bool) -> None:
    """Makes a row's series, so that they are there from the start, and remembers whether it is timed."""
    _count(method, template, status)
    metrics.http_failures.labels(template)
    if timed:
        _timed[template] = metrics.http_request_seconds.labels(template)


@functools.lru_cache(maxsize=4096)
def _count(method: str, template: str, status: int) -> Counter:
    return metrics.http_requests.labels(method if method in METHODS else "other", template, str(status))


def _template(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else UNMATCHED


class Observer(AbstractAccessLogger):
    """Counts, times and logs each answer once it was sent, so that nobody waits for it."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        route = request.get(ROUTE, UNMATCHED)
        status = request.get(OUTCOME, response.status)
        _count(request.method, route, status).inc()
        if status >= 500:
            metrics.http_failures.labels(route).inc()
        if route in _timed:
            _timed[route].observe(time, request.get(EXEMPLAR))
        # Without it the request was refused before it was one.
        address = request.get(ADDRESS)
        log.write(
            access_log,
            "http.request",
            method=_method(request),
            route=route,
            status=status,
            duration_seconds=round(time, 6),
            bytes=response.body_length,
            ip=request.remote if address is None else address,
        )
