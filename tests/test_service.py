"""The operational addresses and the pages, as `ytdl serve` answers them."""

import asyncio
import dataclasses
import math
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web

from tests.conftest import Person, Service, running
from tests.servers import Servers
from ytdl import health, kv, metrics
from ytdl.api import docs, http, serving
from ytdl.api.keys import AUTH, CONFIG, HEALTH
from ytdl.api.keys import DB as DB_KEY
from ytdl.config import Config
from ytdl.db import DB
from ytdl.health import Health
from ytdl.kv import KV
from ytdl.storage import Storage

PAGES = ("/", "/docs", "/api/docs", "/redoc")


@pytest.fixture(autouse=True)
def looking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service looks as it begins, and what these tests do to it shows at once."""
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)


async def readiness(service: Service, status: int) -> dict[str, Any]:
    async with service.client.get("/readyz") as response:
        assert response.status == status
        found: dict[str, Any] = await response.json()
        return found


def failing(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in found["checks"] if not check["ok"]]


async def test_a_running_service_is_alive_and_ready(service: Service) -> None:
    async with service.client.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    found = await readiness(service, 200)
    assert found["status"] == "ready"
    assert [check["name"] for check in found["checks"]] == ["postgres", "redis", "disk"]
    assert all(0 <= check["latency_seconds"] < 2 and check["detail"] for check in found["checks"])


def shut(servers: Servers, database_url: str) -> None:
    """Nobody can connect to the database any more, and those who had are thrown out."""
    name = database_url.rpartition("?")[0].rpartition("/")[2]
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        while connection.execute(terminate, (name,)).fetchall():
            time.sleep(0.02)


async def test_a_lost_database_is_named_and_the_process_stays_alive(
    service: Service, servers: Servers, database_url: str
) -> None:
    await asyncio.to_thread(shut, servers, database_url)
    # The pool trusts a connection that it used within the last second.
    await asyncio.sleep(1.1)
    found = await readiness(service, 503)
    assert (found["status"], failing(found)) == ("not_ready", ["postgres"])
    assert database_url not in str(found)
    async with service.client.get("/healthz") as response:
        assert response.status == 200


async def test_a_full_disk_is_named(config: Config) -> None:
    async with running(dataclasses.replace(config, download_min_free_bytes=2**62)) as service:
        assert failing(await readiness(service, 503)) == ["disk"]


async def test_a_draining_service_is_not_ready(service: Service) -> None:
    service.app[HEALTH].draining = True
    found = await readiness(service, 503)
    assert (found["status"], failing(found)) == ("draining", [])


def questions() -> float:
    """How often PostgreSQL was asked whether it answers, by this whole process."""
    return metrics.REGISTRY.get_sample_value("ytdl_db_queries_total", {"query": "health.server_version"}) or 0.0


@pytest.fixture
def believing(looking_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen is believed for as long as a test takes, also what the service has seen of itself as it began."""
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 60.0)


@pytest.mark.usefixtures("believing")
async def test_what_a_crowd_of_strangers_asks_is_asked_once(service: Service) -> None:
    # Not while the service looks by itself, as it does at first.
    await readiness(service, 200)
    service.app[HEALTH]._looked_at = -math.inf
    before = questions()
    await asyncio.gather(*(readiness(service, 200) for _ in range(50)))
    assert questions() == before + 1


@pytest.mark.usefixtures("believing")
async def test_what_was_seen_is_believed_for_a_moment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await readiness(service, 200)

    async def fail() -> str:
        raise health.Failing("Nothing is free.")

    service.app[HEALTH].asks["disk"] = fail
    assert failing(await readiness(service, 200)) == []
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)
    assert failing(await readiness(service, 503)) == ["disk"]


@pytest.mark.usefixtures("believing")
async def test_that_a_service_is_about_to_stop_is_said_at_once(service: Service) -> None:
    await readiness(service, 200)
    before = questions()
    service.app[HEALTH].draining = True
    assert (await readiness(service, 503))["status"] == "draining"
    assert questions() == before


