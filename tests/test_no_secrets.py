"""Nothing that a whole run writes has a secret in it: not the log, the tables, Redis, the files, the figures, a problem
document, or what the machine shows of the processes.

The run has a distinct secret in every setting that is one, in a channel of each kind by which people are told of alerts
and in what clients hold, and clients that put them where they do not belong. By design secrets stand in four places,
which are left out: the answers that hand a token or a key to its owner, the folder data/secrets, Alertmanager's file
(for its owner only, which is looked at), and the embedded servers' own folders; here the servers are ours, and the keys
are given.
"""

import asyncio
import base64
import contextlib
import json
import re
import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
import yaml
from redis.asyncio import Redis

from tests import alerting, cookiefiles, instance, watching
from tests.fakes import chat, mail
from tests.fakes.chat import Chat
from tests.fakes.mail import Post
from tests.fakes.youtube import YouTube
from tests.redises import OwnRedis
from tests.written import Run, files_in, keys_of, password, shown_of_processes, tables_of
from ytdl import routing
from ytdl.config import FIELDS

# A run that leaves these empty would prove nothing.
FILLED = (
    "sessions", "refresh_tokens", "tickets", "api_keys", "audit_events", "audit_chain", "sealed_values", "cookies",
    "downloads", "download_logs", "notification_settings", "notification_texts",
)  # fmt: skip
RECORDED = (
    "authn_login_success", "authn_login_fail", "authn_token_reuse", "authn_token_created", "authn_password_change",
    "authn_password_change_fail", "authz_fail", "notification_tested", "sys_startup", "sys_shutdown",
)  # fmt: skip
PLANTED = "password of the service's own test"


@pytest.fixture
async def redis(own_redis: OwnRedis) -> AsyncIterator[tuple[OwnRedis, str]]:
    """A Redis that wants a password, and that password."""
    word = secrets.token_urlsafe(18)
    async with Redis.from_url(own_redis.url) as client:
        await client.config_set("requirepass", word)
    yield own_redis, word


@pytest.mark.slow
@watching.needs_alertmanager
async def test_no_secret_is_ever_written(
    database_url: str, redis: tuple[OwnRedis, str], youtube: YouTube, tmp_path: Path
) -> None:
    run = Run()
    own_redis, redis_password = redis
    run.secrets["REDIS_URL"] = redis_password
    settings = settings_of(run, database_url, own_redis.url, youtube, tmp_path)
    async with telling(run, settings, tmp_path) as chats, instance.serving(tmp_path, **settings) as service:
        assert without_a_secret(run, settings) == []
        await use(run, service, youtube)
        await tell(run, service, chats, Path(settings["ALERTMANAGER_CONFIG_FILE"]))
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


def without_a_secret(run: Run, settings: dict[str, str]) -> list[str]:
    """Settings that are secrets and are none here: one that is new is to be set as well."""
    kept = [name for name, field in FIELDS.items() if field.metadata["secret"]]
    made = run.secrets.values()
    return [name for name in kept if not any(secret in unquote(settings.get(name, "")) for secret in made)]


