"""What docs/SECURITY.md says and no feature's own tests hold: rules over all answers, and over the whole source."""

import ast
import asyncio
import base64
import dataclasses
import io
import json
import logging
import pyexpat
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yt_dlp.compat import compat_etree_fromstring

from tests.conftest import PASSWORD, Person, Service, running
from tests.front import SOURCE, fronting, needs_nginx
from tests.instance import ROOT, free_port
from tests.queueing import sql
from tests.shape.source import imports, modules
from ytdl import apikeys, crypto, log, passwords
from ytdl.api.docs import ASSETS, STATIC
from ytdl.api.files import FileAnswer
from ytdl.api.keys import DB
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.record import File
from ytdl.routes import ROUTES

OWN_SCRIPTS = sorted(STATIC.glob("*.js"))
SIGN_IN = {"username": "alice", "password": PASSWORD}
CLOSED = {"default-src": "'none'", "base-uri": "'none'", "frame-ancestors": "'none'"}
EVERYWHERE = (
    "/",
    "/docs",
    "/openapi.json",
    "/healthz",
    "/metrics",
    "/static/page.css",
    "/api/v1/auth/profile",
    "/none",
)
HIDDEN = (
    "/.git/HEAD",
    "/.env",
    "/data/secrets/encryption.key",
    "/static/",
    "/static",
    "/ytdl/app.py",
    "/static/../.git",
)


@pytest.fixture
async def service(config: Config) -> AsyncIterator[Service]:
    async with running(dataclasses.replace(config, public_url="https://ytdl.example.org")) as service:
        yield service


def policy_of(headers: Mapping[str, str]) -> dict[str, str]:
    return dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))


