"""Around every request: blocked addresses are refused before anything else is done, and offences are noted.

What raises an error with an `offence` is scored here, and so is what no route answers: addresses that do not exist,
methods that they do not take, and what is no HTTP at all.

A page elsewhere can make its visitors' browsers ask for what is not here, and go over limits, but not send credentials.
What says that it comes from such a page scores nothing for the former, or a page could have an office blocked; refused
credentials count all the same, up to the limit. Somebody looking for holes may pretend it, so all that says so has the
policy `elsewhere` beside the address: who pretends is answered a few times a minute, and refused beyond that.
"""

import re
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ytdl import errors, log, metrics
from ytdl.api import access, limits, origins, problems
from ytdl.api.keys import BLOCKS, OFFENCES
from ytdl.offences import Sort

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
    try:
        return await _answer(request, handler)
    except errors.Error as e:
        if e.offence and not (e.offence == "limit" and limits.is_elsewhere(request)):
            _note(request, e.offence, e.evidence)
        raise


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts what reaches no row of the route table; the others count by themselves."""
    if (preflight := origins.preflight(request)) is not None:
        await limits.count(request, "general")
        return preflight
    try:
        return await handler(request)
    except web.HTTPException:
        if request.match_info.http_exception is not None:
            _probed(request)
            await limits.count(request, "general")
        raise


def _refused(request: web.Request, address: str, seconds: float) -> web.StreamResponse:
    metrics.blocks_refused.inc()
    response = problems.of_request(request, errors.Blocked(REFUSED, retry_after=seconds))
    # The connection is the blocked client's own, unless a proxy keeps it open for others too.
    if access.plain(request.remote or "") == address:
        response.force_close()
    return response


def _probed(request: web.Request) -> None:
    """A request that no route answers. Browsers ask by OPTIONS before they call for a page, whoever made it."""
    path = request.path[:PATH_LENGTH].lower()
    if request.method == hdrs.METH_OPTIONS or limits.is_elsewhere(request):
        return
    if _SCAN.search(path) or _SCAN.search(request.raw_path[:PATH_LENGTH].lower()):
        _note(request, "scan")
    elif not _CUSTOMARY.fullmatch(path):
        _note(request, "probe")


def _note(request: web.Request, sort: Sort, evidence: bytes = b"") -> None:
    offences = request.app.get(OFFENCES)
    if offences is not None:
        offences.note(log.client_ip.get() or "", sort, evidence)


def unparsed(app: Any, remote: str | None, status: int) -> None:
    """Notes what was no HTTP. There are no headers to believe, so it is the other end of the connection that did it."""
    offences = app.get(OFFENCES)
    if offences is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        offences.note(access.plain(remote or ""), "probe")
