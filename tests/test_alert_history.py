"""What the service keeps of alerts and shows of them, with a real Alertmanager, one look at a time."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import PASSWORD, Service, running
from tests.watching import Watcher, alertmanager, needs_alertmanager
from ytdl import acknowledgements, alert_history, alerts, errors, metrics, users
from ytdl.acknowledgements import Acknowledge, Acknowledgements
from ytdl.alert_history import AlertHistory, AlertStats, AlertWindow
from ytdl.alertmanager import Alertmanager, Matcher
from ytdl.alerts import Alerts
from ytdl.api.keys import ALERTMANAGER
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB
from ytdl.sql import Query

pytestmark = needs_alertmanager
CONFIG = """
route: {receiver: none}
receivers: [{name: none}]
inhibit_rules:
  - {source_matchers: [severity="critical"], target_matchers: [severity="warning"], equal: [job]}
"""
ROWS = Query("test.rows", "many", "", b"SELECT * FROM alerts ORDER BY started_at, id")
SEEN = Query("test.seen", "exec", "", b"UPDATE alerts SET seen_at = seen_at - interval '1 hour'")
WAITED = Query("test.waited", "exec", "", b"UPDATE alerts SET waiting_since = waiting_since - interval '1 hour'")
PAST = Query(
    "test.past",
    "exec",
    "",
    b"""INSERT INTO alerts (id, fingerprint, name, severity, labels, annotations, started_at, acknowledged_at, ended_at)
    VALUES (%(id)s, '0123456789abcdef', %(name)s, %(severity)s, '{}', '{}', %(started_at)s, %(acknowledged_at)s,
        %(ended_at)s)""",
)
A = {"alertname": "A", "severity": "warning", "job": "a"}
B = {"alertname": "B", "severity": "critical", "job": "b"}
DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Watcher]:
    (tmp_path / "alertmanager.yml").write_text(CONFIG)
    async with alertmanager(tmp_path, tmp_path / "alertmanager.yml") as running:
        yield running


@pytest.fixture
async def asked(server: Watcher) -> AsyncIterator[Alertmanager]:
    found = Alertmanager(server.url)
    yield found
    await found.close()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alertmanager has just been started, and knows what there is all the same."""
    monkeypatch.setattr(alert_history, "SETTLED", timedelta(0))


@pytest.fixture
async def features(db: DB, asked: Alertmanager) -> Acknowledgements:
    return Acknowledgements(db, asked)


@pytest.fixture
async def listing(db: DB, asked: Alertmanager) -> Alerts:
    return Alerts(db, asked)


@pytest.fixture
async def history(db: DB, asked: Alertmanager, features: Acknowledgements) -> AsyncIterator[AlertHistory]:
    history = AlertHistory(db, asked, features, 3600.0)
    yield history
    await history.stop()


async def fire(asked: Alertmanager, *labels: dict[str, str], **more: Any) -> None:
    await asked.post_alerts([{"labels": one, **more} for one in labels])


async def end(asked: Alertmanager, *labels: dict[str, str]) -> None:
    now = datetime.now(UTC)
    await fire(asked, *labels, endsAt=now - timedelta(milliseconds=1))


async def later(db: DB) -> None:
    """What was seen just before a look began it leaves alone; how long before that is depends on the machine."""
    await db.exec(SEEN)


async def silence(asked: Alertmanager, labels: dict[str, str], author: str = "olga") -> str:
    now = datetime.now(UTC)
    matchers = [Matcher(name, value) for name, value in labels.items()]
    return await asked.create_silence(
        matchers, starts_at=now, ends_at=now + timedelta(hours=1), author=author, comment="mine"
    )


def active(severity: str, state: str) -> float | None:
    return metrics.REGISTRY.get_sample_value("ytdl_alerts_active", {"severity": severity, "state": state})


def waiting() -> dict[tuple[str, str], float]:
    [found] = metrics.alerts_unacknowledged.collect()
    return {(s.labels["alertname"], s.labels["severity"]): s.value for s in found.samples}


async def test_an_alert_is_kept_from_its_begin_to_its_end(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A, annotations={"summary": "It stands still."})
    await history.look()
    [row] = await db.many(ROWS)
    assert (row["name"], row["severity"], row["labels"], row["ended_at"]) == ("A", "warning", A, None)
    assert row["annotations"] == {"summary": "It stands still."} and row["waiting_since"] == row["started_at"]
    await end(asked, A)
    await later(db)
    await history.look()
    [row] = await db.many(ROWS)
    assert row["ended_at"] > row["started_at"] and row["waiting_since"] is None


