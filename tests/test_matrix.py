"""Who may do what: every route asked by nobody, the owner, another user, the owner's read-only key and an admin.

A row of the route table without a row here fails, and so does a row here without one there.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import hdrs

from tests.conftest import PASSWORD, Person, Service
from ytdl.routes import ROUTES

CALLERS = ("nobody", "owner", "other", "key", "admin")
_numbers = itertools.count()
VIDEO = "https://www.youtube.com/watch?v={:011}"


@dataclass
class Scene:
    """Everybody on one service; what is asked about is the owner's, and made anew for each request."""

    service: Service
    callers: dict[str, aiohttp.ClientSession]
    alice: Person
    bob: Person
    root: Person

    def session(self, headers: dict[str, str]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.service.url, headers=headers)


Make = Callable[[Scene], Awaitable[str]]
Body = Callable[[Scene], Awaitable[Any]]


async def made(person: Person, path: str, body: Any) -> dict[str, Any]:
    answer = await person.post(path, body)
    found: dict[str, Any] = await answer.json()
    assert answer.status in (200, 201, 202), found
    return found


async def download(scene: Scene) -> str:
    return str((await made(scene.alice, "/downloads", {"url": VIDEO.format(next(_numbers))}))["id"])


async def cancelled(scene: Scene) -> str:
    id = await download(scene)
    await scene.alice.post(f"/downloads/{id}/cancel")
    return id


async def api_key(scene: Scene) -> str:
    return str((await made(scene.alice, "/auth/api-keys", {"name": "a", "scope": "read"}))["id"])


async def account(scene: Scene) -> str:
    async with scene.service.client.post("/api/v1/auth/register", json=await somebody(scene)) as answer:
        return str((await answer.json())["id"])


async def another_session(scene: Scene) -> str:
    tokens = await signed_in("alice", scene)
    session = scene.session({"Authorization": f"Bearer {tokens['access_token']}"})
    async with session, session.get("/api/v1/auth/sessions") as answer:
        return next(str(item["id"]) for item in (await answer.json())["items"] if item["current"])


async def block(scene: Scene) -> str:
    wanted = {"network": f"192.0.2.{next(_numbers) % 256}/32", "reason": "test", "expires_in_seconds": 3600}
    return str((await made(scene.root, "/security/blocks", wanted))["id"])


async def signed_in(username: str, scene: Scene) -> dict[str, Any]:
    body = {"username": username, "password": PASSWORD}
    async with scene.service.client.post("/api/v1/auth/login", json=body) as answer:
        return dict(await answer.json())


async def somebody(scene: Scene) -> dict[str, str]:
    name = f"new{next(_numbers)}"
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD, "full_name": "New"}


async def a_day(scene: Scene) -> dict[str, str]:
    return {"from": "2026-11-22T00:00:00Z", "to": "2026-11-23T00:00:00Z", "format": "json"}


async def refresh_token(scene: Scene) -> dict[str, str]:
    return {"refresh_token": (await signed_in("alice", scene))["refresh_token"]}


async def cookies(scene: Scene) -> str:
    for person in (scene.alice, scene.bob, scene.root):
        await person.put("/cookies", {"cookies": COOKIE})
    return ""


async def notification(scene: Scene) -> dict[str, Any]:
    return {"status": "firing", "groupKey": "a", "alerts": [{"status": "firing"}]}


def given(**body: Any) -> Body:
    async def make(scene: Scene) -> dict[str, Any]:
        return {name: value.format(next(_numbers)) if isinstance(value, str) else value for name, value in body.items()}

    return make


@dataclass(frozen=True)
class Row:
    """The statuses for `CALLERS`, in their order; `id` and `body` make what the request is about."""

    statuses: str
    id: Make | None = None
    body: Body | None = None
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)


