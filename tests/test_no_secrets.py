"""Nothing that a whole run writes has a secret in it: not the log, the tables, Redis, the files, the figures, a problem
document, or what the machine shows of the processes.

The run has a distinct secret wherever there can be one, and clients that put them where they do not belong. By design
secrets stand in three places, which are left out: the answers that hand a token or a key to its owner, the folder
data/secrets, and the embedded servers' own folders; here the servers are ours, and the keys are given.
"""

import asyncio
import base64
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psycopg
import pytest
from redis.asyncio import Redis

from tests import cookiefiles, instance
from tests.fakes.youtube import YouTube
from tests.redises import OwnRedis

# A run that leaves these empty would prove nothing.
FILLED = (
    "sessions", "refresh_tokens", "tickets", "api_keys", "audit_events", "audit_chain", "sealed_values", "cookies",
    "downloads", "download_logs",
)  # fmt: skip
RECORDED = (
    "authn_login_success", "authn_login_fail", "authn_token_reuse", "authn_token_created", "authn_password_change",
    "authn_password_change_fail", "authz_fail", "sys_startup", "sys_shutdown",
)  # fmt: skip
PLANTED = "password of the service's own test"


def password() -> str:
    """One that the rules of passwords take."""
    return f"Aa1!{secrets.token_urlsafe(18)}"


@dataclass
class Run:
    """The secrets by name, and what the run left behind, by place."""

    secrets: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def make(self, name: str) -> str:
        return self.secrets.setdefault(name, password())

    def found(self) -> list[str]:
        """Which secret stands where, with what is around it."""
        forms = {name: list(_forms(text)) for name, text in self.secrets.items()}
        return [
            f"{name} in {place}: {text[max(0, at - 60) : at]}<HERE>"
            for place, text in self.written.items()
            for name, known in forms.items()
            for form in known
            if (at := text.find(form)) >= 0
        ]


