"""Who is told of alerts: what an admin sets is what Alertmanager does, and what was set before stays where it fails."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests import alerting, watching
from tests.alerting import Stage
from tests.conftest import running
from tests.fakes import chat, mail
from tests.fakes.hook import Answers
from tests.servers import Servers
from ytdl import alertmanager_file, errors, metrics, notifications, routing, trials
from ytdl.api.keys import ALERTMANAGER, DB, NOTIFICATIONS, VAULT
from ytdl.channels import MASK, Settings
from ytdl.vault import Vault

# One stage for all of them: what a test sets is forgotten after it.
pytestmark = [watching.needs_alertmanager, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with alerting.staged(servers, tmp_path_factory.mktemp("notifications")) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(whole: Stage) -> AsyncIterator[Stage]:
    await whole.forget()
    yield whole


# Whether it is what a process does that ends just now; threads that work for a task know it too.
DYING: ContextVar[bool] = ContextVar("dying", default=False)


def in_file(stage: Stage) -> list[str]:
    return [receiver["name"] for receiver in yaml.safe_load(stage.file.read_text())["receivers"]]


async def in_force(stage: Stage) -> list[str]:
    return [receiver["name"] for receiver in await stage.alertmanager.get("/api/v2/receivers")]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - another server is waited for
            await asyncio.sleep(0.05)


async def test_an_alert_and_its_end_arrive_by_every_channel(stage: Stage) -> None:
    await stage.set_all()
    await stage.fire()
    for kind in ("slack", "discord", "telegram", "webhook"):
        text = (await stage.chat.until(kind)).text.replace("&lt;", "<").replace("&amp;", "&")
        for words in ("DiskFull: 3 < 5 & rising", "It <b>is</b> so", "host.md#diskfull", "/d/ytdl-system"):
            assert words in text.replace("&gt;", ">"), (kind, words, text)
    assert (await stage.chat.until("twilio")).text == "[CRITICAL] DiskFull: DiskFull: 3 < 5 & rising"
    letter = await stage.post.until()
    assert letter.subject == "[CRITICAL] DiskFull: DiskFull: 3 < 5 & rising"
    assert letter.to == ["ops@example.org"] and letter.sender == "ytdl@example.org"
    assert (
        "It &lt;b&gt;is&lt;/b&gt; so." in letter.html and 'href="https://grafana.example/d/ytdl-system"' in letter.html
    )
    assert "It <b>is</b> so." in letter.text and "Since: 20" in letter.text
    await stage.fire(ended=True)
    for kind in ("slack", "discord", "telegram", "webhook"):
        await stage.chat.until(kind, "resolved" if kind == "webhook" else "Resolved: 20")
    assert (await stage.post.until("Resolved: 20")).subject.startswith("[RESOLVED] DiskFull")
    assert len(stage.chat.of("twilio")) == 1


async def test_nothing_but_its_owner_reads_a_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await stage.set_all(test=True)
    shown = await (await stage.root.get("/monitoring/config/notifications")).text()
    events = await (await stage.root.get("/security/events")).text()
    rows = [dict(row) for row in await stage.service.app[DB].many(notifications.q.settings)]
    lines = "".join(str(vars(record)) for record in caplog.records)
    for secret in (*chat.SECRETS, mail.PASSWORD):
        # Alertmanager has no business with Twilio.
        assert (secret in stage.file.read_text()) is (secret != "twilio-secret")
        for place in (json.dumps(answer), shown, events, str(rows), lines):
            assert secret not in place, secret
    assert stat.S_IMODE(stage.file.stat().st_mode) == 0o600


async def test_what_is_shown_can_be_sent_back(stage: Stage) -> None:
    await stage.set_all()
    before = stage.file.read_text()
    answer = await stage.root.get("/monitoring/config/notifications")
    shown = await answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert shown["channels"][2]["url"] == f"{stage.chat.url}/{MASK}"
    kept = {name: shown[name] for name in Settings.__struct_fields__}
    again = await stage.set(**kept, version=shown["version"])
    assert again["version"] == shown["version"] + 1 and stage.file.read_text() == before


async def test_who_has_not_seen_the_newest_changes_nothing(stage: Stage) -> None:
    first = await stage.set_all("hook")
    await stage.set(version=first["version"], dead_man=None)
    refused = await stage.set(channels=[], routes=[], version=first["version"], status=409)
    assert refused["version"] == first["version"] + 1
    assert "channel-hook" in in_file(stage)


async def test_what_is_left_out_stays(stage: Stage) -> None:
    await stage.set_all("hook", "slack")
    answer = await stage.set(dead_man={"channel": "hook"})
    assert [channel["name"] for channel in answer["channels"]] == ["hook", "slack"]
    assert answer["pace"] == alerting.PACE and answer["quiet_hours"] is None


async def test_a_channel_that_is_removed_takes_its_secret_along(stage: Stage) -> None:
    await stage.set_all("hook", "slack")
    await stage.set_all("slack")
    kept = await notifications.read(stage.service.app[DB], stage.service.app[VAULT])
    assert set(kept.secrets) == {"slack"} and "webhook-secret" not in stage.file.read_text()
    missing = await stage.set(channels=[{"kind": "webhook", "name": "hook"}], routes=[], status=422)
    assert missing["errors"] == [{"field": "channels[0].url", "message": "is missing"}]


async def test_what_alertmanager_refuses_is_not_kept(stage: Stage) -> None:
    first = await stage.set_all("hook")
    before = stage.file.read_text()
    bad = {"name": "bad", "channels": ["hook"], "matchers": [{"label": "a", "operator": "=~", "value": "("}]}
    refused = await stage.set(routes=[bad], status=422)
    assert "Alertmanager refuses this" in refused["detail"] and "missing closing )" in refused["detail"]
    assert stage.file.read_text() == before
    shown = await (await stage.root.get("/monitoring/config/notifications")).json()
    assert shown["version"] == first["version"] and shown["routes"][0]["name"].startswith("all")
    assert sorted(await in_force(stage)) == sorted(in_file(stage))
    await stage.fire("StillTold")
    await stage.chat.until("webhook", "StillTold")


async def test_what_an_admin_was_told_is_no_alert_for_everybody(stage: Stage) -> None:
    """NotificationConfigRefused counts what was refused, AlertmanagerConfigReloadFailed looks at the last time."""
    before = metrics.REGISTRY.get_sample_value("ytdl_notifications_reloads_total", {"outcome": "refused"})
    bad = {"name": "bad", "channels": ["hook"], "matchers": [{"label": "a", "operator": "=~", "value": "("}]}
    await stage.set_all("hook", routes=[bad], status=422)
    after = metrics.REGISTRY.get_sample_value("ytdl_notifications_reloads_total", {"outcome": "refused"})
    figures = await stage.service.app[ALERTMANAGER].figures()
    assert before == after and "\nalertmanager_config_last_reload_successful 1\n" in figures


@pytest.mark.parametrize(
    "url", ["https://ntfy:9093/-/reload", "https://metadata.google.internal/x", "https://rebind.example/"]
)
async def test_a_name_that_leads_inside_is_refused_when_it_is_set(
    stage: Stage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alertmanager would ask it without a second look."""
    await stage.set_all("hook")
    before, asked = stage.file.read_text(), Answers(["8.8.8.8", "10.0.0.1"])
    monkeypatch.setattr(stage.service.app[NOTIFICATIONS]._outbound, "_resolver", asked)
    refused = await stage.set(channels=[{"kind": "slack", "name": "new", "url": url}], routes=[], status=422)
    assert [fault["field"] for fault in refused["errors"]] == ["channels[0].url"] and asked.asked
    assert stage.file.read_text() == before