COOKIE = "\n".join(f".youtube.com\tTRUE\t/\tTRUE\t4102444800\t{name}\tvalue" for name in ("LOGIN_INFO", "SAPISID"))
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip
EVERYBODY = Row("200 200 200 200 200")
# Whoever is asked for a password has given one, so these are asked by people who sign in anew each time.
OWN = Row("401 200 200 200 200")
ADMINS = Row("401 403 403 403 200")
MATRIX = {
    "POST /api/v1/auth/register": Row("201 201 201 201 201", body=somebody),
    "POST /api/v1/auth/login": Row("200 200 200 200 200", body=given(username="alice", password=PASSWORD)),
    "POST /api/v1/auth/logout": Row("401 204 204 403 204"),
    "GET /api/v1/auth/profile": OWN,
    "PUT /api/v1/auth/profile": Row("401 200 200 403 200", body=given(full_name="A")),
    "POST /api/v1/auth/change-password": Row(
        "401 422 422 403 422", body=given(current_password=PASSWORD, new_password="weak")
    ),
    "GET /api/v1/auth/sessions": Row("401 200 200 403 200"),
    "DELETE /api/v1/auth/sessions/{id}": Row("401 204 404 403 404", id=another_session),
    "POST /api/v1/auth/ticket": OWN,
    "GET /api/v1/auth/api-keys": Row("401 200 200 403 200"),
    "POST /api/v1/auth/api-keys": Row("401 201 201 403 201", body=given(name="k", scope="read")),
    "DELETE /api/v1/auth/api-keys/{id}": Row("401 204 404 403 404", id=api_key),
    "GET /api/v1/auth/users": Row("401 403 403 403 200"),
    "GET /api/v1/auth/users/{id}": Row("401 403 403 403 200", id=account),
    "PUT /api/v1/auth/users/{id}": Row("401 403 403 403 200", id=account, body=given(full_name="B")),
    "DELETE /api/v1/auth/users/{id}": Row("401 403 403 403 204", id=account),
    "POST /api/v1/security/token": Row("200 200 200 200 200", body=given(username="alice", password=PASSWORD)),
    "POST /api/v1/security/refresh": Row("200 200 200 200 200", body=refresh_token),
    "POST /api/v1/security/validate": Row("401 200 200 200 200", body=given(kind="quality", value="720p")),
    "GET /api/v1/security/rate-limit/{policy}": Row("401 200 200 200 200", path="/api/v1/security/rate-limit/api"),
    "GET /api/v1/security/events": Row("401 403 403 403 200"),
    "GET /api/v1/security/stats": Row("401 403 403 403 200"),
    "POST /api/v1/security/report": Row("401 403 403 403 200", body=a_day),
    "GET /api/v1/security/blocks": Row("401 403 403 403 200"),
    "POST /api/v1/security/blocks": Row(
        "401 403 403 403 201", body=given(network="198.51.{}.0/24", reason="test", expires_in_seconds=60)
    ),
    "GET /api/v1/security/blocks/{id}": Row("401 403 403 403 200", id=block),
    "DELETE /api/v1/security/blocks/{id}": Row("401 403 403 403 204", id=block),
    # Allowed, and then there is no Alertmanager.
    "GET /api/v1/monitoring/alerts": Row("401 403 403 403 503"),
    "GET /api/v1/monitoring/alerts/stats": Row("401 403 403 403 503"),
    "POST /api/v1/monitoring/alerts/acknowledge": Row(
        "401 403 403 403 503", body=given(fingerprint="0123456789abcdef", comment="mine")
    ),
    "DELETE /api/v1/monitoring/alerts/acknowledge/{fingerprint}": Row(
        "401 403 403 403 503", path="/api/v1/monitoring/alerts/acknowledge/0123456789abcdef"
    ),
    "POST /api/v1/downloads": Row("401 202 202 403 202", body=given(url=VIDEO)),
    "GET /api/v1/downloads": OWN,
    "GET /api/v1/downloads/events": OWN,
    "GET /api/v1/downloads/{id}": Row("401 200 404 200 200", id=download),
    "DELETE /api/v1/downloads/{id}": Row("401 204 404 403 204", id=download),
    "POST /api/v1/downloads/{id}/cancel": Row("401 202 404 403 202", id=download),
    "POST /api/v1/downloads/{id}/retry": Row("401 202 404 403 202", id=cancelled),
    "GET /api/v1/downloads/{id}/file": Row("401 409 404 409 409", id=download),
    "GET /api/v1/downloads/{id}/logs": Row("401 200 404 200 200", id=download),
    "GET /api/v1/downloads/{id}/events": Row("401 200 404 200 200", id=download),
    "GET /api/v1/downloads/{id}/ws": Row("401 101 404 101 101", id=download, headers=UPGRADE),
    "GET /api/v1/ws": Row("401 101 101 101 101", headers=UPGRADE),
    "GET /api/v1/cookies": Row("401 200 200 200 200", id=cookies),
    "PUT /api/v1/cookies": Row("401 200 200 403 200", body=given(cookies=COOKIE)),
    "DELETE /api/v1/cookies": Row("401 204 204 403 204", id=cookies),
    "GET /api/v1/monitoring/metrics": ADMINS,
    "GET /api/v1/monitoring/metrics/{metric_name}": Row(
        "401 403 403 403 200", path="/api/v1/monitoring/metrics/ytdl_queue_jobs"
    ),
    # Allowed, and then there is no Prometheus.
    "GET /api/v1/monitoring/metrics/{metric_name}/stats": Row(
        "401 403 403 403 503", path="/api/v1/monitoring/metrics/ytdl_queue_jobs/stats"
    ),
    "POST /api/v1/monitoring/report": Row("401 403 403 403 503", body=a_day),
    "GET /api/v1/monitoring/health": OWN,
    "POST /api/v1/monitoring/health/check": ADMINS,
    "GET /api/v1/monitoring/thresholds": ADMINS,
    "POST /api/v1/monitoring/thresholds/{metric_name}": Row(
        "401 403 403 403 200", path="/api/v1/monitoring/thresholds/queue_length", body=given(warning=10)
    ),
    # Allowed, and then there is no Alertmanager.
    "GET /api/v1/monitoring/config/notifications": Row("401 403 403 403 503"),
    "POST /api/v1/monitoring/config/notifications": Row("401 403 403 403 503", body=given(test=True)),
    # For Alertmanager alone, with a token of its own.
    "POST /api/v1/monitoring/receivers/sms/{channel}": Row(
        "401 401 401 401 401", path="/api/v1/monitoring/receivers/sms/none", body=notification
    ),
    "GET /healthz": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /": EVERYBODY,
    "GET /docs": EVERYBODY,
    "GET /api/docs": EVERYBODY,
    "GET /redoc": EVERYBODY,
    "GET /openapi.json": EVERYBODY,
    "GET /static/{name}": Row("200 200 200 200 200", path="/static/page.css"),
}


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert set(MATRIX) == {f"{row.method} {row.full_path}" for row in ROUTES}
    assert {len(row.statuses.split()) for row in MATRIX.values()} == {len(CALLERS)}


