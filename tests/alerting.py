"""The service with a real Alertmanager and a stand-in behind every channel, for tests of who is told of what."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from tests import watching
from tests.conftest import PASSWORD, SECRET, Person, Service, running
from tests.fakes import chat, mail
from tests.fakes.chat import Chat
from tests.fakes.mail import Post
from tests.instance import free_port
from tests.servers import Servers
from ytdl import routing
from ytdl.channels import Settings
from ytdl.config import Config

PATH = "/monitoring/config/notifications"
NUMBER, OTHER_NUMBER = "+15550100201", "+15550100202"
# As short as may be, so that tests are.
PACE = {"wait_seconds": 0, "interval_seconds": 1, "repeat_seconds": 60, "critical_repeat_seconds": 60}


def channels(url: str) -> list[dict[str, Any]]:
    """One of each kind, with all its secrets, for the stand-ins at `url`."""
    return [
        {"kind": "email", "name": "mail", "to": ["ops@example.org"]},
        {"kind": "webhook", "name": "hook", "url": url + chat.WEBHOOK_PATH, "token": chat.WEBHOOK_TOKEN},
        {"kind": "slack", "name": "slack", "url": url + chat.SLACK_PATH},
        {"kind": "discord", "name": "discord", "url": url + chat.DISCORD_PATH},
        {"kind": "telegram", "name": "telegram", "token": chat.TELEGRAM_TOKEN, "chat_id": chat.TELEGRAM_CHAT,
         "api_url": url},
        {"kind": "sms", "name": "sms", "account_sid": chat.TWILIO_SID, "auth_token": chat.TWILIO_TOKEN,
         "from": "+15550100200", "to": [NUMBER]},
    ]  # fmt: skip


@dataclass
class Stage:
    """Everything that takes part."""

    service: Service
    root: Person
    alertmanager: watching.Watcher
    chat: Chat
    post: Post
    file: Path
    fired: list[dict[str, Any]] = field(default_factory=list)
    # Of the route, so that Alertmanager does not take one test's alerts for another's.
    number: int = 0

    def channels(self) -> list[dict[str, Any]]:
        return channels(self.chat.url)

    async def forget(self) -> None:
        """All that a test has set, and whatever is still on its way."""
        await self.set(channels=[], routes=[], quiet_hours=None, pace=PACE, dead_man=None)
        self.number += 1
        now, fired = datetime.now(UTC).isoformat(), self.fired
        await self.fire_all(*(alert | {"endsAt": now} for alert in fired))
        self.fired = []
        self.chat.status, self.chat.silent, self.chat.lost = {}, set(), set()
        self.chat.moved, self.post.refusing = {}, False
        for kept in (self.chat.got, self.chat.asked, self.post.got):
            kept.clear()

    async def set(self, *, status: int = 200, **wish: Any) -> dict[str, Any]:
        answer = await self.root.post(PATH, wish)
        found: dict[str, Any] = await answer.json()
        assert answer.status == status, found
        return found

    async def set_all(self, *names: str, **wish: Any) -> dict[str, Any]:
        """The channels of these names, or all, hear of everything at once."""
        kept = [channel for channel in self.channels() if not names or channel["name"] in names]
        route = {"name": f"all-{self.number}", "channels": [channel["name"] for channel in kept]}
        return await self.set(**{"channels": kept, "routes": [route], "quiet_hours": None, "pace": PACE} | wish)

    async def fire(self, name: str = "DiskFull", *, ended: bool = False, **labels: str) -> None:
        """An alert as Prometheus would send it; with `ended` one that is over."""
        await self.fire_all(self.alert(name, ended=ended, **labels))

    async def fire_all(self, *alerts: dict[str, Any]) -> None:
        self.fired += alerts
        url = f"{self.alertmanager.url}/api/v2/alerts"
        async with aiohttp.ClientSession() as client, client.post(url, json=alerts) as answer:
            assert answer.status == 200, await answer.text()

    def alert(self, name: str, *, ended: bool = False, **labels: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            "labels": {"alertname": name, "severity": "critical", "job": "ytdl"} | labels,
            "annotations": {
                "summary": f"{name}: 3 < 5 & rising", "description": "It <b>is</b> so.",
                "runbook_url": f"https://runbooks.example/host.md#{name.lower()}",
                "dashboard_url": "https://grafana.example/d/ytdl-system",
            },
            "startsAt": (now - timedelta(minutes=1)).isoformat(),
            "endsAt": (now if ended else now + timedelta(minutes=5)).isoformat(),
        }  # fmt: skip


@asynccontextmanager
async def staged(servers: Servers, folder: Path) -> AsyncIterator[Stage]:
    """A stage with a database of its own, for as many tests as clean up behind them."""
    url = servers.clone()
    config = Config(
        data_dir=folder / "data", database_url=url, redis_url=str(servers.redis_url), redis_prefix=folder.name,
        jwt_secret_key=SECRET, admin_password=PASSWORD, download_concurrency=0, rate_limit_per_minute=1_000_000,
    )  # fmt: skip
    try:
        async with stage(config, folder) as found:
            yield found
    finally:
        servers.drop(url)


@asynccontextmanager
async def stage(config: Config, folder: Path, **settings: Any) -> AsyncIterator[Stage]:
    """The service on a fixed port, as Alertmanager has to find it."""
    file, port = folder / "alertmanager" / "alertmanager.yml", free_port()
    file.parent.mkdir()
    file.write_text(routing.render(Settings(), {}, routing.Surroundings()))
    async with (
        Chat() as chats,
        Post.new(folder / "mail") as post,
        watching.alertmanager(folder / "watched", file) as alertmanager,
    ):
        config = dataclasses.replace(
            config, port=port, alertmanager_url=alertmanager.url, alertmanager_config_file=str(file),
            alertmanager_service_url=f"http://127.0.0.1:{port}", alertmanager_ca_file=str(post.ca_file),
            smtp_host=mail.HOST, smtp_port=post.port, smtp_user=mail.USER, smtp_password=mail.PASSWORD,
            smtp_from="ytdl@example.org", twilio_url=chats.url, allowed_private_networks=("127.0.0.0/8",),
            alert_check_interval=0.5,
        )  # fmt: skip
        config = dataclasses.replace(config, **settings)
        async with running(config) as service, service.person("root", role="admin") as root:
            yield Stage(service, root, alertmanager, chats, post, file)
