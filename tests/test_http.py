"""The HTTP core through a real server, with a few routes of the test's own: no database is needed for it."""

import asyncio
import gzip
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, web

from ytdl import config, errors, metrics
from ytdl.api import decoding, http, problems, serving
from ytdl.api.http import Answer, Route
from ytdl.api.keys import CONFIG

SECRET = "hunter2"
NUL = "has a NUL character, which cannot be stored"
JSON = {"Content-Type": "application/json"}


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 1


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(max_length=5)]
    kind: Literal["a", "b"] = "a"
    parts: list[Part] = []
    extra: dict[str, Any] = {}


class Filter(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    status: list[str] | None = None
    q: str | None = None


async def echo(request: web.Request, body: Thing) -> Thing:
    return body


async def search(request: web.Request, query: Filter) -> Filter:
    return query


async def both(request: web.Request, body: Thing, query: Filter) -> Answer:
    return Answer({"name": body.name, "limit": query.limit}, status=207, headers={"X-Own": "1"})


async def nothing(request: web.Request) -> None:
    return None


async def crash(request: web.Request) -> None:
    raise RuntimeError(f"the password is {SECRET}")


async def busy(request: web.Request) -> None:
    raise errors.Unavailable("The shop is shut.", retry_after=1.2, until="noon")


async def by_id(request: web.Request) -> str:
    return str(http.path_uuid(request, "id"))


async def long(request: web.Request) -> Thing:
    return Thing("long", extra={"text": "x" * 5000})


async def address(request: web.Request) -> str:
    return http.client_ip(request)


async def elsewhere(request: web.Request) -> None:
    raise web.HTTPFound("/api/v1/things")


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise RuntimeError("in the middle")


ROUTES = (
    Route("POST", "/things", echo, "anyone", body=Thing, returns=Thing),
    Route("GET", "/things", search, "anyone", query=Filter, returns=Filter),
    Route("PUT", "/things", both, "anyone", body=Thing, query=Filter, returns=dict[str, Any]),
    Route("POST", "/form", echo, "anyone", body=Thing, returns=Thing, form=True),
    Route("DELETE", "/things", nothing, "anyone", status=204),
    Route("GET", "/things/{id}", by_id, "anyone", returns=str),
    Route("GET", "/crash", crash, "anyone"),
    Route("GET", "/busy", busy, "anyone"),
    Route("GET", "/long", long, "anyone", returns=Thing),
    Route("GET", "/address", address, "anyone", returns=str),
    Route("GET", "/elsewhere", elsewhere, "anyone"),
    Route("GET", "/cut", cut, "anyone", stream=True, head=False),
    Route("GET", "/mine", nothing, "user"),
)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    app = http.application()
    app[CONFIG] = config.Config(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))
    http.register(app, ROUTES)
    runner = serving.Runner(app)
    await runner.setup()
    async with ClientSession(await serving.listen(runner, "127.0.0.1", 0), auto_decompress=False) as session:
        yield session
    await runner.cleanup()