async def test_a_look_at_what_was_known_changes_nothing(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A)
    await history.look()
    [first] = await db.many(ROWS)
    await history.look()
    [second] = await db.many(ROWS)
    assert second.pop("seen_at") > first.pop("seen_at") and second == first


async def test_an_alert_that_begins_again_is_another(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A)
    await history.look()
    await end(asked, A)
    await later(db)
    await history.look()
    await fire(asked, A)
    await history.look()
    assert [row["ended_at"] is None for row in await db.many(ROWS)] == [False, True]


async def test_an_end_between_two_looks_is_not_missed(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A)
    await history.look()
    await end(asked, A)
    await fire(asked, A, startsAt=datetime.now(UTC))
    await history.look()
    first, second = await db.many(ROWS)
    assert first["ended_at"] == first["seen_at"] and second["ended_at"] is None


async def test_an_alert_that_is_told_of_anew_is_the_same(
    server: Watcher, db: DB, asked: Alertmanager, history: AlertHistory
) -> None:
    """Prometheus tells a restarted Alertmanager of each alert, with the time it began."""
    began = datetime.now(UTC) - timedelta(hours=1)
    await fire(asked, A, startsAt=began)
    await history.look()
    await server.kill()
    await server.start()
    await fire(asked, A, startsAt=began + timedelta(minutes=1))
    await history.look()
    [row] = await db.many(ROWS)
    assert row["ended_at"] is None


async def test_what_a_restarted_alertmanager_does_not_know_yet_has_not_ended(
    server: Watcher, db: DB, asked: Alertmanager, history: AlertHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fire(asked, A)
    await history.look()
    await server.kill()
    await server.start()
    await later(db)
    monkeypatch.setattr(alert_history, "SETTLED", timedelta(minutes=10))
    await history.look()
    assert [row["ended_at"] for row in await db.many(ROWS)] == [None]
    monkeypatch.setattr(alert_history, "SETTLED", timedelta(0))
    await history.look()
    assert [row["ended_at"] is None for row in await db.many(ROWS)] == [False]


async def test_who_took_an_alert_up_first_stays_on_record(
    db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements
) -> None:
    await fire(asked, A)
    await history.look()
    id = await silence(asked, A)
    await history.look()
    [row] = await db.many(ROWS)
    assert row["acknowledged_by"] == "olga" and row["started_at"] < row["acknowledged_at"] <= row["seen_at"]
    await asked.expire_silence(id)
    await silence(asked, A, "anna")
    await history.look()
    [again] = await db.many(ROWS)
    assert [again[n] for n in ("acknowledged_by", "acknowledged_at")] == ["olga", row["acknowledged_at"]]


async def test_what_was_silent_from_its_begin_was_taken_up_by_nobody(
    db: DB, asked: Alertmanager, history: AlertHistory
) -> None:
    await silence(asked, A)
    await fire(asked, A)
    await history.look()
    [row] = await db.many(ROWS)
    assert (row["acknowledged_at"], row["acknowledged_by"], row["waiting_since"]) == (None, None, None)


async def test_an_alert_waits_anew_when_its_silence_ends(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A, startsAt=datetime.now(UTC) - timedelta(hours=1))
    id = await silence(asked, A)
    await history.look()
    assert waiting() == {} and (active("warning", "acknowledged"), active("warning", "unacknowledged")) == (1, 0)
    await asked.expire_silence(id)
    await history.look()
    [row] = await db.many(ROWS)
    assert datetime.now(UTC) - row["waiting_since"] < timedelta(minutes=1)
    assert waiting() == {("A", "warning"): row["waiting_since"].timestamp()}


async def test_an_inhibited_alert_waits_for_nobody(asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A, B | {"job": "a"})
    # Alertmanager takes note of what inhibits after it has answered.
    async with asyncio.timeout(30):
        while not any(alert.status.inhibited_by for alert in await asked.alerts()):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.02)
    await history.look()
    assert set(waiting()) == {("B", "critical")}
    assert (active("warning", "inhibited"), active("critical", "unacknowledged")) == (1, 1)


