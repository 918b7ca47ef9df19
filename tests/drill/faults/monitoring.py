"""What watches is broken itself, thresholds that admins set are exceeded, and nobody takes up a warning."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.drill.fault import fault
from tests.drill.ground import Ground
from tests.drill.people import Admin

# Both sides have several series for a job, so Prometheus does not know which belong together.
NO_RULE = """
groups:
  - name: drill
    rules:
      - {record: "drill:nothing", expr: "ytdl_queue_jobs * on (job) ytdl_downloads_state"}
"""


@fault(
    "threshold",
    "An admin sets thresholds that are exceeded",
    "ThresholdCritical",
    also=("ThresholdWarning",),
    metric="memory_usage_bytes",
)
async def _threshold(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with _exceeded(admin, critical=2):
        yield


@fault("unacknowledged", "Nobody takes up a warning", "WarningUnacknowledged", warning="ThresholdWarning")
async def _unacknowledged(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with _exceeded(admin):
        yield


@asynccontextmanager
async def _exceeded(admin: Admin, critical: float | None = None) -> AsyncIterator[None]:
    path = "/monitoring/thresholds/memory_usage_bytes"
    status, found = await admin.request("POST", path, {"warning": 1, "critical": critical, "for_seconds": 0})
    assert status == 200, found
    yield
    await admin.request("POST", path, {"warning": None, "critical": None})


@fault(
    "channel-down", "Slack answers with errors", "NotificationChannelFailing", silent=("slack",), integration="slack"
)
async def _channel_down(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.inbox.chat.status["slack"] = 500
    # There must be something to tell.
    async with ground.index() as index:
        await index.flushall()
    yield
    del ground.inbox.chat.status["slack"]


@fault("texts-refused", "Twilio does not take text messages", "TextMessagesFailing", silent=("twilio",))
async def _texts_refused(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    ground.inbox.chat.status["twilio"] = 401
    async with _exceeded(admin):
        yield
    del ground.inbox.chat.status["twilio"]


@fault(
    "alertmanager-away",
    "Alertmanager is killed, and comes back",
    "AlertmanagerNotReached",
    apart=True,
    also=("NotificationConfigRefused",),
)
async def _away(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.alertmanager.kill()
    async with asyncio.timeout(60):
        while not await ground.firing("AlertmanagerDown"):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.1)
    # Somebody wants to change who is told.
    await admin.request("POST", "/monitoring/config/notifications", {"quiet_hours": None})
    await ground.alertmanager.start()
    yield


@fault("rule-failing", "A rule cannot be evaluated", "PrometheusRuleFailing")
async def _rule_failing(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    file = ground.folder / "rules" / "drill.yml"
    file.write_text(NO_RULE)
    await ground.configure_prometheus()
    yield
    file.unlink()
    await ground.configure_prometheus()


@fault("rules-unreadable", "A file of rules is no such file", "PrometheusConfigReloadFailed")
async def _unreadable(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    file = ground.folder / "rules" / "drill.yml"
    file.write_text("groups: 7\n")
    with contextlib.suppress(AssertionError):
        await ground.configure_prometheus()
    yield
    file.unlink()
    await ground.configure_prometheus()


@fault("not-scraped", "The service is taken out of Prometheus' configuration", "ScrapeMissing", apart=True)
async def _not_scraped(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await ground.configure_prometheus("ytdl")
    yield
    await ground.configure_prometheus()


@fault("alertmanager-misread", "Alertmanager is told to read a file that is none", "AlertmanagerConfigReloadFailed")
async def _misread(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    file = Path(ground.settings["ALERTMANAGER_CONFIG_FILE"])
    kept = file.read_text()
    file.write_text("route: 7\n")
    with contextlib.suppress(AssertionError):
        await ground.alertmanager.reload()
    yield
    file.write_text(kept)
    await ground.alertmanager.reload()
