"""Errors as `application/problem+json` (RFC 9457): the only map from code to status, the only place that
builds them.

Whatever a handler raises ends here: our own errors with their sentence, aiohttp's with one of ours, and
anything else as `internal`, with a fixed sentence for the client and the traceback in the log.
"""

import logging
import math
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ytdl import errors, metrics
from ytdl.api.keys import BEGUN, CHALLENGE, OUTCOME, REQUEST_ID
from ytdl.errors import Fault

log = logging.getLogger("ytdl.http")

STATUS = {
    "malformed": 400,
    "unauthorized": 401,
    # Of two codes with one status the later stands for it where aiohttp refuses.
    "blocked": 403,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "gone": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "invalid": 422,
    "locked": 423,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
}
CODES = {status: code for code, status in STATUS.items()}
# Registered types of problems; all others are told apart by the code alone.
TYPES = {"rate_limited": "https://iana.org/assignments/http-problem-types#quota-exceeded"}
INTERNAL = "Something went wrong here; the log has the reason under this request's id."
# What is said where aiohttp, not a handler of ours, refuses.
SENTENCES = {
    "malformed": "The request is not well-formed HTTP.",
    "not_found": "There is nothing at this address.",
    "method_not_allowed": "This address does not answer that method.",
    "too_large": "The body is larger than is read here: 1 MiB, of a form 16 KiB.",
    "internal": INTERNAL,
}
# Written by a proxy's convention: the client was gone before its answer was complete. Only counted, never
# sent.
CLIENT_GONE = 499


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What every error looks like. `code` is stable and for programs, `detail` is for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(STATUS)})]
    request_id: str
    errors: tuple[Fault, ...] = ()


def answer(error: errors.Error, request_id: str, *, status: int | None = None) -> web.Response:
    """The document for an error; `status` differs from the code's own only where aiohttp chose one."""
    metrics.http_errors.labels(error.code).inc()
    status = status or STATUS[error.code]
    problem = Problem(
        type=TYPES.get(error.code, "about:blank"),
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        code=error.code,
        request_id=request_id,
        errors=error.faults,
    )
    members: dict[str, Any] = dict(error.extra) | {"type": problem.type} | msgspec.to_builtins(problem)
    response = web.Response(body=msgspec.json.encode(members), status=status, content_type="application/problem+json")
    if error.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    return response


def of_request(request: web.Request, error: errors.Error) -> web.Response:
    response = answer(error, request.get(REQUEST_ID, ""))
    if response.status == HTTPStatus.UNAUTHORIZED:
        response.headers[hdrs.WWW_AUTHENTICATE] = f'Bearer realm="ytdl"{request.get(CHALLENGE, "")}'
    return response


def of_aiohttp(request: web.Request, refusal: web.HTTPException) -> web.Response:
    """Its status and headers such as `Allow` stay; its text is replaced."""
    error = errors.Error(SENTENCES["internal"])
    error.code = CODES.get(refusal.status, "malformed" if refusal.status < 500 else "internal")
    error.message = SENTENCES.get(error.code, HTTPStatus(refusal.status).phrase + ".")
    response = answer(error, request.get(REQUEST_ID, ""), status=refusal.status)
    for name in (hdrs.ALLOW, hdrs.CONTENT_RANGE, hdrs.RETRY_AFTER):
        if name in refusal.headers:
            response.headers[name] = refusal.headers[name]
    return response


def _broken_off(request: web.Request, begun: web.StreamResponse | None) -> web.StreamResponse:
    """Ends an answer that cannot be completed, so that the client sees a cut body and not a whole one."""
    request[OUTCOME] = 500
    if request.transport is None or request.transport.is_closing():
        request[OUTCOME] = CLIENT_GONE
    else:
        request.transport.abort()
    return begun or web.Response(status=500)


@web.middleware
async def to_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets no exception through but redirects, which are answers."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        return of_aiohttp(request, refusal)
    except Exception as e:
        return _of_exception(request, e)


def _of_exception(request: web.Request, e: Exception) -> web.StreamResponse:
    begun = request.get(BEGUN)
    gone = request.transport is None or request.transport.is_closing()
    if isinstance(e, ConnectionError) and gone:
        return _broken_off(request, begun)
    known = isinstance(e, errors.Error) and e.code in STATUS and e.code != "internal"
    if not known:
        log.error("http.failed", exc_info=e)
    if begun is not None:
        return _broken_off(request, begun)
    return of_request(request, e if known and isinstance(e, errors.Error) else errors.Error(INTERNAL))