async def test_of_several_alerts_of_a_name_the_first_counts(asked: Alertmanager, history: AlertHistory) -> None:
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    for n in (0, 1, 2):
        await fire(asked, A | {"instance": str(n)}, startsAt=began + timedelta(minutes=abs(n - 1)))
    await history.look()
    assert waiting() == {("A", "warning"): began.timestamp()} and active("warning", "unacknowledged") == 3


async def test_every_process_shows_since_when_an_alert_waits(
    db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements
) -> None:
    await fire(asked, A, B)
    await history.look()
    await db.exec(WAITED)
    other = AlertHistory(db, asked, features, 3600.0)
    await asyncio.gather(*(each.look() for each in (history, other, history, other)))
    rows = await db.many(ROWS)
    assert len(rows) == 2 and waiting() == {
        (row["name"], row["severity"]): row["waiting_since"].timestamp() for row in rows
    }
    assert all(datetime.now(UTC) - row["waiting_since"] > timedelta(minutes=59) for row in rows)


async def test_nothing_is_shown_while_nothing_is_known(
    server: Watcher, asked: Alertmanager, history: AlertHistory
) -> None:
    await fire(asked, A)
    await history.look()
    await server.kill()
    with pytest.raises(errors.Unavailable):
        await history.look()
    assert (waiting(), active("warning", "unacknowledged")) == ({}, None)


async def test_without_the_database_alerts_wait_on(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A)
    await history.look()
    await db.exec(WAITED)
    await history.look()
    known = waiting()
    await db.close()
    await fire(asked, B)
    with pytest.raises(errors.Unavailable):
        await history.look()
    assert waiting().keys() == {("A", "warning"), ("B", "critical")} and known.items() <= waiting().items()


