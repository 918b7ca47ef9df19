"""Stand-ins for whoever takes messages over HTTP: Slack, Discord, Telegram, Twilio, and somebody's own webhook.

Each looks at what the real one looks at (address, credentials, form, lengths, markup) and answers in its words; what it
took is in `got`. Any of them can be told to answer with a status instead, or to keep silent.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Self

from aiohttp import web

KINDS = ("slack", "discord", "telegram", "webhook", "twilio")
SLACK_PATH = "/services/T0001/B0001/slack-secret-Ab3"
DISCORD_PATH = "/api/webhooks/100200300/discord-secret-Cd4"
TELEGRAM_TOKEN = "123456:telegram-secret-Ef5-abcdefghijklmnop"
TELEGRAM_CHAT = -1001234567890
TWILIO_SID, TWILIO_TOKEN = "AC" + "0123456789abcdef" * 2, "twilio-secret-Gh6"
WEBHOOK_PATH, WEBHOOK_TOKEN = "/alerts/webhook-secret-Ij7", "webhook-token-Kl8"
SECRETS = ("slack-secret", "discord-secret", "telegram-secret", "twilio-secret", "webhook-secret", "webhook-token")
# Of Telegram's HTML; anything else in angle brackets is refused.
TAGS = {"b", "strong", "i", "em", "u", "s", "a", "code", "pre"}
PHONE = re.compile(r"\+[1-9]\d{6,14}")
Refusal = tuple[int, Any]


@dataclass
class Got:
    """A message that was taken; `text` is what its reader sees, `at` the monotonic time, `to` a number or a chat."""

    kind: str
    text: str
    body: Any
    to: str = ""
    at: float = field(default_factory=time.monotonic)


@dataclass
class Chat:
    """`status` is what a kind answers instead of its own word; with `silent` it takes the request and says nothing,
    and with `lost` it takes the message and breaks the connection instead of saying so."""

    status: dict[str, int] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    got: list[Got] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def __aenter__(self) -> Self:
        self._over, self._news = asyncio.Event(), asyncio.Event()
        app = web.Application()
        for kind, path in (
            ("slack", "/services/{tail:.*}"), ("discord", "/api/webhooks/{tail:.*}"),
            ("telegram", "/bot{tail:.*}"), ("twilio", "/2010-04-01/Accounts/{tail:.*}"), ("webhook", "/{tail:.*}"),
        ):  # fmt: skip
            app.router.add_post(path, self._taking(kind))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, kind: str) -> list[Got]:
        return [got for got in self.got if got.kind == kind]

    async def until(self, kind: str, words: str = "", *, count: int = 1, seconds: float = 30.0) -> Got:
        """The latest message of a kind with these words, once there are so many; `TimeoutError` if none comes."""
        async with asyncio.timeout(seconds):
            while len(found := [got for got in self.of(kind) if words in got.text]) < count:
                self._news.clear()
                await self._news.wait()
        return found[-1]

    async def until_asked(self, kind: str, *, count: int = 1, seconds: float = 30.0) -> None:
        """Whatever was answered."""
        async with asyncio.timeout(seconds):
            while self.asked.count(kind) < count:
                self._news.clear()
                await self._news.wait()

    def _taking(self, kind: str) -> Callable[[web.Request], Any]:
        read = {"slack": _slack, "discord": _discord, "telegram": _telegram, "twilio": _twilio, "webhook": _webhook}

        async def take(request: web.Request) -> web.StreamResponse:
            self.asked.append(kind)
            self._news.set()
            await request.read()
            if kind in self.silent:
                await self._over.wait()
            if kind in self.moved:
                return web.Response(status=307, headers={"Location": self.moved[kind]})
            if kind in self.status:
                return web.Response(status=self.status[kind], text="told to")
            found = await read[kind](request)
            if not isinstance(found, Got):
                return _answer(*found)
            self.got.append(found)
            self._news.set()
            if kind in self.lost and request.transport:
                request.transport.abort()
            return _answer(*_TAKEN[kind])

        return take


_TAKEN: dict[str, Refusal] = {
    "slack": (200, "ok"),
    "discord": (204, None),
    # Alertmanager 0.25 falls down over an answer without a chat.
    "telegram": (200, {"ok": True, "result": {"message_id": 1, "chat": {"id": TELEGRAM_CHAT, "type": "supergroup"}}}),
    "twilio": (201, {"sid": "SM" + "0" * 32, "status": "queued"}),
    "webhook": (200, "thanks"),
}


def _answer(status: int, says: Any) -> web.Response:
    if isinstance(says, str) or says is None:
        return web.Response(status=status, text=says or "")
    return web.json_response(says, status=status)


async def _json(request: web.Request) -> dict[str, Any] | None:
    if request.content_type != "application/json":
        return None
    try:
        body = json.loads(await request.text())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


async def _slack(request: web.Request) -> Got | Refusal:
    if request.path != SLACK_PATH:
        return 404, "no_service"
    body = await _json(request)
    if body is None:
        return 400, "invalid_payload"
    parts = [body.get("text") or ""]
    for each in body.get("attachments") or []:
        parts += [each.get(name) or "" for name in ("pretext", "title", "title_link", "text", "fallback")]
    return Got("slack", "\n".join(parts), body) if any(parts) else (400, "no_text")


async def _discord(request: web.Request) -> Got | Refusal:
    if request.path != DISCORD_PATH:
        return 401, {"message": "Invalid Webhook Token", "code": 50027}
    body = await _json(request)
    if body is None:
        return 400, {"message": "The request body contains invalid JSON.", "code": 50109}
    embeds = body.get("embeds") or []
    titles, descriptions = ([e.get(part) or "" for e in embeds] for part in ("title", "description"))
    texts = [body.get("content") or "", *titles, *descriptions]
    if not any(texts):
        return 400, {"message": "Cannot send an empty message", "code": 50006}
    if len(texts[0]) > 2000 or any(len(t) > 256 for t in titles) or any(len(d) > 4096 for d in descriptions):
        return 400, {"message": "Invalid Form Body", "code": 50035}
    return Got("discord", "\n".join(texts), body)


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.fault = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fault = self.fault or ("" if tag in TAGS else f"Unsupported start tag {tag!r}")
        self.open.append(tag)
        self.text += " ".join(str(value) for _, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.fault = self.fault or f"Unexpected end tag {tag!r}"

    def handle_data(self, data: str) -> None:
        self.text += data


async def _telegram(request: web.Request) -> Got | Refusal:
    if request.path != f"/bot{TELEGRAM_TOKEN}/sendMessage":
        return 401, {"ok": False, "error_code": 401, "description": "Unauthorized"}
    body = await _json(request) if request.content_type == "application/json" else dict(await request.post())
    body = body or {}
    if str(body.get("chat_id")) != str(TELEGRAM_CHAT):
        return 400, {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
    text, markup = str(body.get("text") or ""), _Markup()
    if body.get("parse_mode") == "HTML":
        markup.feed(text)
        markup.close()
        if markup.fault or markup.open:
            return 400, {"ok": False, "error_code": 400, "description": f"Bad Request: can't parse: {markup.fault}"}
        text = markup.text
    if not 0 < len(text) <= 4096:
        return 400, {"ok": False, "error_code": 400, "description": "Bad Request: message is empty or too long"}
    return Got("telegram", text, body, to=str(body["chat_id"]))


async def _twilio(request: web.Request) -> Got | Refusal:
    expected = "Basic " + base64.b64encode(f"{TWILIO_SID}:{TWILIO_TOKEN}".encode()).decode()
    if request.path != f"/2010-04-01/Accounts/{TWILIO_SID}/Messages.json":
        return 404, {"code": 20404, "message": "The requested resource was not found", "status": 404}
    if request.headers.get("Authorization") != expected:
        return 401, {"code": 20003, "message": "Authenticate", "status": 401}
    form = dict(await request.post())
    to, text = str(form.get("To", "")), str(form.get("Body", ""))
    if not PHONE.fullmatch(to):
        return 400, {"code": 21211, "message": f"The 'To' number {to} is not a valid phone number.", "status": 400}
    if not PHONE.fullmatch(str(form.get("From", ""))):
        return 400, {"code": 21603, "message": "A 'From' phone number is required.", "status": 400}
    if not 0 < len(text) <= 1600:
        return 400, {"code": 21617, "message": "The message body is empty or too long.", "status": 400}
    return Got("twilio", text, form, to=to)


async def _webhook(request: web.Request) -> Got | Refusal:
    if request.path != WEBHOOK_PATH:
        return 404, "not here"
    if request.headers.get("Authorization", f"Bearer {WEBHOOK_TOKEN}") != f"Bearer {WEBHOOK_TOKEN}":
        return 401, "who are you?"
    body = await _json(request)
    if body is None:
        return 400, "no JSON"
    said = [{**each["labels"], **each["annotations"]} for each in body["alerts"]]
    return Got("webhook", "\n".join([body["status"], *(v for each in said for v in each.values())]), body)