def _forms(secret: str) -> Iterator[str]:
    """As text, in an address, in JSON, as the bytes of a column, and in base64 wherever that begins."""
    raw = secret.encode()
    yield from {secret, quote(secret, safe=""), secret.replace("/", "\\/"), raw.hex()}
    for skip in range(3):
        encoded = base64.b64encode(b"\0" * skip + raw).decode()
        yield encoded[4 * (skip > 0) : len(encoded) // 4 * 4 - 4]


@pytest.fixture
async def redis(own_redis: OwnRedis) -> AsyncIterator[tuple[OwnRedis, str]]:
    """A Redis that wants a password, and that password."""
    word = secrets.token_urlsafe(18)
    async with Redis.from_url(own_redis.url) as client:
        await client.config_set("requirepass", word)
    yield own_redis, word


@pytest.mark.slow
async def test_no_secret_is_ever_written(
    database_url: str, redis: tuple[OwnRedis, str], youtube: YouTube, tmp_path: Path
) -> None:
    run = Run()
    own_redis, redis_password = redis
    run.secrets["REDIS_URL"] = redis_password
    settings = settings_of(run, database_url, own_redis.url, youtube, tmp_path)
    async with instance.serving(tmp_path, **settings) as service:
        await use(run, service, youtube)
        run.written["/metrics"] = await text_at(service, "/metrics")
        run.written["processes"] = shown_of_processes(service.pid)
        run.written |= await keys_of(own_redis.url, redis_password)
    run.written["log"] = service.log.read_text()
    run.written |= tables_of(database_url)
    run.written |= files_in(tmp_path / "data")

    assert run.found() == []
    # What was looked through is what a run leaves.
    assert len(run.written["log"].splitlines()) > 100 and '"level":"debug"' in run.written["log"]
    assert all(run.written[f"table {name}"] for name in FILLED)
    assert any(place.startswith("redis ") for place in run.written)
    for event in RECORDED:
        assert event in run.written["table audit_events"] and event in run.written["log"], event


def settings_of(run: Run, database: str, redis: str, youtube: YouTube, folder: Path) -> dict[str, str]:
    """With a password in every address and a token in every argument; one of the two proxies is not there."""
    cookies = folder / "cookies.txt"
    cookies.write_text(cookiefiles.signed_in(run.make("cookie of the operator")))
    proxies = [youtube.proxy_url, "http://127.0.0.1:9"]
    token = run.secrets["YTDLP_EXTRACTOR_ARGS"] = secrets.token_urlsafe(48)
    return {
        "DATABASE_URL": database.replace("postgres@", f"postgres:{quote(run.make('DATABASE_URL'), safe='')}@"),
        "REDIS_URL": redis.replace("unix://", f"unix://:{run.secrets['REDIS_URL']}@"),
        "JWT_SECRET_KEY": run.make("JWT_SECRET_KEY") + "x" * 32,
        "ENCRYPTION_KEY": run.secrets.setdefault("ENCRYPTION_KEY", secrets.token_hex(32)),
        "ADMIN_PASSWORD": run.make("ADMIN_PASSWORD"),
        "OUTBOUND_PROXY": ",".join(
            proxy.replace("://", f"://user:{quote(run.make(f'OUTBOUND_PROXY {n}'), safe='')}@")
            for n, proxy in enumerate(proxies)
        ),
        "OUTBOUND_CA_FILE": str(youtube.ca_file),
        "YTDLP_EXTRACTOR_ARGS": f"{youtube.account_args};po_token=web.gvs+{token}",
        "YTDLP_COOKIES_FILE": str(cookies),
        "LOG_LEVEL": "DEBUG",
        "DOWNLOAD_CONCURRENCY": "2",
        "DOWNLOAD_BACKOFF_SECONDS": "0.2",
        "EGRESS_PAUSE_SECONDS": "0.5",
        "RATE_LIMIT_PER_MINUTE": "60000",
        "TMPDIR": str(folder),
    }


class Client:
    """A client of the service; problem documents are kept as something that was written."""

    def __init__(self, run: Run, session: aiohttp.ClientSession) -> None:
        self._run = run
        self._session = session
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, path: str, expected: int, **how: Any) -> Any:
        headers = self.headers | how.pop("headers", {})
        async with self._session.request(method, path, headers=headers, **how) as answer:
            text = await answer.text() if answer.content_type != "text/event-stream" else ""
            assert answer.status == expected, f"{method} {path}: {answer.status} {text}"
            said = str(answer.headers) + (text if answer.status >= 400 or method == "GET" else "")
            self._run.written[f"answer {len(self._run.written)} of {method} {path[:40]}"] = said
            return await answer.json() if answer.content_type == "application/json" and text else text


@contextlib.asynccontextmanager
async def client_of(run: Run, service: instance.Instance) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(service.url) as session:
        yield Client(run, session)


async def use(run: Run, service: instance.Instance, youtube: YouTube) -> None:
    async with client_of(run, service) as alice:
        await sign_in_and_out(run, alice)
        await use_keys_and_tickets(run, alice)
        await misplace(run, service, alice)
        await download(run, alice, youtube)
    async with client_of(run, service) as admin:
        await look_around(run, admin)


async def sign_in(run: Run, alice: Client, word: str, name: str, **how: Any) -> dict[str, str]:
    """Signs in; the tokens are secrets of that name."""
    credentials = {"username": "alice", "password": word}
    tokens: dict[str, str] = await alice.ask("POST", "/api/v1/auth/login", 200, json=credentials, **how)
    # What tokens of all kinds have in common is no secret.
    run.secrets[f"{name} access token"] = tokens["access_token"].partition(".")[2]
    run.secrets[f"{name} refresh token"] = tokens["refresh_token"]
    alice.headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    return tokens


