"""Text messages: takes Alertmanager's webhooks and hands them to Twilio, each number once for each piece of news.

Alertmanager has no way to Twilio of its own. It tries again whatever is not answered with success, so what was sent is
remembered in PostgreSQL. That of all things may be what is down: then what was last read of the channels, and what this
process has sent, have to do. A message whose answer was lost is sent again, for twice is better than never.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from ytdl import crypto, errors, loops, metrics, notifications, sql
from ytdl.channels import Sms
from ytdl.config import Config
from ytdl.db import DB
from ytdl.notifications import Stored
from ytdl.outbound import Answer, Outbound, Unreached
from ytdl.vault import Vault

log = logging.getLogger("ytdl.sms")
q = sql.load("notifications")

LONGEST = 320
# Another process that has begun to send has this long; then it is taken for dead.
LOST_SECONDS = 30.0
# Alertmanager tries for as long as an interval lasts, and ten seconds at least.
SPARE_SECONDS = 10.0
MOST_REMEMBERED = 1000
UNKNOWN = "There is no such channel, or the token is not its."
FAILED = "Not every text message could be handed in."
REFUSED = "Twilio does not take a text message; look at the account, its token and the numbers."
Outcome = Literal["ok", "refused", "unreachable"]
Text = Annotated[str, Meta(max_length=4096)]


class NotifiedAlert(msgspec.Struct, frozen=True, rename="camel"):
    """What of an alert in a notification is looked at."""

    status: Text = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    starts_at: Text = ""
    ends_at: Text = ""
    fingerprint: Text = ""


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    """As Alertmanager sends it to webhooks; what else is in it, now or in later versions, is passed over."""

    status: Text
    group_key: Text
    alerts: Annotated[list[NotifiedAlert], Meta(min_length=1, max_length=1000)]
    # How many more there are than were sent.
    truncated_alerts: Annotated[int, Meta(ge=0, le=10**6)] = 0


@dataclass(frozen=True)
class Admitted:
    """The channel whose token came, and for how many seconds Alertmanager may bring the same news again."""

    channel: Sms
    auth_token: str = field(repr=False)
    fresh: float = 0.0


class Texts:
    def __init__(self, config: Config, db: DB, vault: Vault, outbound: Outbound) -> None:
        self._db = db
        self._vault = vault
        self._outbound = outbound
        self._url = config.twilio_url.rstrip("/")
        self._watched = bool(config.alertmanager_url)
        self._interval = config.alert_check_interval
        self._tasks: list[asyncio.Task[None]] = []
        self._last: Stored | None = None
        # What was sent lately by this process, with when.
        self._sent: dict[bytes, float] = {}

    async def start(self) -> None:
        if self._watched:
            self._tasks.append(asyncio.create_task(loops.repeat("texts", self._interval, self.read)))

    async def stop(self) -> None:
        await loops.stop(self._tasks)

    async def read(self) -> None:
        """Takes note of the channels, for when the database is away. Raises `errors.Unavailable`."""
        self._last = await notifications.read(self._db, self._vault)

    async def admit(self, name: str, token: str) -> Admitted:
        """Raises `errors.Unauthorized` where it is not the token of a channel of that name."""
        stored = await self._stored()
        channel = next((each for each in stored.settings.channels if each.name == name), None)
        secrets = stored.secrets.get(name, {})
        expected = secrets.get("receiver", "")
        # Compared in any case, so that the time does not tell which channels there are.
        same = hmac.compare_digest(crypto.digest(token), crypto.digest(expected))
        if not isinstance(channel, Sms) or not expected or not same:
            raise errors.Unauthorized(UNKNOWN, offence="forgery", evidence=crypto.digest(token))
        fresh = stored.settings.pace.interval_seconds + SPARE_SECONDS
        return Admitted(channel, secrets["auth_token"], fresh)

    async def send(self, admitted: Admitted, notification: Notification) -> None:
        """Returns once every number of the channel has it. Raises `errors.Unavailable` where trying again soon may
        help, and `errors.Invalid` where only somebody can.
        """
        text = compose(notification)
        numbers = admitted.channel.to
        outcomes = await asyncio.gather(*(self._send_once(admitted, to, text, notification) for to in numbers))
        if "unreachable" in outcomes:
            raise errors.Unavailable(FAILED, retry_after=5)
        if "refused" in outcomes:
            raise errors.Invalid(REFUSED)

    async def _stored(self) -> Stored:
        try:
            await self.read()
        except errors.Unavailable:
            if self._last is None:
                raise
        assert self._last is not None
        return self._last

    async def _send_once(self, admitted: Admitted, to: str, text: str, notification: Notification) -> Outcome:
        key = key_of(admitted.channel.name, to, notification)
        claim = await self._claim(key, admitted.fresh)
        if claim != "send":
            return "ok" if claim == "sent" else "unreachable"
        outcome = await self._send(admitted.channel, admitted.auth_token, to, text)
        metrics.notifications_sent.labels("sms", outcome).inc()
        await self._note(key, outcome)
        return outcome

    async def _claim(self, key: bytes, fresh: float) -> str:
        now = time.monotonic()
        self._sent = {each: at for each, at in self._sent.items() if now - at < fresh}
        if key in self._sent:
            return "sent"
        try:
            return str(await self._db.value(q.claim_text, key=key, fresh=fresh, lost=LOST_SECONDS))
        except errors.Unavailable:
            return "send"

    async def _note(self, key: bytes, outcome: Outcome) -> None:
        if outcome == "ok" and len(self._sent) < MOST_REMEMBERED:
            self._sent[key] = time.monotonic()
        try:
            await self._db.exec(q.text_sent if outcome == "ok" else q.text_not_sent, key=key)
        except errors.Unavailable:
            log.warning("sms.not_noted", extra={"outcome": outcome})

    async def _send(self, channel: Sms, auth: str, to: str, text: str) -> Outcome:
        url = f"{self._url}/2010-04-01/Accounts/{channel.account_sid}/Messages.json"
        body = urlencode({"To": to, "From": channel.from_, "Body": text}).encode()
        credentials = base64.b64encode(f"{channel.account_sid}:{auth}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._outbound.post(url, body, headers)
        except (Unreached, errors.Invalid) as e:
            log.warning("sms.unreached", extra={"channel": channel.name, "reason": str(e)})
            return "unreachable"
        return _outcome(channel, answer)


class Refusal(msgspec.Struct, frozen=True):
    """Twilio's word for what is wrong; its sentences may hold a number."""

    code: int | None = None