async def test_a_name_is_asked_for_once_and_may_be_lost_afterwards(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"kind": "webhook", "name": "first", "url": "https://hooks.example/a"}
    asked = Answers("8.8.8.8", [])
    monkeypatch.setattr(stage.service.app[NOTIFICATIONS]._outbound, "_resolver", asked)
    set_one = await stage.set(channels=[first], routes=[])
    await stage.set(channels=set_one["channels"], routes=[{"name": "r", "channels": ["first"]}])
    assert asked.asked == ["hooks.example"]
    refused = await stage.set(channels=[first | {"url": "https://hooks.example/b"}], status=422)
    assert "not known" in refused["errors"][0]["message"]


async def test_without_alertmanager_nothing_is_changed(stage: Stage) -> None:
    await stage.set_all("hook")
    before = stage.file.read_text()
    await stage.alertmanager.kill()
    refused = await stage.set(channels=[], routes=[], status=503)
    assert refused["detail"].startswith("Nothing was changed")
    assert stage.file.read_text() == before
    await stage.alertmanager.start()
    assert "channel-hook" in await in_force(stage)


async def test_the_file_follows_the_database(stage: Stage) -> None:
    """As after a process that died between the file and the commit, or a file that somebody edited."""
    await stage.set_all("hook")
    wanted = stage.file.read_text()
    # No round comes in between.
    async with stage.service.app[DB].transaction() as tx:
        await tx.one(notifications.q.hold)
        stage.file.write_text(routing.render(Settings(), {}, routing.Surroundings()))
        await stage.alertmanager.reload()
        assert "channel-hook" not in await in_force(stage)

    async def right() -> bool:
        return stage.file.read_text() == wanted and "channel-hook" in await in_force(stage)

    await until(right)