async def test_labels_that_cannot_be_stored_spoil_nothing(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await fire(asked, A | {"instance": "a\0b"}, {"job": "none"}, B | {"severity": "page\0r"}, annotations={"x": "\0"})
    await history.look()
    rows = await db.many(ROWS)
    assert {(row["name"], row["severity"]) for row in rows} == {("A", "warning"), ("", "other"), ("B", "other")}
    assert {row["labels"].get("instance") for row in rows} == {"a\ufffdb", None}


async def test_of_too_many_alerts_the_worst_are_kept_and_none_is_taken_for_ended(
    db: DB, asked: Alertmanager, history: AlertHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fire(asked, A, A | {"job": "c"})
    await history.look()
    monkeypatch.setattr(alert_history, "MOST", 1)
    monkeypatch.setattr(alert_history, "MOST_SERIES", 1)
    await fire(asked, B)
    await history.look()
    assert [(r["name"], r["ended_at"]) for r in await db.many(ROWS)] == [("A", None), ("A", None), ("B", None)]
    assert set(waiting()) == {("B", "critical")}


async def acknowledge(db: DB, asked: Alertmanager, features: Acknowledgements) -> None:
    """By an admin, of the only alert that fires."""
    [alert] = await asked.alerts()
    admin = await users.create(
        db, Hasher(cost=4), username="root", email="root@example.org", password=PASSWORD, full_name="R", role="admin"
    )
    await features.acknowledge(Acknowledge(alert.fingerprint, "mine"), user_id=admin.id, username="root")


async def states(asked: Alertmanager) -> list[str]:
    return [found.status.state for found in await asked.silences()]


async def test_a_lost_silence_is_made_again_in_a_round(
    server: Watcher, db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements
) -> None:
    await fire(asked, A)
    await acknowledge(db, asked, features)
    await server.kill()
    await server.start()
    await fire(asked, A)
    await history.look()
    [alert] = await asked.alerts()
    assert alert.status.state == "suppressed"


async def test_a_lost_silence_is_made_again_before_its_alert_is_back(
    server: Watcher, db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await fire(asked, A)
    await acknowledge(db, asked, features)
    await history.look()
    await server.kill()
    await server.start()
    monkeypatch.setattr(alert_history, "SETTLED", timedelta(minutes=10))
    await history.look()
    assert await states(asked) == ["active"]
    await fire(asked, A)
    [alert] = await asked.alerts()
    assert alert.status.state == "suppressed"


async def test_silences_that_could_not_be_made_again_are_made_in_the_next_round(
    server: Watcher, db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def away(*args: object, **more: object) -> str:
        raise errors.Unavailable("It is away.")

    await fire(asked, A)
    await acknowledge(db, asked, features)
    await server.kill()
    await server.start()
    with monkeypatch.context() as patched, pytest.raises(errors.Unavailable):
        patched.setattr(asked, "create_silence", away)
        await history.look()
    await history.look()
    assert await states(asked) == ["active"]


async def test_an_alert_that_is_taken_up_during_a_look_has_not_ended(
    db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = asked.alerts

    async def and_then(*filters: Any) -> list[Any]:
        """The list, and what comes right after it was asked for."""
        found = await listed(*filters)
        monkeypatch.setattr(asked, "alerts", listed)
        await fire(asked, A)
        await acknowledge(db, asked, features)
        return found

    monkeypatch.setattr(asked, "alerts", and_then)
    await history.look()
    [row] = await db.many(ROWS)
    assert row["ended_at"] is None and row["acknowledged_by"] == "root"


async def test_an_acknowledgement_ends_some_time_after_its_alert(
    db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert that flutters stays silent; the same alert of tomorrow is another."""
    await fire(asked, A)
    await acknowledge(db, asked, features)
    await end(asked, A)
    await later(db)
    await history.look()
    assert await states(asked) == ["active"]
    monkeypatch.setattr(acknowledgements, "OVER_SECONDS", 0.0)
    await history.look()
    assert await states(asked) == ["expired"]
    await fire(asked, A)
    await history.look()
    [alert] = await asked.alerts()
    assert alert.status.state == "active"


async def test_an_acknowledgement_lasts_as_long_as_its_alert(
    db: DB, asked: Alertmanager, history: AlertHistory, features: Acknowledgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgements, "OVER_SECONDS", 0.0)
    await fire(asked, A)
    await acknowledge(db, asked, features)
    await history.look()
    assert await states(asked) == ["active"]


async def past(db: DB, name: str, severity: str, start: int, acknowledged: int | None, ended: int | None) -> None:
    """An alert of that day; minutes."""
    moments = [None if m is None else DAY + timedelta(minutes=m) for m in (start, acknowledged, ended)]
    keys = ("started_at", "acknowledged_at", "ended_at")
    await db.exec(PAST, id=uuid4(), name=name, severity=severity, **dict(zip(keys, moments, strict=True)))


async def figures(db: DB, asked: Alertmanager) -> AlertStats:
    return await alert_history.stats(db, asked, AlertWindow(DAY, DAY + timedelta(days=1)))


async def test_figures_are_of_their_window(db: DB, asked: Alertmanager, history: AlertHistory) -> None:
    await past(db, "A", "warning", -60, -30, -1)
    await past(db, "A", "warning", -60, 10, 20)
    await past(db, "A", "warning", 30, 40, 50)
    await past(db, "B", "critical", 60, None, 24 * 60)
    await fire(asked, B, A)
    await silence(asked, A)
    found = await figures(db, asked)
    assert (found.fired, found.resolved, found.acknowledged) == (2, 2, 2)
    assert (found.mean_seconds_to_acknowledge, found.mean_seconds_to_resolve) == (40 * 60, 50 * 60)
    assert found.fired_by_severity == {"critical": 1, "warning": 1, "info": 0, "other": 0}
    assert found.firing == {"critical": 1, "warning": 1, "info": 0, "other": 0}
    assert found.unacknowledged == {"critical": 1, "warning": 0, "info": 0, "other": 0}
    assert [(f.name, f.fired, f.mean_seconds_to_acknowledge) for f in found.top] == [("A", 1, 2400), ("B", 1, None)]


async def test_tests_of_channels_and_what_always_fires_are_no_trouble(
    db: DB, asked: Alertmanager, history: AlertHistory, listing: Alerts
) -> None:
    tried = {"alertname": "NotificationTest", "severity": "info", "channel": "a"}
    watchdog = {"alertname": "Watchdog", "severity": "info"}
    await fire(asked, tried, watchdog)
    await history.look()
    assert [row["name"] for row in await db.many(ROWS)] == ["Watchdog"]
    await end(asked, tried, watchdog)
    await later(db)
    await history.look()
    assert [a.name for a in (await listing.page(alerts.AlertFilter("ended"))).items] == ["Watchdog"]
    await fire(asked, tried, watchdog)
    found = await alert_history.stats(db, asked, AlertWindow())
    assert (found.fired, found.resolved, found.top) == (0, 0, [])
    assert not any(found.firing.values()) and not any(found.unacknowledged.values())


async def test_figures_of_nothing_are_none(db: DB, asked: Alertmanager) -> None:
    found = await figures(db, asked)
    assert (found.fired, found.mean_seconds_to_acknowledge, found.mean_seconds_to_resolve, found.top) == (
        0, None, None, []
    )  # fmt: skip


async def test_what_has_ended_is_listed_newest_first(db: DB, listing: Alerts) -> None:
    for minute, name in enumerate("ABCB"):
        await past(db, name, "critical" if name == "A" else "warning", 0, None, minute)
    await past(db, "D", "warning", 0, None, None)
    page = await listing.page(alerts.AlertFilter(state="ended"))
    assert ([a.name for a in page.items], page.next_cursor) == (["B", "C", "B", "A"], None)
    assert [a.ended_at for a in page.items] == [DAY + timedelta(minutes=m) for m in (3, 2, 1, 0)]
    for query, names in ((alerts.AlertFilter("ended", "critical"), "A"), (alerts.AlertFilter("ended", name="B"), "BB")):
        assert "".join(a.name for a in (await listing.page(query)).items) == names


async def test_what_has_ended_comes_in_pages(db: DB, listing: Alerts) -> None:
    """Also those that ended in the same moment, as they do when somebody looked."""
    for name in "ABCDE":
        await past(db, name, "warning", 0, None, 1)
    found: list[str] = []
    cursor = None
    for size in (2, 2, 1):
        page = await listing.page(alerts.AlertFilter("ended", limit=2, cursor=cursor))
        assert len(page.items) == size
        found, cursor = found + [a.name for a in page.items], page.next_cursor
    assert sorted(found) == list("ABCDE") and cursor is None


@pytest.mark.parametrize(("state", "cursor"), [("firing", "20260301T000000000000-" + "0" * 32),
                                               ("ended", "20261301T000000000000-" + "0" * 32)])  # fmt: skip
async def test_a_cursor_that_leads_nowhere_is_refused(listing: Alerts, state: alerts.State, cursor: str) -> None:
    with pytest.raises(errors.Invalid, match="cursor"):
        await listing.page(alerts.AlertFilter(state, cursor=cursor))


async def test_history_has_an_end(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "REMEMBERED", 2)
    monkeypatch.setattr(alerts, "REMEMBERED_DAYS", (datetime.now(UTC) - DAY).days + 250)
    for days in (0, 1, 2, 500):
        await past(db, f"A{days}", "warning", -days * 1440, None, -days * 1440)
    await past(db, "B", "warning", -900 * 1440, None, None)
    assert await alerts.sweep(db) == 2
    assert {row["name"] for row in await db.many(ROWS)} == {"A0", "A1", "B"}
    monkeypatch.setattr(alerts, "REMEMBERED_DAYS", 0)
    assert await alerts.sweep(db) == 2


async def scraped(service: Service) -> str:
    async with service.client.get("/metrics") as answer:
        return await answer.text()


async def test_a_service_looks_by_itself(config: Config, server: Watcher, asked: Alertmanager) -> None:
    await fire(asked, A)
    config = dataclasses.replace(config, alertmanager_url=server.url, alert_check_interval=0.1)
    async with running(config) as service:
        # The second is told when the database knows it.
        told = (
            'ytdl_alerts_active{severity="warning",state="unacknowledged"} 1.0',
            'unacknowledged_timestamp_seconds{alertname="A",severity="warning"}',
        )
        async with asyncio.timeout(30):
            while not all(map((await scraped(service)).__contains__, told)):  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.05)
    assert waiting() == {}


def errors_counted() -> float | None:
    return metrics.REGISTRY.get_sample_value("ytdl_worker_loop_errors_total", {"loop": "alerts"})


async def test_a_service_without_an_alertmanager_looks_for_none(config: Config) -> None:
    metrics.alerts_active.clear()
    before = errors_counted()
    async with running(config) as service:
        assert 'ytdl_alerts_active{severity="warning",state="unacknowledged"} 0.0' in await scraped(service)
        assert not service.app[ALERTMANAGER].configured and errors_counted() == before