async def problem(response: ClientResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = await response.json(content_type=None)
    assert document["code"] == code
    assert document["status"] == status
    assert document["request_id"] == response.headers["X-Request-Id"]
    return document


async def refused(client: ClientSession, body: str) -> list[dict[str, str]]:
    """What is said about a body that has the right syntax and wrong content."""
    async with client.post("/api/v1/things", data=body.encode(), headers=JSON) as response:
        found: list[dict[str, str]] = (await problem(response, 422, "invalid"))["errors"]
        return found


# bodies


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ("{}", "name", "is missing"),
        ('{"name": 1}', "name", "must be str, not int"),
        ('{"name": null}', "name", "must be str, not null"),
        ('{"name": "abcdef"}', "name", "must have at most 5 characters"),
        ('{"name": "a", "colour": 1}', "colour", "is not a known field"),
        ('{"name": "a", "kind": "c"}', "kind", "must be one of a, b"),
        ('{"name": "a", "parts": [{}, {"size": "1"}]}', "parts[1].size", "must be int, not str"),
        ('{"name": "a", "parts": [{"wide": 1}]}', "parts[0].wide", "is not a known field"),
        ('{"name": "a\\u0000"}', "name", NUL),
        (r'{"name": "a", "extra": {"x": ["\u0000"]}}', "extra.x[0]", NUL),
        ("[]", "body", "must be object, not array"),
        ("3", "body", "must be object, not int"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(client: ClientSession, body: str, field: str, message: str) -> None:
    assert await refused(client, body) == [{"field": field, "message": message}]


async def test_a_long_unknown_name_comes_back_cut(client: ClientSession) -> None:
    [fault] = await refused(client, json.dumps({"name": "a", "x" * 100_000: 1}))
    assert len(fault["field"]) == 100


@pytest.mark.parametrize("body", [r'{"name": "\ud800"}', r'{"name": "\udc00 x"}', r'{"name": "\ud800A"}'])
async def test_half_of_a_surrogate_pair_is_invalid(client: ClientSession, body: str) -> None:
    async with client.post("/api/v1/things", data=body.encode(), headers=JSON) as response:
        assert "surrogate" in (await problem(response, 422, "invalid"))["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"no",
        b'{"name": NaN}',
        b'{"name": "\xff"}',
        b'{"name": "\0"}',
        b'\xef\xbb\xbf{"name": "a"}',
    ],
)
async def test_what_is_not_json_is_malformed(client: ClientSession, body: bytes) -> None:
    async with client.post("/api/v1/things", data=body, headers=JSON) as response:
        await problem(response, 400, "malformed")


async def test_deep_nesting_is_malformed(client: ClientSession) -> None:
    body = '{"name": "a", "extra": ' + '{"a":' * 5000 + "1" + "}" * 5001
    async with client.post("/api/v1/things", data=body.encode(), headers=JSON) as response:
        await problem(response, 400, "malformed")


async def test_of_two_equal_names_the_last_counts(client: ClientSession) -> None:
    async with client.post("/api/v1/things", data=b'{"name": "a", "name": "b"}', headers=JSON) as response:
        assert (await response.json())["name"] == "b"


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/json; charset=latin-1", None])
async def test_only_json_in_utf_8_is_read(client: ClientSession, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    skipped = [] if kind else ["Content-Type"]
    async with client.post("/api/v1/things", data=b"{}", headers=headers, skip_auto_headers=skipped) as response:
        await problem(response, 415, "unsupported_media_type")


async def test_a_json_suffix_is_json(client: ClientSession) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    async with client.post("/api/v1/things", data=b'{"name": "a"}', headers=headers) as response:
        assert response.status == 200


async def test_a_form_is_read_where_the_row_says_so(client: ClientSession) -> None:
    async with client.post("/api/v1/form", data={"name": "a", "kind": "b"}) as response:
        assert (await response.json())["kind"] == "b"
    async with client.post("/api/v1/form", data={"kind": "b"}) as response:
        assert (await problem(response, 422, "invalid"))["errors"][0]["field"] == "name"
    async with client.post("/api/v1/things", data={"name": "a"}) as response:
        await problem(response, 415, "unsupported_media_type")


async def test_a_body_over_the_limit_is_too_large(client: ClientSession) -> None:
    body = b'{"name": "%s"}' % (b"x" * 2**20)
    async with client.post("/api/v1/things", data=io.BytesIO(body), headers=JSON) as response:
        await problem(response, 413, "too_large")


async def test_a_body_of_unknown_length_over_the_limit_is_too_large(client: ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 2**16

    async with client.post("/api/v1/things", data=pieces(), headers=JSON) as response:
        await problem(response, 413, "too_large")


@pytest.mark.parametrize("told", [True, False])
async def test_a_form_is_read_up_to_a_name_and_a_password_only(client: ClientSession, told: bool) -> None:
    """It is taken apart while nobody else is served."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    async def pieces() -> AsyncIterator[bytes]:
        yield form

    for size, status in ((decoding.FORM_BYTES, 422), (decoding.FORM_BYTES + 1, 413)):
        form = b"kind=b&more=".ljust(size, b"x")
        async with client.post("/api/v1/form", data=form if told else pieces(), headers=headers) as response:
            assert response.status == status


@pytest.mark.parametrize("coding", ["gzip", "br", "compress", "gzip, gzip"])
async def test_an_encoded_body_is_refused_and_never_unpacked(client: ClientSession, coding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = JSON | {"Content-Encoding": coding}
    async with client.post("/api/v1/things", data=bomb, headers=headers) as response:
        await problem(response, 415, "unsupported_media_type")


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "BODY_SECONDS", 0.2)

    async def half() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with asyncio.timeout(20), client.post("/api/v1/things", data=half(), headers=JSON) as response:
        await problem(response, 400, "malformed")


# query strings


async def asked(client: ClientSession, query: str) -> dict[str, Any]:
    async with client.get(f"/api/v1/things?{query}") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_parameters_take_the_types_of_their_fields(client: ClientSession) -> None:
    found = await asked(client, "limit=7&status=a&status=b&q=null")
    assert found == {"limit": 7, "status": ["a", "b"], "q": "null"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("q=%00", "q"),
        ("page=2", "page"),
        ("status=%00", "status[0]"),
    ],
)
async def test_a_wrong_parameter_is_named(client: ClientSession, query: str, field: str) -> None:
    async with client.get(f"/api/v1/things?{query}") as response:
        assert [e["field"] for e in (await problem(response, 422, "invalid"))["errors"]] == [field]


async def test_an_answer_can_have_its_own_status_and_headers(client: ClientSession) -> None:
    async with client.put("/api/v1/things?limit=3", json={"name": "a"}) as response:
        assert (response.status, response.headers["X-Own"]) == (207, "1")
        assert await response.json() == {"name": "a", "limit": 3}


async def test_nothing_to_say_is_204(client: ClientSession) -> None:
    async with client.delete("/api/v1/things") as response:
        assert (response.status, await response.read()) == (204, b"")


# problems


async def test_an_unknown_address_is_a_problem(client: ClientSession) -> None:
    async with client.get("/nowhere") as response:
        assert (await problem(response, 404, "not_found"))["type"] == "about:blank"


async def test_a_wrong_method_is_told_the_right_ones(client: ClientSession) -> None:
    for method in ("PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        async with client.request(method, "/api/v1/things") as response:
            await problem(response, 405, "method_not_allowed")
            assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD", "POST", "PUT", "DELETE"}


@pytest.mark.parametrize("id", ["1", "%00", "019a0000-0000-7000-8000-00000000000g", "019a000000007000800000000000000a"])
async def test_a_malformed_id_is_not_found(client: ClientSession, id: str) -> None:
    async with client.get(f"/api/v1/things/{id}") as response:
        await problem(response, 404, "not_found")


async def test_a_fault_of_ours_tells_the_client_nothing(
    client: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.get("/api/v1/crash") as response:
        await problem(response, 500, "internal")
        assert SECRET not in await response.text()
    [record] = [r for r in caplog.records if r.name == "ytdl.http"]
    assert record.exc_info


async def test_an_expected_failure_is_not_logged_as_a_fault(
    client: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.get("/api/v1/busy") as response:
        found = await problem(response, 503, "unavailable")
    assert (found["detail"], found["until"]) == ("The shop is shut.", "noon")
    assert response.headers["Retry-After"] == "2"
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_redirect_is_no_problem(client: ClientSession) -> None:
    async with client.get("/api/v1/elsewhere", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/api/v1/things")


async def test_an_expectation_nobody_can_meet_is_a_problem(client: ClientSession) -> None:
    async with client.get("/api/v1/things", headers={"Expect": "wonders"}) as response:
        await problem(response, 417, "malformed")


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", b"nonsense\r\n\r\n",
                                      b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"])  # fmt: skip
async def test_what_is_not_http_is_a_problem(client: ClientSession, request_: bytes) -> None:
    assert client._base_url
    reader, writer = await asyncio.open_connection(client._base_url.host, client._base_url.port)
    writer.write(request_)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ") or head.startswith(b"HTTP/1.0 400 ")
    assert b"X-Content-Type-Options: nosniff" in head
    assert json.loads(body)["code"] == "malformed"


async def test_an_answer_that_breaks_off_is_seen_to_be_cut(client: ClientSession) -> None:
    from aiohttp import ClientPayloadError

    before = _count("GET", "/api/v1/cut", "500")
    async with client.get("/api/v1/cut") as response:
        with pytest.raises(ClientPayloadError):
            await response.read()
    assert _count("GET", "/api/v1/cut", "500") == before + 1


def _count(method: str, route: str, status: str) -> float:
    labels = {"method": method, "route": route, "status": status}
    return metrics.REGISTRY.get_sample_value("ytdl_http_requests_total", labels) or 0.0


def _failures(route: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("ytdl_http_failures_total", {"route": route})


async def test_every_failure_of_a_route_counts_from_the_first_one(client: ClientSession) -> None:
    """A series that begins with the first would hide it, and its like, from whoever looks at growth."""
    before = _failures("/api/v1/busy")
    assert before is not None and _failures("unmatched") is not None
    for _ in range(3):
        for ask in (client.get, client.head):
            async with ask("/api/v1/busy") as response:
                assert response.status == 503
    assert _failures("/api/v1/busy") == before + 6


async def test_what_a_client_did_wrong_is_no_failure(client: ClientSession) -> None:
    before = _failures("/api/v1/things")
    async with client.get("/api/v1/things", headers={"Expect": "wonders"}) as response:
        assert response.status == 417
    assert before is not None and _failures("/api/v1/things") == before


def test_every_error_has_a_status_a_meaning_and_a_counter() -> None:
    from ytdl.api import openapi

    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)}
    assert codes <= set(problems.STATUS)
    counted = {s.labels["code"] for f in metrics.http_errors.collect() for s in f.samples}
    assert set(problems.STATUS) == set(openapi.MEANINGS) == counted


# headers


async def test_a_request_id_is_taken_over_where_it_is_well_formed(client: ClientSession) -> None:
    async with client.get("/api/v1/things", headers={"X-Request-Id": "my-id_1.2"}) as response:
        assert response.headers["X-Request-Id"] == "my-id_1.2"
    for odd in ("", "a b", "x" * 65, 'a"b'):
        async with client.get("/api/v1/things", headers={"X-Request-Id": odd}) as response:
            assert len(response.headers["X-Request-Id"]) == 16


async def test_every_answer_carries_the_security_headers(client: ClientSession) -> None:
    for path in ("/api/v1/things", "/api/v1/crash", "/nowhere"):
        async with client.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "aiohttp" not in response.headers["Server"]


async def test_answers_are_not_stored_by_default(client: ClientSession) -> None:
    async with client.put("/api/v1/things", json={"name": "a"}) as response:
        assert response.headers["Cache-Control"] == "no-store"


async def test_head_answers_where_get_does_without_a_body(client: ClientSession) -> None:
    async with client.head("/api/v1/things") as head, client.get("/api/v1/things") as get:
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


async def test_an_endless_stream_does_not_answer_head(client: ClientSession) -> None:
    async with client.head("/api/v1/cut") as response:
        assert response.status == 405


async def test_an_unchanged_resource_is_not_sent_again(client: ClientSession) -> None:
    async with client.get("/api/v1/things") as first:
        tag = first.headers["ETag"]
    for wanted in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        async with client.get("/api/v1/things", headers={"If-None-Match": wanted}) as again:
            assert (again.status, again.headers["ETag"], await again.read()) == (304, tag, b"")
    async with client.get("/api/v1/things?limit=2", headers={"If-None-Match": tag}) as changed:
        assert changed.status == 200


async def test_long_answers_are_packed_for_those_who_can_unpack_them(client: ClientSession) -> None:
    async with client.get("/api/v1/long", headers={"Accept-Encoding": "br, gzip"}) as packed:
        assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
        whole = gzip.decompress(await packed.read())
    for refusing in ("gzip;q=0", "br", "identity"):
        async with client.get("/api/v1/long", headers={"Accept-Encoding": refusing}) as plain:
            assert "Content-Encoding" not in plain.headers
            assert await plain.read() == whole
    async with client.get("/api/v1/things", headers={"Accept-Encoding": "gzip"}) as short:
        assert "Content-Encoding" not in short.headers


# who is asking


@pytest.mark.parametrize("value", ["", "Basic YTpi", "Bearer", "Bearer  ", "token"])
async def test_without_a_token_the_challenge_names_no_error(client: ClientSession, value: str) -> None:
    async with client.get("/api/v1/mine", headers={"Authorization": value} if value else {}) as response:
        await problem(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="ytdl"'


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("nonsense, 10.1.2.3", "10.1.2.3"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:DB8::1", "2001:db8::1"),
        ("<script>", "127.0.0.1"),
        # Some proxies write a port too.
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:DB8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[::ffff:203.0.113.9]:4711", "203.0.113.9"),
        ("[fe80::1%eth0]:4711", "fe80::1"),
        ("198.51.100.1:1, 203.0.113.9:2, 10.1.2.3:3", "203.0.113.9"),
        ("2001:db8::1:4711", "2001:db8::1:4711"),
        ("203.0.113.9:", "127.0.0.1"),
        ("203.0.113.9:4711x", "127.0.0.1"),
        ("203.0.113.9:471111", "127.0.0.1"),
        ("203.0.113.9:٤٧", "127.0.0.1"),
        ("[203.0.113.9]:4711", "127.0.0.1"),
        ("[2001:db8::1", "127.0.0.1"),
    ],
)
async def test_the_address_is_the_nearest_that_is_no_proxy(
    client: ClientSession, forwarded: str, expected: str
) -> None:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    async with client.get("/api/v1/address", headers=headers) as response:
        assert await response.json() == expected


async def test_a_forwarded_address_from_a_stranger_is_not_believed(client: ClientSession) -> None:
    app = http.application()
    app[CONFIG] = config.Config()
    http.register(app, ROUTES)
    runner = serving.Runner(app)
    await runner.setup()
    url = await serving.listen(runner, "127.0.0.1", 0)
    async with client.get(f"{url}/api/v1/address", headers={"X-Forwarded-For": "203.0.113.9"}) as response:
        assert await response.json() == "127.0.0.1"
    await runner.cleanup()


# what is counted and logged


async def test_requests_are_counted_by_the_routes_template(client: ClientSession) -> None:
    before = _count("GET", "/api/v1/things/{id}", "404")
    async with client.get("/api/v1/things/none"):
        pass
    assert _count("GET", "/api/v1/things/{id}", "404") == before + 1


async def test_what_no_route_knows_is_counted_under_one_name(client: ClientSession) -> None:
    before = _count("other", "unmatched", "404")
    async with client.request("PROPFIND", "/coffee/1"):
        pass
    assert _count("other", "unmatched", "404") == before + 1


async def test_the_access_line_has_no_query_string(client: ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ytdl.access")
    async with client.get(f"/api/v1/things?q={SECRET}", headers={"X-Request-Id": "r1"}):
        pass
    [line] = [vars(r) for r in caplog.records if r.name == "ytdl.access"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/api/v1/things", 200)
    assert line["bytes"] > 0 and line["duration_seconds"] > 0 and line["ip"] == "127.0.0.1"
    assert SECRET not in str(line)