async def sign_in_and_out(run: Run, alice: Client) -> None:
    word = run.make("first password")
    profile = {"username": "alice", "email": "alice@example.org", "full_name": "Alice", "password": word}
    await alice.ask("POST", "/api/v1/auth/register", 201, json=profile)
    await alice.ask("POST", "/api/v1/auth/register", 409, json=profile)
    for name, wrong in (("alice", run.make("wrong password")), (run.make("password as a name"), "x")):
        await alice.ask("POST", "/api/v1/auth/login", 401, json={"username": name, "password": wrong})
    first = await sign_in(run, alice, word, "first")
    for _ in range(2):
        second = await alice.ask(
            "POST", "/api/v1/security/refresh", 200, json={"refresh_token": first["refresh_token"]}
        )
    run.secrets["second refresh token"] = second["refresh_token"]
    third = await alice.ask("POST", "/api/v1/security/refresh", 200, json={"refresh_token": second["refresh_token"]})
    run.secrets["third refresh token"] = third["refresh_token"]
    await alice.ask("POST", "/api/v1/security/refresh", 401, json={"refresh_token": first["refresh_token"]})
    await sign_in(run, alice, word, "another")
    change = {"current_password": run.make("wrong current password"), "new_password": run.make("new password")}
    await alice.ask("POST", "/api/v1/auth/change-password", 422, json=change)
    await alice.ask("POST", "/api/v1/auth/change-password", 204, json=change | {"current_password": word})
    agent = f"curl/8 Bearer {run.secrets['another refresh token']} {run.secrets['first refresh token']}"
    await sign_in(run, alice, run.secrets["new password"], "last", headers={"User-Agent": agent})
    await alice.ask("GET", "/api/v1/auth/sessions", 200)


async def use_keys_and_tickets(run: Run, alice: Client) -> None:
    made = await alice.ask("POST", "/api/v1/auth/api-keys", 201, json={"name": "script", "scope": "write"})
    key = run.secrets["API key"] = made["key"]
    await alice.ask("GET", "/api/v1/auth/profile", 200, headers={"Authorization": f"Bearer {key}"})
    await alice.ask("GET", "/api/v1/auth/profile", 401, headers={"Authorization": f"Bearer {key[:-1]}~"})
    await alice.ask("GET", "/api/v1/auth/api-keys", 200)
    cookies = cookiefiles.signed_in(run.make("cookie of alice"))
    await alice.ask("PUT", "/api/v1/cookies", 200, json={"cookies": cookies})
    await alice.ask("PUT", "/api/v1/cookies", 422, json={"cookies": f"{run.make('no cookie file')}\n"})
    for _ in range(2):
        ticket = run.secrets["ticket"] = (await alice.ask("POST", "/api/v1/auth/ticket", 200))["ticket"]
    await alice.ask("GET", f"/api/v1/downloads/events?ticket={ticket}", 200, headers={"Authorization": ""})
    await alice.ask("GET", f"/api/v1/downloads/events?ticket={ticket}", 401, headers={"Authorization": ""})


async def misplace(run: Run, service: instance.Instance, alice: Client) -> None:
    """Secrets where a careless client puts them."""
    token, key = run.secrets["last refresh token"], run.secrets["API key"]
    for path in (f"/{token}", f"/api/v1/downloads/{token}", f"/api/v1/x?access_token={token}&ticket={key}"):
        await alice.ask("GET", path, 404)
    await alice.ask("GET", "/api/v1/auth/users", 403)
    for request_id in (token, key):
        await alice.ask("GET", "/api/v1/auth/profile", 200, headers={"X-Request-Id": request_id})
    basic = base64.b64encode(f"alice:{run.secrets['new password']}".encode()).decode()
    for header in (f"Basic {basic}", f"Bearer {token} x", token, f"Bearer {run.secrets['last access token']}"):
        await alice.ask("GET", "/api/v1/auth/profile", 401, headers={"Authorization": header})
    for body in ({"url": token}, {"url": {"a": token}}, {"quality": token}, {"url": f"https://x:{token}@example.org/"}):
        await alice.ask("POST", "/api/v1/downloads", 422, json=body)
    await alice.ask("POST", "/api/v1/auth/login", 400, data=f'{{"password": "{token}', headers=JSON)
    await alice.ask("POST", "/api/v1/auth/login", 422, json={"username": ["alice"], "password": token})
    for line in (f"Authorization: Bearer {token}\r\n bad", f"Authorization {token}: x", f"X-A: \0{token}"):
        run.written[f"refusal {len(run.written)}"] = await send_raw(
            service, f"GET / HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n"
        )
    run.written["refused line"] = await send_raw(service, f"GET /{token} {token} HTTP/1.1\r\n\r\n")


JSON = {"Content-Type": "application/json"}


