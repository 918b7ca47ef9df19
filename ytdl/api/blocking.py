"""Around every request: blocked addresses are refused before anything else is done, and offences are noted.

What raises an error with an `offence` is scored here, and so is what no route answers: addresses that do not exist,
methods that they do not take, and what is no HTTP at all.
"""

import re
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ytdl import errors, log, metrics
from ytdl.api import access, limits, origins, problems
from ytdl.api.keys import BLOCKS, OFFENCES

REFUSED = "This address is refused for a while, because of what came from it."
PATH_LENGTH = 512
# What only somebody looking for holes asks for: other software, secrets left lying about, ways out of a folder.
_SCAN = re.compile(
    r"\.(?:php\d?|phtml|aspx?|ashx|jspx?|cgi|do|action|bak|old|orig|swp|sql|pem|key)(?:[/;:~]|$)"
    r"|/\.(?!well-known/)\w|/wp-|/wordpress|/cgi-bin|/phpmyadmin|/pma(?:/|$)|/mysql|/adminer|/vendor/|/node_modules/"
    r"|/actuator|/server-status|/solr|/jenkins|/manager/html|/struts|/boaform|/hnap1|/gponform|/owa(?:/|$)|/autodiscover"
    r"|/ecp(?:/|$)|/geoserver|/telescope|/_ignition|/_profiler|/console(?:/|$)|/debug/|/etc/passwd|/proc/self|/web-inf"
    r"|/sdk(?:/|$)|/evox|/nmaplowercheck|/shell|/setup\.|/config\.(?:json|ya?ml|ini)|\.\.[/\\]|\$\{|%00|\x00|<script"
)
# Browsers and well-behaved robots ask for these wherever they come.
_CUSTOMARY = re.compile(
    r"/(?:favicon\.\w+|apple-touch-icon[\w-]*\.png|robots\.txt|sitemap\.xml|manifest\.json|ads\.txt|\.well-known/.*)"
)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raises `errors.Blocked`, before anybody looks at who asks or at a body."""
    blocks = request.app.get(BLOCKS)
    address = log.client_ip.get() or ""
    if blocks is not None and (left := blocks.list.seconds_left(address)):
        return _refused(request, address, left)
    if (preflight := origins.preflight(request)) is not None:
        await limits.count(request, "general")
        return preflight
    if blocks is None:
        return await handler(request)
    try:
        return await handler(request)
    except errors.Error as e:
        if e.offence:
            request.app[OFFENCES].note(address, e.offence, e.evidence)
        raise
    except web.HTTPException:
        if request.match_info.http_exception is not None:
            _probed(request, address)
            await limits.count(request, "general")
        raise


def _refused(request: web.Request, address: str, seconds: float) -> web.StreamResponse:
    metrics.blocks_refused.inc()
    response = problems.of_request(request, errors.Blocked(REFUSED, retry_after=seconds))
    # The connection is the blocked client's own, unless a proxy keeps it open for others too.
    if access.plain(request.remote or "") == address:
        response.force_close()
    return response


def _probed(request: web.Request, address: str) -> None:
    """A request that no route answers. A page elsewhere can make its visitors' browsers send such requests, which say
    so; to pretend that gains a scanner nothing but more answers that nothing is here."""
    path = request.path[:PATH_LENGTH].lower()
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or request.method == hdrs.METH_OPTIONS:
        return
    if _SCAN.search(path) or _SCAN.search(request.raw_path[:PATH_LENGTH].lower()):
        request.app[OFFENCES].note(address, "scan")
    elif not _CUSTOMARY.fullmatch(path):
        request.app[OFFENCES].note(address, "probe")


def unparsed(app: Any, remote: str | None, status: int) -> None:
    """Notes what was no HTTP. There are no headers to believe, so it is the other end of the connection that did it."""
    offences = app.get(OFFENCES)
    if offences is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        offences.note(access.plain(remote or ""), "probe")