async def unparsed(url: str, request: bytes = b"nonsense\r\n\r\n") -> dict[str, str]:
    """The headers of the answer to what is no request at all."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:-1]
    writer.close()
    await writer.wait_closed()
    return dict(line.split(": ", 1) for line in head)


# answers


async def test_an_answer_may_be_framed_by_nobody_and_loads_nothing(service: Service) -> None:
    for path in EVERYWHERE:
        async with service.client.get(path) as answer:
            assert CLOSED.items() <= policy_of(answer.headers).items(), path


def test_a_file_is_saved_and_never_shown_as_a_page() -> None:
    answer = FileAnswer(Path("x"), File('<script>"x".mp4', 1, "video/mp4", "0" * 64, "/x"))
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert (CLOSED | {"sandbox": ""}).items() <= policy_of(answer.headers).items()


async def test_what_is_no_request_gets_the_headers_of_every_answer(service: Service) -> None:
    headers = await unparsed(service.url)
    async with service.client.get("/api/v1/none") as answer:
        for name in ("Strict-Transport-Security", "Content-Security-Policy", "X-Content-Type-Options"):
            assert headers[name] == answer.headers[name]


async def test_browsers_come_by_https_for_years_and_to_all_names_below(service: Service) -> None:
    for path in EVERYWHERE:
        async with service.client.get(path) as answer:
            assert answer.headers["Strict-Transport-Security"] == "max-age=63072000; includeSubDomains", path


async def test_no_answer_sets_a_cookie(service: Service, alice: Person) -> None:
    for path in (*EVERYWHERE, "/api/v1/downloads"):
        assert "Set-Cookie" not in (await alice.get(f"/{path}")).headers
    async with service.client.post("/api/v1/auth/login", json=SIGN_IN) as answer:
        assert answer.status == 200 and "Set-Cookie" not in answer.headers


async def test_a_cookie_signs_nobody_in(service: Service, alice: Person) -> None:
    cookies = {"access_token": alice.token, "session": alice.token, "Authorization": f"Bearer {alice.token}"}
    async with service.client.get("/api/v1/auth/profile", cookies=cookies) as answer:
        assert answer.status == 401


async def test_every_text_says_how_it_is_encoded(service: Service) -> None:
    for path in ("/", "/docs", "/redoc", "/metrics", *(f"/static/{name}" for name in ASSETS)):
        async with service.client.get(path) as answer:
            kind = answer.headers["Content-Type"]
            assert not kind.startswith("text/") or "charset=utf-8" in kind, path


async def test_a_logout_has_the_browser_forget_what_it_kept(alice: Person) -> None:
    answer = await alice.post("/auth/logout")
    assert (answer.status, answer.headers["Clear-Site-Data"]) == (204, '"cache"')


async def test_neither_folders_nor_what_lies_in_the_checkout_is_served(service: Service) -> None:
    for path in HIDDEN:
        answer = await unparsed(service.url, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert answer["Content-Type"].startswith("application/problem+json"), path


async def test_no_request_is_sent_back_to_who_traces_it(service: Service) -> None:
    for path in ("/", "/api/v1/downloads", "/none"):
        async with service.client.request("TRACE", path, headers={"X-Mark": "mark"}) as answer:
            assert answer.status in (404, 405) and "mark" not in await answer.text()


async def test_nobody_is_sent_to_another_address(service: Service) -> None:
    """Nor from HTTP to HTTPS: a client that sends its token in the clear is to notice."""
    for path in (*EVERYWHERE, "/api/v1/downloads/"):
        async with service.client.get(path, allow_redirects=False) as answer:
            assert answer.status // 100 != 3, path
    used = {n.attr for t in modules().values() for n in ast.walk(t) if isinstance(n, ast.Attribute)}
    assert not used & {name for name in vars(web) if re.match("HTTP(Moved|Found|See|Use|Temp|Perm|Multiple)", name)}


def test_what_may_be_asked_for_by_a_link_changes_nothing() -> None:
    assert {row.method for row in ROUTES if row.body} <= {"POST", "PUT"}
    assert {row.needs for row in ROUTES if row.method == "GET"} == {"read"}
    assert {row.method for row in ROUTES} <= {"GET", "POST", "PUT", "DELETE"}


# signing in


async def test_an_account_that_is_made_is_not_signed_in(service: Service) -> None:
    body = {"username": "carol", "email": "carol@example.org", "password": PASSWORD, "full_name": "Carol"}
    async with service.client.post("/api/v1/auth/register", json=body) as answer:
        assert answer.status == 201 and "token" not in await answer.text()


async def test_each_sign_in_opens_a_session_of_its_own(service: Service, alice: Person) -> None:
    """Whatever is sent along: nothing that somebody else made is taken up."""
    async with alice.session.post("/api/v1/auth/login", json=SIGN_IN) as answer:
        tokens = await answer.json()
    assert alice.token != tokens["access_token"] and alice.refresh_token != tokens["refresh_token"]
    assert len((await (await alice.get("/auth/sessions")).json())["items"]) == 2


@pytest.mark.parametrize("password", ["Ytdl-2026!", "YouTube#1", "D0wnload!9", "!Video-77!", "Adm1n-2026"])
def test_words_of_this_service_make_no_password(password: str) -> None:
    assert passwords.faults(password, "carol", "carol@example.org") == ["is among the most common passwords"]


async def test_an_old_password_is_as_good_as_a_new_one(service: Service, alice: Person) -> None:
    await sql(service.app[DB], "UPDATE users SET password_changed_at = now() - interval '10 years'")
    async with service.client.post("/api/v1/auth/login", json=SIGN_IN) as answer:
        assert answer.status == 200


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher(cost=4)
    yield hasher
    hasher.close()


@pytest.mark.parametrize("other", ["correct-Horse-9", " Correct-horse-9", "Correct-horse-9 ", "Correct-horse-"])
async def test_a_password_is_neither_trimmed_nor_cut_nor_made_small(hasher: Hasher, other: str) -> None:
    assert not await hasher.verify(other, await hasher.hash(PASSWORD))


# chance


def test_what_nobody_may_guess_has_128_bits_and_more() -> None:
    made = {crypto.new_secret() for _ in range(100)}
    assert len(made) == 100 and {len(base64.urlsafe_b64decode(f"{text}=")) for text in made} == {32}
    # Of letters and digits, 22 have 131 bits.
    assert {len(apikeys.mint()) for _ in range(20)} == {len(apikeys.PREFIX) + 32 + 6}
    assert min(len(passwords.make("chief")) for _ in range(20)) * 6 >= 128


def test_common_chance_decides_when_and_nothing_else() -> None:
    """`random` can be foretold; it spreads retries and waits."""
    foretold = {name for name in modules() if imports(name) & {"random", "numpy", "uuid.uuid1"}}
    assert foretold == {"ytdl.disk", "ytdl.egress", "ytdl.loops", "ytdl.queue"}


# the source


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the source, with its module."""
    return [(name, node) for name, tree in modules().items() for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_that_comes_in_is_run() -> None:
    called = {ast.unparse(call.func) for _, call in calls()}
    assert called and not called & {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    assert not [m for m, call in calls() if any(word.arg == "shell" for word in call.keywords)]


def test_nothing_reads_a_form_that_can_hold_programs() -> None:
    reading = {"pickle", "marshal", "shelve", "dill", "yaml", "xml", "lxml", "jinja2", "string", "ldap", "smtplib"}
    found = {(m, name.split(".")[0]) for m in modules() for name in imports(m)}
    # Alertmanager's file, by a reader that makes nothing but texts, numbers and lists of them.
    yaml = {("ytdl.routing", "yaml"), ("ytdl.alertmanager_file", "yaml")}
    assert {(m, name) for m, name in found if name in reading} == {("ytdl.apikeys", "string"), *yaml}
    loads = [word.value for _, c in calls() if ast.unparse(c.func) == "yaml.load" for word in c.keywords]
    assert {ast.unparse(loader) for loader in loads} == {"yaml.CSafeLoader"}


def test_no_form_of_a_text_comes_from_outside() -> None:
    """`format` is asked of texts that stand in the source only. psycopg's own quotes what it puts in; commands about
    roles take no parameters, so `readers` has to use that."""
    asked = [(m, c.func.value) for m, c in calls() if isinstance(c.func, ast.Attribute) and c.func.attr == "format"]
    forms = [ast.unparse(value) for m, value in asked if not isinstance(value, ast.Constant) and m != "ytdl.readers"]
    assert forms and all(re.fullmatch(r"[A-Z_]+(\[\w+\])?", form) for form in forms), forms


def test_a_regular_expression_is_made_of_our_own_parts() -> None:
    made = [c for _, c in calls() if re.fullmatch(r"re\.(compile|match|fullmatch|search|sub)", ast.unparse(c.func))]
    names = {name.id for call in made for name in ast.walk(call.args[0]) if isinstance(name, ast.Name)}
    # `pattern` goes over a table in the source.
    assert made and all(re.fullmatch(r"_?[A-Z_]+|pattern", name) for name in names), names


def test_the_service_takes_nothing_from_its_tests() -> None:
    foreign = {"tests", "pytest", "hypothesis", "schemathesis", "atheris", "pdb", "code", "cProfile"}
    assert not {m for m in modules() if {name.split(".")[0] for name in imports(m)} & foreign}


def test_every_package_is_locked_to_what_was_looked_at() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        assert len(entries) > 10 and all(
            re.match(r"[\w.-]+==\S+.*--hash=sha256:[0-9a-f]{64}", e, re.DOTALL) for e in entries
        )


# pages


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.name)
def test_a_page_keeps_nothing_and_listens_to_nobody(path: Path) -> None:
    avoided = (
        r"localStorage|sessionStorage|indexedDB|cookie|persistAuthorization|postMessage|\bmessage\b|innerHTML|eval"
    )
    assert not re.search(avoided, path.read_text())
    assert OWN_SCRIPTS


# what sites send


def test_a_document_of_a_site_opens_no_file(tmp_path: Path) -> None:
    """Manifests are XML, and yt-dlp reads them, in its child."""
    (tmp_path / "secret").write_text("hush")
    text = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]><a>&e;</a>'
    with pytest.raises(ET.ParseError):
        compat_etree_fromstring(text)


