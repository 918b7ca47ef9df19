"""The OpenAPI 3.1 document, made from the route table: nothing about the API is written down a second time.

Types give the schemas, a row the parameters, roles and answers, a handler's docstring the words.
"""

import inspect
import re
from http import HTTPStatus
from typing import Any

import msgspec

from ytdl import __version__
from ytdl.api import problems
from ytdl.api.http import BASE, Route

Schema = dict[str, Any]
REFS = "#/components/schemas/{name}"
PROBLEM = {"application/problem+json": {"schema": {"$ref": REFS.format(name="Problem")}}}
_PARAMETER = re.compile(r"\{(\w+)(?::[^{}]*)?\}")

DESCRIPTION = """\
Give it the address of a video, watch the download, fetch the file.

Every error is an `application/problem+json` document. Its `code` is stable and meant for programs, `detail`
is a sentence for people, and `errors` names the fields that are at fault. Give the `request_id` to whoever
runs the service when something is wrong.

Sign in at `POST /api/v1/auth/login` and send `Authorization: Bearer <access_token>`. Where a browser cannot
set a header, a ticket from `POST /api/v1/auth/ticket` stands in for it once: `?ticket=<ticket>`. Scripts send
an API key from `POST /api/v1/auth/api-keys` instead of the token; a `read` key changes nothing.

The headers `RateLimit` and `RateLimit-Policy` say how many requests are left; who asks too often gets 429 with
`Retry-After`, and the policies' names in `violated-policies`. `GET /api/v1/security/rate-limit/api` tells it too.
"""

MEANINGS = {
    "malformed": "The request cannot be read: broken JSON, no body, or a header out of its grammar.",
    "unauthorized": "Nobody is signed in, or the token is expired, revoked or not valid.",
    "blocked": "The client's address is blocked, whoever asks; until `Retry-After` has passed.",
    "forbidden": "Signed in, but not allowed to do this; or, with the code `blocked`, the client's address is blocked.",
    "not_found": "There is nothing here by that id, or it is somebody else's.",
    "method_not_allowed": "The address does not answer this method; `Allow` lists those that it does.",
    "conflict": "The resource is in a state that does not allow this.",
    "gone": "It was here and is not kept any more.",
    "too_large": "The body is larger than is read here: 1 MiB, of a form 16 KiB.",
    "unsupported_media_type": "The body is not of a media type that is read here.",
    "range_not_satisfiable": "No byte of the file lies in the range that was asked for.",
    "invalid": "A field is missing, unknown, of the wrong type or out of range; `errors` names it.",
    "locked": "Too many failures; locked until `Retry-After` has passed.",
    "rate_limited": "Too many requests; try again after `Retry-After`.",
    "internal": "A fault of the service; its log has the reason under the `request_id`.",
    "unavailable": "Something that this needs is away just now; try again after `Retry-After`.",
}
HEADERS: dict[str, dict[str, Schema]] = {
    "unauthorized": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "method_not_allowed": {"Allow": {"schema": {"type": "string"}}},
    **{
        code: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        for code in ("blocked", "locked", "rate_limited", "unavailable")
    },
}
# In every answer to a counted request.
LIMITS: dict[str, Schema] = {
    "RateLimit": {
        "description": "What is left under each policy: `r` requests, and `t` seconds until there is one more.",
        "schema": {"type": "string"},
        "example": '"api";r=599;t=1, "address";r=2999;t=1',
    },
    "RateLimit-Policy": {
        "description": "The policies that counted the request: `q` requests in `w` seconds, which may come at once.",
        "schema": {"type": "string"},
        "example": '"api";q=600;w=60, "address";q=3000;w=60',
    },
}

# Request headers that are refused in another form.
HEADER_FORMS: dict[str, Schema] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

# What reads documents of this version takes a stream's schema for that of each of its events.
EVENT: Schema = {
    "description": "One event; comments between them keep the connection alive.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "For `Last-Event-ID`, to be given what was missed."},
        "event": {"type": "string", "enum": ["snapshot", "status", "progress", "done"]},
        "data": {"type": "string", "description": "JSON."},
        "retry": {"type": "integer", "description": "Milliseconds before coming back."},
    },
}

SECURITY_SCHEMES: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token."},
    "api_key": {"type": "http", "scheme": "bearer", "description": "An API key; the scope it needs is named."},
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "Good for one use, 60 s."},
    "password": {
        "type": "oauth2",
        "description": "What the docs page signs in with.",
        "flows": {"password": {"tokenUrl": BASE + "/security/token", "scopes": {}}},
    },
}


def encode(rows: tuple[Route, ...]) -> bytes:
    return msgspec.json.encode(document(rows))