@pytest.fixture
async def mute_redis(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server that takes connections and never says a word, of which our client does not tire."""
    monkeypatch.setattr(kv, "TIMEOUT_SECONDS", 20.0)
    open_writers = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in open_writers:
        writer.close()


async def at_once() -> str:
    return "answers"


async def test_a_check_that_hangs_does_not_hold_up_the_answer(
    config: Config, db: DB, mute_redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.3)
    storage = Storage(tmp_path)
    storage.open()
    redis = KV(mute_redis, "t")
    asked = Health(dataclasses.replace(config, data_dir=tmp_path), db, redis, storage, None)
    # Not real ones, which a machine that stands still would keep from answering in time as well.
    asked.asks |= {"postgres": at_once, "disk": at_once}
    async with asyncio.timeout(10):
        found = await asked.readiness()
    await redis.close()
    assert [c.name for c in found.checks if not c.ok] == ["redis"]


async def test_metrics_are_plain_text_or_openmetrics(service: Service) -> None:
    async with service.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        names = set(re.findall(r"^# TYPE (\S+)", await response.text(), re.MULTILINE))
    assert {"ytdl_http_requests_total", "ytdl_health_ready", "process_cpu_seconds_total"} <= names
    async with service.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert (await response.text()).endswith("# EOF\n")


async def test_a_row_is_counted_from_the_start(service: Service) -> None:
    async with service.client.get("/metrics") as response:
        text = await response.text()
    assert 'ytdl_http_requests_total{method="POST",route="/api/v1/auth/login",status="200"}' in text


async def test_the_openapi_document_is_served(service: Service) -> None:
    async with service.client.get("/openapi.json") as response:
        assert response.headers["Content-Encoding"] == "gzip"
        document = await response.json()
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/downloads/{id}" in document["paths"]


async def test_pages_load_only_what_the_service_has(service: Service) -> None:
    for path in PAGES:
        await check_page(service, path)


async def check_page(service: Service, path: str) -> None:
    async with service.client.get(path) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy, page = response.headers["Content-Security-Policy"], await response.text()
    assert "http" not in policy and "script-src 'unsafe" not in policy
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page)
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert wanted and all(url.startswith("/") for url in wanted)
    for url in wanted:
        async with service.client.head(url) as response:
            assert response.status == 200, url


async def test_assets_may_be_kept_and_are_what_they_say(service: Service) -> None:
    kinds = {"css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
    for name in docs.ASSETS:
        async with service.client.get(f"/static/{name}") as response:
            assert response.status == 200
            assert response.headers["Cache-Control"] == "public, max-age=3600"
            assert response.content_type == kinds[name.rpartition(".")[2]]


async def test_no_other_file_is_served(service: Service) -> None:
    for name in ("nothing.js", "index.html", "..%2fapp.py", "%2e%2e%2fapp.py", "%00"):
        async with service.client.get(f"/static/{name}") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")


# who is asking, with real tokens


async def test_a_token_that_is_refused_is_told_so(service: Service) -> None:
    async with service.client.get("/api/v1/auth/profile", headers={"Authorization": "Bearer x"}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="ytdl", error="invalid_token"'


async def test_the_schemes_case_does_not_matter(service: Service, alice: Person) -> None:
    headers = {"Authorization": f"bEARER {alice.token}"}
    async with service.client.get("/api/v1/auth/profile", headers=headers) as response:
        assert response.status == 200


async def test_a_token_in_the_query_string_does_not_count(service: Service, alice: Person) -> None:
    for name in ("ticket", "access_token", "token"):
        async with service.client.get(f"/api/v1/auth/profile?{name}={alice.token}") as response:
            assert response.status == 401


async def test_a_ticket_opens_a_stream_once(service: Service, alice: Person) -> None:
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    async with service.client.get(f"/api/v1/downloads/events?ticket={ticket}") as response:
        assert response.status == 200
    async with service.client.get(f"/api/v1/downloads/events?ticket={ticket}") as response:
        assert response.status == 401


async def test_a_ticket_does_not_count_where_a_header_can_be_set(service: Service, alice: Person) -> None:
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    async with service.client.get(f"/api/v1/downloads?ticket={ticket}") as response:
        assert response.status == 401


async def nothing(request: web.Request) -> None:
    """Only for admins."""


async def test_a_row_for_admins_refuses_users(service: Service, alice: Person, root: Person) -> None:
    app = http.application()
    app[CONFIG], app[AUTH], app[DB_KEY] = service.config, service.app[AUTH], service.app[DB_KEY]
    http.register(app, (http.Route("GET", "/nothing", nothing, "admin", status=204),))
    runner = serving.Runner(app)
    await runner.setup()
    url = await serving.listen(runner, "127.0.0.1", 0) + "/api/v1/nothing"
    for token, status in ((alice.token, 403), (root.token, 204), ("", 401)):
        async with service.client.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == status
    await runner.cleanup()


async def test_the_own_profile_is_not_sent_again_unchanged(alice: Person) -> None:
    tag = (await alice.get("/auth/profile")).headers["ETag"]
    assert (await alice.get("/auth/profile", headers={"If-None-Match": tag})).status == 304
    await alice.put("/auth/profile", {"full_name": "Alice Again"})
    assert (await alice.get("/auth/profile", headers={"If-None-Match": tag})).status == 200