def test_a_document_of_a_site_cannot_swell() -> None:
    names = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10)]
    with pytest.raises(ET.ParseError, match="amplification"):
        compat_etree_fromstring(f'<!DOCTYPE a [<!ENTITY e0 "laughter">{"".join(names)}]><a>&e9;</a>')
    assert pyexpat.version_info >= (2, 4, 1)


# the log


def test_a_line_of_the_log_is_one_line_in_utc() -> None:
    """Whatever a client sent: a break or a quote stays inside its text."""
    sent = 'x\r\n{"event": "forged"}\u2028\x1b[2J'
    record = logging.makeLogRecord({"msg": "event", "levelname": "INFO", "name": "x", "agent": sent})
    line = log.Lines().format(record)
    assert "\n" not in line and "\r" not in line and "\x1b" not in line
    assert json.loads(line)["agent"] == sent
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", json.loads(line)["time"])


# nginx


def test_nginx_asks_nobody_but_the_services() -> None:
    text = SOURCE.read_text()
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://ytdl"}
    assert not re.search(r"\b(root|alias|autoindex|resolver|fastcgi_pass|proxy_cache)\b", text)


@needs_nginx
async def test_what_nginx_answers_itself_is_as_closed_as_the_rest(service: Service) -> None:
    async with fronting([service.url]) as front, aiohttp.ClientSession(front.addresses[0]) as client:
        own = await client.get("/metrics")
        large = await client.post("/api/v1/downloads", data=io.BytesIO(b"x" * 2**21))
        traced = await client.request("TRACE", "/", headers={"X-Mark": "mark"})
        assert (own.status, large.status, traced.status) == (404, 413, 405)
        assert "ytdl_" not in await own.text() and "mark" not in await traced.text()
        for answer in (own, large, traced, await client.get("/healthz"), await client.get("/docs")):
            assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
            [policy] = answer.headers.getall("Content-Security-Policy")
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert traced.headers["Content-Type"] == "text/html; charset=utf-8"