def settings_of(run: Run, database: str, redis: str, youtube: YouTube, folder: Path) -> dict[str, str]:
    """With a password in every address and a token in every argument; one of the two proxies is not there."""
    cookies = folder / "cookies.txt"
    cookies.write_text(cookiefiles.signed_in(run.make("cookie of the operator")))
    nobody = "http://127.0.0.1:9"
    proxies = [youtube.proxy_url, nobody]
    token = run.secrets["YTDLP_EXTRACTOR_ARGS"] = secrets.token_urlsafe(48)
    return {
        "DATABASE_URL": database.replace("postgres@", f"postgres:{quote(run.make('DATABASE_URL'), safe='')}@"),
        "REDIS_URL": redis.replace("unix://", f"unix://:{run.secrets['REDIS_URL']}@"),
        "JWT_SECRET_KEY": run.make("JWT_SECRET_KEY") + "x" * 32,
        "ENCRYPTION_KEY": run.secrets.setdefault("ENCRYPTION_KEY", secrets.token_hex(32)),
        "JWT_SECRET_KEY_PREVIOUS": run.make("JWT_SECRET_KEY_PREVIOUS") + "x" * 32,
        "ENCRYPTION_KEY_PREVIOUS": run.secrets.setdefault("ENCRYPTION_KEY_PREVIOUS", secrets.token_hex(32)),
        "ADMIN_PASSWORD": run.make("ADMIN_PASSWORD"),
        "OUTBOUND_PROXY": ",".join(with_password(run, f"OUTBOUND_PROXY {n}", url) for n, url in enumerate(proxies)),
        # Asked, and not there: what is said of that has their addresses at hand.
        "PROMETHEUS_URL": with_password(run, "PROMETHEUS_URL", nobody),
        "OTEL_EXPORTER_OTLP_ENDPOINT": with_password(run, "OTEL_EXPORTER_OTLP_ENDPOINT", nobody),
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


def with_password(run: Run, name: str, url: str) -> str:
    """The address with a new secret of that name in it."""
    return url.replace("://", f"://user:{quote(run.make(name), safe='')}@")


@contextlib.asynccontextmanager
async def telling(run: Run, settings: dict[str, str], folder: Path) -> AsyncIterator[Chat]:
    """Alertmanager, and a stand-in behind each kind of channel; adds the settings by which the service knows them."""
    file, port = folder / "alertmanager" / "alertmanager.yml", str(instance.free_port())
    file.parent.mkdir()
    file.write_text(routing.shipped())
    run.secrets["SMTP_PASSWORD"] = mail.PASSWORD
    async with (
        Chat() as chats,
        Post.new(folder / "mail") as post,
        watching.alertmanager(folder / "watched", file) as alertmanager,
    ):
        settings |= {
            "ALERTMANAGER_URL": with_password(run, "ALERTMANAGER_URL", alertmanager.url),
            "ALERTMANAGER_CONFIG_FILE": str(file), "ALERTMANAGER_CA_FILE": str(post.ca_file),
            "ALERTMANAGER_SERVICE_URL": f"http://127.0.0.1:{port}", "PORT": port, "TWILIO_URL": chats.url,
            "SMTP_HOST": mail.HOST, "SMTP_PORT": str(post.port), "SMTP_USER": mail.USER,
            "SMTP_PASSWORD": mail.PASSWORD, "SMTP_FROM": "ytdl@example.org",
            "ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8", "ALERT_CHECK_INTERVAL": "0.5",
        }  # fmt: skip
        yield chats


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
        async with asyncio.timeout(30):
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
    for _ in range(300):
        seen: dict[str, Any] = await alice.ask("GET", path, 200)
        if seen["status"] in ("completed", "failed"):
            return seen
        await asyncio.sleep(0.2)
    raise AssertionError(f"still {seen['status']}: {seen}")


async def look_around(run: Run, admin: Client) -> None:
    await sign_in_as_admin(run, admin)
    for path in ("security/events?limit=200", "security/stats", "security/blocks", "auth/users", "auth/sessions"):
        await admin.ask("GET", f"/api/v1/{path}", 200)
    await admin.ask("GET", "/readyz", 200)


async def sign_in_as_admin(run: Run, admin: Client) -> None:
    credentials = {"username": "admin", "password": run.secrets["ADMIN_PASSWORD"]}
    tokens = await admin.ask("POST", "/api/v1/auth/login", 200, json=credentials)
    run.secrets["admin's access token"] = tokens["access_token"].partition(".")[2]
    run.secrets["admin's refresh token"] = tokens["refresh_token"]
    admin.headers = {"Authorization": f"Bearer {tokens['access_token']}"}


async def tell(run: Run, service: instance.Instance, chats: Chat, file: Path) -> None:
    """Sets a channel of each kind, and has a test go by each."""
    run.secrets |= {secret: secret for secret in chat.SECRETS}
    channels = alerting.channels(chats.url)
    routes = [{"name": "all", "channels": [channel["name"] for channel in channels]}]
    wish = {"channels": channels, "routes": routes, "pace": alerting.PACE, "test": True}
    async with client_of(run, service) as admin:
        await sign_in_as_admin(run, admin)
        done = await admin.ask("POST", "/api/v1/monitoring/config/notifications", 200, json=wish)
        run.written["answer about channels"] = json.dumps(done)
        assert {test["outcome"] for test in done["tests"]} == {"accepted"}
        for path in ("config/notifications", "alerts", "health"):
            await admin.ask("GET", f"/api/v1/monitoring/{path}", 200)
        await admin.ask("POST", "/api/v1/monitoring/health/check", 200)
        # One that is there at the end: after a minute the janitor removes the others.
        run.secrets["last ticket"] = (await admin.ask("POST", "/api/v1/auth/ticket", 200))["ticket"]
    run.secrets["Alertmanager's token"] = token_in(file)


def token_in(file: Path) -> str:
    """By which Alertmanager hands text messages to the service; it was made for that, and stands in this file."""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [hook] = [
        r["webhook_configs"][0] for r in yaml.safe_load(file.read_text())["receivers"] if r["name"].endswith("-sms")
    ]
    return str(hook["http_config"]["authorization"]["credentials"])


async def text_at(service: instance.Instance, path: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(service.url + path) as answer:
        return await answer.text()


@pytest.mark.parametrize(
    "form", [str, lambda s: s.encode().hex(), lambda s: base64.b64encode(f"user:{s}".encode()).decode()]
)
def test_a_secret_is_found_in_whatever_form_it_is_written(form: Any) -> None:
    run = Run({PLANTED: password()})
    run.written["somewhere"] = f"before {form(run.secrets[PLANTED])} after"
    assert [re.sub(":.*", "", found) for found in run.found()] == [f"{PLANTED} in somewhere"]
