"""Pages of other sites: which of them may call this API from a browser, and which may open its WebSockets.

The list is CORS_ALLOWED_ORIGINS, and never a star. Nothing here rests on cookies, so a page that is not listed has no
more power than any client; what it is kept from is reading answers with a token that somebody typed into it.
"""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import CIMultiDict, istr

from ytdl import errors
from ytdl.api.keys import CONFIG

if TYPE_CHECKING:
    from ytdl.config import Config

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
SENT = "Authorization, Content-Type, Idempotency-Key, If-None-Match, If-Range, Last-Event-ID, Range, X-Request-Id"
# What a page may read beside the few headers that every page may (Fetch, section 3.3.3).
SHOWN = (
    "Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy,"
    " Retry-After, WWW-Authenticate, X-Request-Id"
)
REMEMBERED_SECONDS = "600"
# From what site a browser comes (Fetch Metadata).
SITE = istr("Sec-Fetch-Site")


def preflight(request: web.Request) -> web.Response | None:
    """The answer to a browser that asks before it calls for a page of a listed site; None for every other request."""
    if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return None
    if not _is_listed(request):
        return None
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: SENT,
        hdrs.ACCESS_CONTROL_MAX_AGE: REMEMBERED_SECONDS,
    }
    return web.Response(status=204, headers=headers)


def mark(request: web.Request, headers: "CIMultiDict[str]") -> None:
    """Lets a listed site's page read the answer; caches are told that it depends on who asks."""
    config = request.app.get(CONFIG)
    if config is None or not config.cors_allowed_origins:
        return
    headers[hdrs.VARY] = f"{headers[hdrs.VARY]}, Origin" if hdrs.VARY in headers else "Origin"
    if _is_listed(request):
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = SHOWN


def check_page(request: web.Request) -> None:
    """Raises `errors.Forbidden` for a page of an unlisted site; scripts send no Origin.

    For what browsers do without asking first, so that CORS keeps nobody from it: WebSockets (RFC 6455, section 10.2),
    and forms, by which a page could have its visitors sign in wrongly until they are blocked.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or _is_listed(request) or _is_own(request, origin):
        return
    raise errors.Forbidden("Pages of that site may not do this here; CORS_ALLOWED_ORIGINS lists those that may.")


def is_elsewhere(request: web.Request) -> bool:
    """Whether a browser says that a page of an unlisted site made it ask. By HTTPS all browsers say from what site all
    requests come; else they name the origin with what is not GET and with WebSockets, and nothing tells of the rest. Of
    links and media they do not name it, so those of a listed site count as of any."""
    site, origin = request.headers.get(SITE), request.headers.get(hdrs.ORIGIN)
    if site is None and origin is None:
        return False
    if _is_listed(request):
        return False
    return site == "cross-site" if site is not None else not _is_own(request, origin or "")


def _is_listed(request: web.Request) -> bool:
    config: Config | None = request.app.get(CONFIG)
    return config is not None and request.headers.get(hdrs.ORIGIN) in config.cors_allowed_origins


def _is_own(request: web.Request, origin: str) -> bool:
    """By comparing texts: what is not an origin at all is not taken apart."""
    hosts = filter(None, (request.host.lower(), urlsplit(request.app[CONFIG].public_url).netloc.lower()))
    return origin.lower() in {f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")}