@needs_nginx
async def test_what_nginx_refuses_is_a_problem_like_all_others(service: Service) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with fronting([service.url]) as front, fronting([nobody]) as alone, aiohttp.ClientSession() as client:
        large = {"data": io.BytesIO(b"x" * 2**21)}
        assert await refusal(client, "POST", f"{front.addresses[0]}/api/v1/downloads", **large) == (
            413,
            "too_large",
            32,
        )
        assert await refusal(client, "GET", f"{front.addresses[0]}/metrics") == (404, "not_found", 32)
        assert await refusal(client, "GET", f"{alone.addresses[0]}/healthz") == (502, "unavailable", 32)
        # What a service says passes as it is, under the service's own id.
        assert await refusal(client, "GET", f"{front.addresses[0]}/none") == (404, "not_found", 16)


@needs_nginx
async def test_too_many_connections_to_nginx_are_told_when_to_come_again(service: Service, alice: Person) -> None:
    async with (
        fronting([service.url], connections=1) as front,
        aiohttp.ClientSession(front.addresses[0], headers={"Authorization": f"Bearer {alice.token}"}) as client,
        client.get("/api/v1/downloads/events") as stream,
    ):
        await stream.content.readline()
        async with client.get("/healthz") as refused:
            assert (refused.status, refused.content_type) == (429, "application/problem+json")
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.headers.getall("X-Content-Type-Options") == ["nosniff"]


async def refusal(client: aiohttp.ClientSession, method: str, url: str, **more: Any) -> tuple[int, str, int]:
    """The status, the code, and how long the id is."""
    async with client.request(method, url, **more) as answer:
        assert answer.content_type == "application/problem+json"
        document = await answer.json(content_type=None)
        assert document["status"] == answer.status
        return answer.status, document["code"], len(document["request_id"])
