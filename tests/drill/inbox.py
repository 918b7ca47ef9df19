"""Where Alertmanager's messages arrive: a stand-in for each channel, read as one box.

The webhook's messages have an alert's labels and say whether it fires, so they are what times are taken from; of the
other channels it is seen that a message with the alert's name came. Times are of `time.monotonic`.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes import chat, mail
from tests.fakes.chat import Chat
from tests.fakes.mail import Post

POLL_SECONDS = 0.05
NUMBER, SENDER = "+15550100201", "+15550100200"
HOOK = "webhook"
KINDS = {"mail", *chat.KINDS}


@dataclass(frozen=True)
class Message:
    """What one message of the webhook says of one alert."""

    at: float
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def alert(self) -> str:
        return self.labels["alertname"]


@dataclass(frozen=True)
class Inbox:
    chat: Chat
    post: Post

    def channels(self) -> list[dict[str, Any]]:
        """As an admin sets them, one of each kind."""
        url = self.chat.url
        return [
            {"kind": "email", "name": "mail", "to": ["ops@example.org"]},
            {"kind": "webhook", "name": "webhook", "url": url + chat.WEBHOOK_PATH, "token": chat.WEBHOOK_TOKEN},
            {"kind": "slack", "name": "slack", "url": url + chat.SLACK_PATH},
            {"kind": "discord", "name": "discord", "url": url + chat.DISCORD_PATH},
            {"kind": "telegram", "name": "telegram", "token": chat.TELEGRAM_TOKEN, "chat_id": chat.TELEGRAM_CHAT,
             "api_url": url},
            {"kind": "sms", "name": "sms", "account_sid": chat.TWILIO_SID, "auth_token": chat.TWILIO_TOKEN,
             "from": SENDER, "to": [NUMBER]},
        ]  # fmt: skip

    def settings(self, alertmanager_url: str, config_file: str, service_url: str) -> dict[str, str]:
        """What the service must know to send by all of them."""
        return {
            "ALERTMANAGER_URL": alertmanager_url,
            "ALERTMANAGER_CONFIG_FILE": config_file,
            "ALERTMANAGER_SERVICE_URL": service_url,
            "ALERTMANAGER_CA_FILE": str(self.post.ca_file),
            "SMTP_HOST": mail.HOST,
            "SMTP_PORT": str(self.post.port),
            "SMTP_USER": mail.USER,
            "SMTP_PASSWORD": mail.PASSWORD,
            "SMTP_FROM": "ytdl@example.org",
            "TWILIO_URL": self.chat.url,
            "ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8",
        }

    def messages(self) -> Iterator[Message]:
        for got in self.chat.of("webhook"):
            for one in got.body["alerts"]:
                yield Message(got.at, one["status"], one["labels"], one["annotations"])

    async def arrival(self, wanted: Callable[[Message], bool], seconds: float) -> Message | None:
        """The first such message, also one that is there already; None when none came in time."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := next(filter(wanted, self.messages()), None)):  # noqa: ASYNC110 - as below
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return None
        return found

    def heard(self, alert: str, since: float) -> dict[str, float]:
        """When a message with that name first came by each kind of channel."""
        texts = [(got.kind, got.at, got.text) for got in self.chat.got]
        texts += [("mail", letter.at, letter.subject) for letter in self.post.got]
        found: dict[str, float] = {}
        for kind, at, text in texts:
            if at >= since and alert in text:
                found.setdefault(kind, at)
        return found

    async def everywhere(self, alert: str, since: float, seconds: float) -> dict[str, float]:
        """The same, when all have heard or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while self.heard(alert, since).keys() < KINDS:  # noqa: ASYNC110 - several servers take messages
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            pass
        return self.heard(alert, since)