def _outcome(channel: Sms, answer: Answer) -> Outcome:
    if answer.status < 300:
        return "ok"
    try:
        code = msgspec.json.decode(answer.body, type=Refusal).code
    except msgspec.MsgspecError:
        code = None
    log.warning("sms.refused", extra={"channel": channel.name, "status": answer.status, "provider_code": code})
    return "unreachable" if answer.status == 429 or answer.status >= 500 else "refused"


def key_of(channel: str, to: str, notification: Notification) -> bytes:
    """The same for each try of the same news; alerts come in any order."""
    alerts = sorted((a.fingerprint, a.status, a.starts_at, _end(a)) for a in notification.alerts)
    return hashlib.sha256(msgspec.json.encode([channel, to, notification.group_key, alerts])).digest()


def _end(alert: NotifiedAlert) -> str:
    """Of one that fires nobody knows it yet."""
    return alert.ends_at if alert.status == "resolved" else ""


def compose(notification: Notification) -> str:
    """What fits into two text messages: how bad, what, and what of it is known."""
    first, count = notification.alerts[0], len(notification.alerts) + notification.truncated_alerts
    severity = first.labels.get("severity", "alert") if notification.status == "firing" else "resolved"
    name = first.labels.get("alertname", "")
    head = f"[{severity.upper()}{f' x{count}' if count > 1 else ''}] {name}"
    summaries = dict.fromkeys(filter(None, (alert.annotations.get("summary") for alert in notification.alerts)))
    text = ": ".join(filter(None, (head, "; ".join(summaries))))
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "\u2026"