@pytest.fixture
async def scene(service: Service, alice: Person, bob: Person, root: Person) -> AsyncIterator[Scene]:
    key = (await made(alice, "/auth/api-keys", {"name": "matrix", "scope": "read"}))["key"]
    scene = Scene(service, {}, alice, bob, root)
    async with AsyncExitStack() as stack:
        for name, headers in (("nobody", {}), ("key", {"Authorization": f"Bearer {key}"})):
            scene.callers[name] = await stack.enter_async_context(scene.session(headers))
        yield scene


async def asked(scene: Scene, caller: str, address: str, row: Row) -> int:
    """The status; who signs in does so for this request alone, as it may be a logout."""
    method, _, path = address.partition(" ")
    if row.id:
        path = path.replace("{id}", await row.id(scene))
    body = await row.body(scene) if row.body else None
    names = {"owner": "alice", "other": "bob", "admin": "root"}
    if caller not in names:
        return await status(scene.callers[caller], method, row.path or path, body, row.headers)
    token = (await signed_in(names[caller], scene))["access_token"]
    async with scene.session({hdrs.AUTHORIZATION: f"Bearer {token}"}) as session:
        return await status(session, method, row.path or path, body, row.headers)


async def status(session: aiohttp.ClientSession, method: str, path: str, body: Any, headers: dict[str, str]) -> int:
    answer = await session.request(method, path, json=body, headers=headers)
    answer.close()
    return answer.status


@pytest.mark.parametrize("address", MATRIX)
async def test_each_caller_gets_what_the_matrix_says(scene: Scene, address: str) -> None:
    row = MATRIX[address]
    found = {caller: await asked(scene, caller, address, row) for caller in CALLERS}
    assert found == dict(zip(CALLERS, map(int, row.statuses.split()), strict=True))