def document(rows: tuple[Route, ...]) -> dict[str, Any]:
    types = _types(rows)
    references, components = msgspec.json.schema_components(types, ref_template=REFS)
    schemas = dict(zip(map(id, types), references, strict=True))
    paths: dict[str, Any] = {}
    for row in rows:
        path = _PARAMETER.sub(r"{\1}", row.full_path)
        paths.setdefault(path, {})[row.method.lower()] = _operation(row, schemas, components)
    # A query's fields stand in its operation as parameters.
    for row in rows:
        if row.query is not None:
            components.pop(_name(schemas[id(row.query)]), None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ytdl", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(map(_tag, rows))],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": LIMITS,
            "responses": {code: _problem(code) for code in problems.STATUS},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _types(rows: tuple[Route, ...]) -> list[Any]:
    types = [t for row in rows for t in (row.body, row.query, row.returns, *row.also.values())]
    return [problems.Problem, *(t for t in types if t is not None)]


def _operation(row: Route, schemas: dict[int, Schema], components: dict[str, Schema]) -> Schema:
    summary, _, description = (inspect.getdoc(row.handler) or "").partition("\n")
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(row.full_path)]
    parameters += [
        {"name": name, "in": "header", "description": words, "schema": HEADER_FORMS.get(name, {"type": "string"})}
        for name, words in row.headers.items()
    ]
    if row.query is not None:
        parameters += _query_parameters(components[_name(schemas[id(row.query)])])
    operation: Schema = {
        "operationId": f"{_tag(row)}_{row.handler.__name__}",
        "tags": [_tag(row)],
        "summary": summary,
        "description": description.strip(),
        "parameters": parameters,
        "responses": _responses(row, schemas),
        "security": _security(row),
    }
    if row.body is not None:
        kinds = ["application/json"] + ["application/x-www-form-urlencoded"] * row.form
        content = {kind: {"schema": schemas[id(row.body)]} for kind in kinds}
        operation["requestBody"] = {"required": True, "content": content}
    return {name: value for name, value in operation.items() if value or name == "security"}


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _tag(row: Route) -> str:
    return row.handler.__module__.rpartition(".")[2]


def _path_parameter(name: str) -> Schema:
    schema = {"type": "string", "format": "uuid"} if name == "id" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(schema: Schema) -> list[Schema]:
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": inner}
        for name, inner in schema["properties"].items()
    ]


def _responses(row: Route, schemas: dict[int, Schema]) -> Schema:
    responses: Schema = {}
    for code in codes(row):
        responses[str(problems.STATUS[code])] = {"$ref": f"#/components/responses/{code}"}
    if row.tagged:
        responses["304"] = {"description": "Not changed since the answer whose ETag was sent in If-None-Match."}
    responses[str(row.status)] = _success(row, row.status, schemas.get(id(row.returns)))
    for status, type_ in row.also.items():
        responses[str(status)] = _success(row, status, schemas.get(id(type_)))
    return dict(sorted(responses.items()))


def _success(row: Route, status: int, schema: Schema | None) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if schema is not None:
        answer["content"] = {row.media: {"schema": schema}}
        answer["content"] |= {media: {"schema": {"type": "string"}} for media in row.other_media}
    elif row.media != "application/json" and status != HTTPStatus.NOT_MODIFIED:
        schema = EVENT if row.media == "text/event-stream" else {"type": "string"}
        answer["content"] = {media: {"schema": schema} for media in (row.media, *row.other_media)}
    headers: Schema = {name: {"$ref": f"#/components/headers/{name}"} for name in LIMITS if row.limit}
    if row.tagged and status == row.status:
        headers["ETag"] = {"schema": {"type": "string"}}
    return answer | ({"headers": headers} if headers else {})


def codes(row: Route) -> tuple[str, ...]:
    """The problems that a row can answer: those that follow from its fields, and those it names."""
    # Where a row has both, `forbidden` takes the status and tells of `blocked`.
    found = ["internal", "blocked", *row.problems]
    if not row.plain:
        found.append("unavailable")
    if row.limit:
        found.append("rate_limited")
    if row.role != "anyone":
        found.append("unauthorized")
    if row.role == "admin" or (row.role == "user" and (row.session or row.needs == "write")):
        found.append("forbidden")
    if row.body is not None:
        found += ["malformed", "too_large", "unsupported_media_type", "invalid"]
    if row.query is not None:
        found.append("invalid")
    if _PARAMETER.search(row.path):
        found.append("not_found")
    return tuple(sorted(set(found)))


def _problem(code: str) -> Schema:
    problem: Schema = {"description": MEANINGS[code], "content": PROBLEM}
    if code in HEADERS:
        problem["headers"] = HEADERS[code]
    return problem


def _security(row: Route) -> list[Schema]:
    if row.role == "anyone":
        return []
    found: list[Schema] = [{name: []} for name in ["bearer", "password", *["ticket"] * row.ticket]]
    return found if row.session else [*found, {"api_key": [row.needs]}]
