"""A row of the route table, and what it drives: who may call, what is read, what is answered, how it is
described.

A handler says who and what came in, calls one feature function and returns what goes out: a value to
encode, an `Answer` where status or headers differ from the row's, a response of aiohttp's for streams and
files, or `None`.
"""

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import LooseHeaders

from ytdl import errors
from ytdl.api import access, blocking, decoding, etags, limits, middleware, problems
from ytdl.api.keys import DENIALS, IDENTITY, LIMITER
from ytdl.config import Config
from ytdl.denials import Denials
from ytdl.ratelimit import Kind, Limiter, policies_of

if TYPE_CHECKING:
    from ytdl.auth import Identity

BASE = "/api/v1"
BODY_LIMIT_BYTES = 2**20
COMPRESS_FROM_BYTES = 1024
# What stands below these is about people and what they have: no browser keeps it, not even to ask whether it changed.
PRIVATE = ("/auth/", "/security/", "/cookies", "/monitoring/")
COMPRESSED = re.compile(r"text/.+|application/(?:.+\+)?json|image/svg\+xml|application/openmetrics-text")
Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

client_ip = access.client_ip
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Route:
    """`path` stands below `/api/v1` unless the row is `plain`.

    `returns` is the answer's type, or None for an answer without a body or one of another `media` type than
    JSON; `also` has the types of answers with other statuses that are no problems, and `headers` says what
    request headers mean here. A body may ask for the same answer in one of `other_media`.
    `problems` are codes that the route can answer beside those that follow from
    the rest of the row. A `stream` lasts as long as it likes and is left out of the latency figures;
    `head=False` keeps HEAD away from one that never ends. `form` takes an HTML form as a body as well.

    `limit` says what a request counts as beside the address and who asks; a row with None is not limited.
    A row with `session` is for somebody signed in, not for API keys. An API key that may only read is kept
    away from all methods but GET, unless the row's `scope` says otherwise.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    role: Literal["anyone", "user", "admin"]
    _: dataclasses.KW_ONLY
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    returns: Any = None
    status: int = 200
    media: str = "application/json"
    other_media: tuple[str, ...] = ()
    also: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ticket: bool = False
    session: bool = False
    scope: Literal["read", "write"] | None = None
    limit: Kind | None = "general"
    problems: tuple[str, ...] = ()
    stream: bool = False
    plain: bool = False
    head: bool = True
    form: bool = False

    @property
    def needs(self) -> Literal["read", "write"]:
        """The scope that an API key must have here."""
        return self.scope or ("read" if self.method == "GET" else "write")

    @property
    def full_path(self) -> str:
        return self.path if self.plain else BASE + self.path

    @property
    def private(self) -> bool:
        return self.path.startswith(PRIVATE)

    @functools.cached_property
    def tagged(self) -> bool:
        """Whether answers carry an ETag: single resources of the API do."""
        is_struct = inspect.isclass(self.returns) and issubclass(self.returns, msgspec.Struct)
        return self.method == "GET" and is_struct and not self.plain


@dataclass(frozen=True)
class Answer:
    """A value with another status than the row's, or with headers."""

    value: Any
    status: int | None = None
    headers: LooseHeaders = dataclasses.field(default_factory=dict)


def application() -> web.Application:
    """An application without routes, with everything around them."""
    chain = [middleware.identified, problems.to_problems, blocking.guard]
    app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=chain)
    app.on_response_prepare.append(middleware.finish_headers)
    # Until there are those that count for all processes, and that record.
    app[LIMITER] = Limiter(policies_of(Config()))
    app[DENIALS] = Denials(None, "authz_fail")
    return app


def register(app: web.Application, rows: tuple[Route, ...]) -> None:
    middleware.observe_route("GET", middleware.UNMATCHED, 404, timed=False)
    for row in rows:
        endpoint = _endpoint(row)
        middleware.observe_route(row.method, row.full_path, row.status, timed=not row.stream)
        app.router.add_route(row.method, row.full_path, endpoint)
        if row.method == "GET" and row.head:
            app.router.add_route("HEAD", row.full_path, endpoint)


def _endpoint(row: Route) -> Endpoint:
    readers = _readers(row)

    async def endpoint(request: web.Request) -> web.StreamResponse:
        if row.limit and row.role != "anyone":
            limits.forestall(request, row.limit)
        try:
            if row.role != "anyone":
                await access.authenticate(request, row.ticket)
        finally:
            if row.limit:
                await limits.count(request, row.limit)
        if row.role != "anyone":
            access.authorize(request, row.role, session=row.session, scope=row.needs)
        read = [await reader(request) for reader in readers]
        result = await row.handler(request, *read)
        response = result if isinstance(result, web.StreamResponse) else _encoded(request, row, result)
        _compress(request, response)
        return response

    return endpoint


def _readers(row: Route) -> list[Callable[[web.Request], Awaitable[Any]]]:
    """What turns a request into the handler's arguments, in their order."""
    readers: list[Callable[[web.Request], Awaitable[Any]]] = []
    if row.body is not None:
        decoder = msgspec.json.Decoder(row.body)
        readers.append(functools.partial(decoding.body, decoder=decoder, form=row.form))
    if row.query is not None:
        query = decoding.Query(row.query, ignore=("ticket",) if row.ticket else ())

        async def read_query(request: web.Request) -> Any:
            return query.read(request)

        readers.append(read_query)
    return readers


def _encoded(request: web.Request, row: Route, result: Any) -> web.Response:
    if not isinstance(result, Answer):
        return _response(request, row, result, row.status, None)
    return _response(request, row, result.value, result.status or row.status, result.headers)


def _response(request: web.Request, row: Route, value: Any, status: int, headers: LooseHeaders | None) -> web.Response:
    if value is None:
        return web.Response(status=204 if status == 200 else status, headers=headers)
    body = _encode(value)
    response = web.Response(body=body, status=status, headers=headers, content_type="application/json")
    return _tag(request, row, response, body) if row.tagged and status == 200 else response


def _tag(request: web.Request, row: Route, response: web.Response, body: bytes) -> web.Response:
    """Weak, because the same tag stands on the compressed and the plain form of a body."""
    tag = f'W/"{hashlib.blake2b(body, digest_size=9).hexdigest()}"'
    headers = {hdrs.ETAG: tag} | ({} if row.private else {hdrs.CACHE_CONTROL: "private, no-cache"})
    if etags.matches(request.headers.get(hdrs.IF_NONE_MATCH), tag):
        return web.Response(status=304, headers=headers)
    response.headers.update(headers)
    return response


def _compress(request: web.Request, response: web.StreamResponse) -> None:
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return
    if len(response.body) < COMPRESS_FROM_BYTES or not COMPRESSED.fullmatch(response.content_type):
        return
    response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    if _accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
        response.enable_compression(web.ContentCoding.gzip)


@functools.lru_cache(maxsize=256)
def _accepts_gzip(header: str) -> bool:
    for coding in header.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in ("gzip", "*"):
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False


def attachment(text: str, media: str, name: str) -> web.Response:
    """A file of text under that name."""
    headers = {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'}
    return web.Response(text=text, content_type=media, charset="utf-8", headers=headers)


def who(request: web.Request) -> "Identity":
    """Who is signed in; only for rows whose role is not `anyone`."""
    return request[IDENTITY]


def path_uuid(request: web.Request, name: str) -> UUID:
    """A malformed id is unknown, like any other that does not exist: raises `NotFound`."""
    text = request.match_info[name]
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text.lower():
        raise errors.NotFound("There is nothing here by that id.")
    return value