async def send_raw(service: instance.Instance, request: str) -> str:
    """What is answered to something that is no HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    try:
        writer.write(request.encode())
        async with asyncio.timeout(10):
            return (await reader.read(65536)).decode(errors="replace")
    finally:
        writer.close()


async def download(run: Run, alice: Client, youtube: YouTube) -> None:
    """One for everybody, one that wants an account and one that is private, over a proxy that works and one that does
    not."""
    youtube.misbehave("portrait", player_locked="age_restricted", player_account=run.secrets["cookie of alice"])
    agent = {"User-Agent": f"curl/8 {run.secrets['last refresh token']}", "Referer": f"https://x/?token={'a' * 20}"}
    for name, end in (("ordinary", "completed"), ("portrait", "completed"), ("private", "failed")):
        made = await alice.ask("POST", "/api/v1/downloads", 202, json={"url": youtube.url(name)}, headers=agent)
        seen = await ended(alice, f"/api/v1/downloads/{made['id']}")
        assert seen["status"] == end, seen
        await alice.ask("GET", f"/api/v1/downloads/{made['id']}/logs", 200)


async def ended(alice: Client, path: str) -> dict[str, Any]:
    for _ in range(60):
        seen: dict[str, Any] = await alice.ask("GET", path, 200)
        if seen["status"] in ("completed", "failed"):
            return seen
        await asyncio.sleep(0.2)
    raise AssertionError(f"still {seen['status']}: {seen}")


async def look_around(run: Run, admin: Client) -> None:
    credentials = {"username": "admin", "password": run.secrets["ADMIN_PASSWORD"]}
    tokens = await admin.ask("POST", "/api/v1/auth/login", 200, json=credentials)
    run.secrets["admin's access token"] = tokens["access_token"].partition(".")[2]
    run.secrets["admin's refresh token"] = tokens["refresh_token"]
    admin.headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    for path in ("security/events?limit=200", "security/stats", "security/blocks", "auth/users", "auth/sessions"):
        await admin.ask("GET", f"/api/v1/{path}", 200)
    await admin.ask("GET", "/readyz", 200)


async def text_at(service: instance.Instance, path: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(service.url + path) as answer:
        return await answer.text()


def shown_of_processes(parent: int) -> str:
    """What anybody sees of the processes, and the environment of those that the service started."""
    shown = []
    for pid in [parent, *descendants(parent)]:
        with contextlib.suppress(OSError):
            shown.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
            if pid != parent:
                shown.append(Path(f"/proc/{pid}/environ").read_text(errors="replace"))
    return "\n".join(shown)


def descendants(parent: int) -> list[int]:
    """Where the system says so (Linux)."""
    found = []
    for pid in filter(str.isdigit, (path.name for path in Path("/proc").iterdir())):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(pid), *descendants(int(pid))]
    return found


def tables_of(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {f"table {name}": _rows(connection, name) for (name,) in names.fetchall()}


def _rows(connection: "psycopg.Connection[Any]", name: str) -> str:
    return "\n".join(row for (row,) in connection.execute(f'SELECT t::text FROM "{name}" t'.encode()))


async def keys_of(url: str, word: str) -> dict[str, str]:
    """Every key of Redis with what it holds."""
    found = {}
    async with Redis.from_url(url, password=word) as client:
        reads: dict[bytes | str, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        async for key in client.scan_iter(count=1000):
            found[f"redis {key.decode()}"] = key.decode() + repr(await reads[await client.type(key)](key))
    return found


def files_in(folder: Path) -> dict[str, str]:
    """All but data/secrets, which is there for them."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "secrets" not in path.parts]
    return {f"file {path.relative_to(folder)}": path.read_bytes().decode("latin-1") for path in paths}


@pytest.mark.parametrize(
    "form", [str, lambda s: s.encode().hex(), lambda s: base64.b64encode(f"user:{s}".encode()).decode()]
)
def test_a_secret_is_found_in_whatever_form_it_is_written(form: Any) -> None:
    run = Run({PLANTED: password()})
    run.written["somewhere"] = f"before {form(run.secrets[PLANTED])} after"
    assert [re.sub(":.*", "", found) for found in run.found()] == [f"{PLANTED} in somewhere"]