async def test_alertmanager_follows_as_well_where_the_file_is_right(stage: Stage) -> None:
    """As after an answer that was lost: what it took is not what was committed."""
    await stage.set_all("hook")
    wanted = stage.file.read_text()
    async with stage.service.app[DB].transaction() as tx:
        await tx.one(notifications.q.hold)
        stage.file.write_text(routing.shipped())
        await stage.alertmanager.reload()
        stage.file.write_text(wanted)

    async def right() -> bool:
        return "channel-hook" in await in_force(stage)

    await until(right)


async def test_other_templates_come_into_force_without_a_restart(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade in which nothing but a sentence has changed."""
    await stage.set_all("slack")
    before, start = in_file(stage)[-1], '{{ define "ytdl.slack.title" -}}'
    for template in alertmanager_file.TEMPLATES.glob("*.tmpl"):
        (tmp_path / template.name).write_text(template.read_text().replace(start, start + "NEW "))
    monkeypatch.setattr(alertmanager_file, "TEMPLATES", tmp_path)

    async def taken() -> bool:
        return before not in await in_force(stage)

    await until(taken)
    await stage.fire()
    assert "NEW" in (await stage.chat.until("slack")).text


async def test_another_process_leaves_the_file_alone_while_one_changes_it(stage: Stage) -> None:
    followed = stage.service.app[NOTIFICATIONS]
    async with stage.service.app[DB].transaction() as tx:
        await tx.one(notifications.q.hold)
        stage.file.write_text("halfway")
        await followed.follow()
        assert stage.file.read_text() == "halfway"

    async def followed_it() -> bool:
        await followed.follow()
        return stage.file.read_text() != "halfway"

    await until(followed_it)


@pytest.mark.parametrize(
    "step", ["render", "write", "_replace", "fsync", "_set_aside", "_sync_folder", "reload", "reloaded", "settle"]
)
async def test_a_death_at_any_step_leaves_what_was_before(
    stage: Stage, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before or after the step; the connection to PostgreSQL ends with it, and another goes on."""
    first = await stage.set_all("hook")
    wanted, dying = stage.file.read_text(), stage.service.app[NOTIFICATIONS]

    class Death(BaseException):
        """Not an exception that anything would handle."""

    owners = {"render": routing, "fsync": os, "reload": dying._alertmanager, "reloaded": dying._alertmanager}
    owners |= {"write": notifications, "settle": notifications}
    owner, name = owners.get(step, alertmanager_file), step.removesuffix("ed")
    as_ever = getattr(owner, name)

    def die(*given: Any, **named: Any) -> Any:
        """The rounds that go on meanwhile are of a process that lives."""
        if DYING.get():
            raise Death
        return as_ever(*given, **named)

    async def reload_and_die() -> None:
        await as_ever()
        if DYING.get():
            raise Death

    async def change() -> None:
        DYING.set(True)
        with contextlib.suppress(Death):
            await dying.change(notifications.NotificationWish(channels=[], routes=[]), stage.root.user_id)
            pytest.fail("it did not die")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, reload_and_die if step == "reloaded" else die)
        await asyncio.create_task(change())

    async def right() -> bool:
        names, left = in_file(stage), list(stage.file.parent.glob(".*"))
        return stage.file.read_text() == wanted and sorted(await in_force(stage)) == sorted(names) and not left

    await until(right)
    assert (await dying.state()).version == first["version"]


async def test_a_file_of_the_operators_is_kept(stage: Stage) -> None:
    # Whole, when the next round looks.
    async with stage.service.app[DB].transaction() as tx:
        await tx.one(notifications.q.hold)
        stage.file.write_text("# mine\nroute: {receiver: me}\nreceivers: [{name: me}]\n")

    async def replaced() -> bool:
        return stage.file.read_text().startswith(routing.HEAD)

    await until(replaced)
    kept = [file.read_text() for file in stage.file.parent.glob("alertmanager.yml.before-ytdl*")]
    assert [text for text in kept if text.startswith("# mine")]


async def test_what_the_settings_make_wrong_is_not_tried_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator takes the mail server away: Alertmanager goes on with what it has, and so does the file."""
    await stage.set_all("mail")
    before, own = stage.file.read_text(), stage.service.app[NOTIFICATIONS]
    monkeypatch.setattr(own, "_around", dataclasses.replace(own._around, smtp_host=""))
    for _ in range(2):
        await own.follow()
        assert stage.file.read_text() == before
    assert (await own.state()).in_force is False
    monkeypatch.undo()
    monkeypatch.setattr(notifications, "REFUSED_SECONDS", 0.0)

    async def mended() -> bool:
        return (await own.state()).in_force is True

    await until(mended)


async def test_a_test_says_of_each_channel_what_came_of_it(stage: Stage) -> None:
    stage.chat.status = {"slack": 500, "discord": 404}
    answer = await stage.set_all(test=True)
    found = {trial["channel"]: trial["outcome"] for trial in answer["tests"]}
    assert found == {
        "mail": "accepted", "hook": "accepted", "slack": "refused", "discord": "refused", "telegram": "accepted",
        "sms": "accepted",
    }  # fmt: skip
    assert "test of the channel hook" in (await stage.chat.until("webhook")).text
    assert await stage.alertmanager.get("/api/v2/alerts", filter='alertname="NotificationTest"') == []
    assert not stage.chat.of("slack")


async def test_a_test_reaches_its_channel_alone(stage: Stage) -> None:
    """Also where a route wants all there is."""
    await stage.set_all("hook", "slack", test=True)
    assert [got.text.count("test of the channel hook") for got in stage.chat.of("webhook")] == [1]
    assert [got.text.count("test of the channel slack") > 0 for got in stage.chat.of("slack")] == [True]


async def test_a_silent_server_is_said_to_be_silent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "EACH_SECONDS", 2.0)
    stage.chat.silent = {"telegram"}
    answer = await stage.set_all("telegram", test=True)
    (trial,) = answer["tests"]
    assert trial["outcome"] == "silent" and 2 <= trial["seconds"] < 8


async def test_the_dead_man_hears_of_nothing_but_that_all_is_well(stage: Stage) -> None:
    await stage.set_all("hook", "slack", dead_man={"channel": "hook", "every_seconds": 10}, routes=[])
    await stage.fire("Watchdog", severity="none")
    await stage.fire("NotForHim")
    await stage.chat.until("webhook", "Watchdog")
    assert not stage.chat.of("slack") and not [got for got in stage.chat.got if "NotForHim" in got.text]


async def test_a_label_that_is_made_to_break_out_stays_a_label(stage: Stage) -> None:
    evil = '"} or {{ .X }}\\" , severity="critical'
    route = {"name": "evil", "channels": ["hook"], "matchers": [{"label": "a", "value": evil}]}
    await stage.set_all("hook", "slack", routes=[route])
    await stage.fire("Plain", a="other")
    await stage.fire("Evil", a=evil)
    await stage.chat.until("webhook", "Evil")
    assert not [got for got in stage.chat.got if "Plain" in got.text]


async def test_texts_of_alerts_are_no_markup(stage: Stage) -> None:
    await stage.set_all("slack", "telegram", "discord")
    await stage.fire("<!channel>", job="{{ 1 }} <script> @everyone")
    said = (await stage.chat.until("slack")).body["attachments"][0]
    assert not {"<", ">"} & set(said["text"] + said["title"]) and "&lt;!channel&gt;" in said["title"]
    assert not (await stage.chat.until("telegram")).body.get("parse_mode")


async def test_what_is_worse_silences_what_is_less(stage: Stage) -> None:
    """A critical alert the warning of its name, an instance that is down all of its own; never the dead man."""
    await stage.set_all("hook", dead_man={"channel": "hook", "every_seconds": 10})
    await stage.fire_all(stage.alert("Bad"), stage.alert("InstanceDown", instance="a"))
    await stage.chat.until("webhook", "Bad")
    await stage.chat.until("webhook", "InstanceDown")
    await stage.fire_all(
        stage.alert("Bad", severity="warning", kind="less"), stage.alert("Slow", instance="a"),
        stage.alert("Slow", instance="b"), stage.alert("Watchdog", instance="a", severity="none", job="w"),
        stage.alert("Bad", severity="warning", job="other", kind="others"),
    )  # fmt: skip
    for words in ("Slow", "Watchdog", "others"):
        await stage.chat.until("webhook", words)
    told = [alert["labels"] for got in stage.chat.of("webhook") for alert in got.body["alerts"]]
    assert not [labels for labels in told if labels.get("kind") == "less"]
    assert {labels["instance"] for labels in told if labels["alertname"] == "Slow"} == {"b"}


async def test_in_quiet_hours_critical_alerts_come_and_nothing_else(stage: Stage) -> None:
    """Not even that nobody took up a warning, of which nobody was told."""
    now = datetime.now(UTC)
    hours = {"from": f"{now - timedelta(hours=1):%H:%M}", "until": f"{now + timedelta(hours=1):%H:%M}"}
    routes = [{"name": "woken", "severities": ["critical"], "channels": ["hook"]}]
    routes += [{"name": "rest", "severities": ["warning", "info"], "channels": ["hook"]}]
    await stage.set_all("hook", routes=routes, quiet_hours=hours)
    await stage.fire_all(
        stage.alert("Tired", severity="warning"), stage.alert("WarningUnacknowledged"), stage.alert("Awake")
    )
    await stage.chat.until("webhook", "Awake")
    await asyncio.sleep(1.5)
    assert [got.body["commonLabels"]["alertname"] for got in stage.chat.of("webhook")] == ["Awake"]
    await stage.set(quiet_hours=None)
    await stage.chat.until("webhook", "Tired")
    await stage.chat.until("webhook", "WarningUnacknowledged")


async def test_of_many_long_alerts_as_much_arrives_as_fits(stage: Stage) -> None:
    await stage.set_all(pace=alerting.PACE | {"wait_seconds": 1})
    alerts = [stage.alert("Flood", instance=f"host-{n}") for n in range(60)]
    for alert in alerts:
        alert["annotations"]["description"] = "long " * 200
        alert["labels"]["instance"] += "x" * 200
        alert["annotations"]["summary"] = "Flood " + "of\nmany " * 100
    await stage.fire_all(*alerts)
    for kind in ("slack", "discord", "telegram", "twilio"):
        await stage.chat.until(kind, "x60")
    subject = (await stage.post.until("x60")).subject
    assert subject.startswith("[CRITICAL x60] Flood: Flood of many") and len(subject) < 250
    assert "There are 60 alerts in all." in stage.post.got[-1].text
    assert stage.chat.of("slack")[-1].text.count("long") == 2000
    async with asyncio.timeout(30):
        # Another may have come before, with some of them.
        while len((await stage.chat.until("webhook")).body["alerts"]) < routing.MOST_ALERTS:  # noqa: ASYNC110 - by HTTP
            await asyncio.sleep(0.05)
    assert len(stage.chat.of("webhook")[-1].body["alerts"]) == routing.MOST_ALERTS
    for kind in ("discord", "telegram"):
        text = stage.chat.of(kind)[-1].text
        assert "There are 60 alerts in all." in text and "/d/ytdl-system" in text and len(text) < 4096


async def test_nobody_sends_alertmanager_on_to_another_address(stage: Stage) -> None:
    kinds = ("slack", "discord", "telegram", "webhook")
    stage.chat.moved = dict.fromkeys(kinds, f"{stage.chat.url}/2010-04-01/Accounts/inside")
    await stage.set_all("slack", "discord", "telegram", "hook")
    await stage.fire("Moved")
    for kind in kinds:
        await stage.chat.until_asked(kind)
    await asyncio.sleep(0.5)
    assert "twilio" not in stage.chat.asked


async def test_a_test_by_mail_that_is_refused_says_so(stage: Stage) -> None:
    stage.post.refusing = True
    answer = await stage.set_all("mail", test=True)
    assert [trial["outcome"] for trial in answer["tests"]] == ["refused"]


async def test_two_processes_share_what_is_set(stage: Stage) -> None:
    other = dataclasses.replace(stage.service.config, port=0)
    async with running(other) as second:
        await stage.set_all("hook")
        found = await second.app[NOTIFICATIONS].state()
    assert [channel.name for channel in found.channels] == ["hook"]


async def test_secrets_whose_key_is_lost_are_asked_for_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.set_all("hook")
    own = stage.service.app[NOTIFICATIONS]
    monkeypatch.setattr(own, "_vault", Vault([b"k" * 32]))
    with pytest.raises(errors.Unavailable):
        await own.follow()
    refused = await stage.set(channels=[{"kind": "webhook", "name": "hook"}], status=422)
    assert refused["errors"][0]["field"] == "channels[0].url"
    await stage.set_all("hook")
    await own.follow()


async def test_a_change_is_on_record(stage: Stage) -> None:
    await stage.set_all("hook", "slack", test=True)
    events = await (await stage.root.get("/security/events")).json()
    found = {item["type"]: item for item in reversed(events["items"])}
    changed, tested = found["sensitive_update"], found["notification_tested"]
    assert changed["detail"] == {"kinds": {"slack": 1, "webhook": 1}, "routes": 1}
    assert tested["detail"]["outcomes"] == ["accepted", "accepted"]
