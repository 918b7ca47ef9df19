"""Alerts over HTTP, with a real Alertmanager: what fires, who takes it up, and what becomes of that."""

import asyncio
import dataclasses
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Person, Service, running
from tests.watching import AMTOOL, Watcher, alertmanager, needs_alertmanager
from ytdl import acknowledgements, alert_history, alerts, audit, errors
from ytdl import alertmanager as client
from ytdl.acknowledgements import Acknowledge, Acknowledgements
from ytdl.api.keys import ACKNOWLEDGEMENTS, ALERTMANAGER, DB
from ytdl.config import Config
from ytdl.sql import Query

pytestmark = needs_alertmanager
CONFIG = """
route: {receiver: none}
receivers: [{name: none}]
inhibit_rules:
  - {source_matchers: [severity="critical"], target_matchers: [severity="warning"], equal: [alertname]}
"""
AUDIT = Query("test.audit", "many", "", b"SELECT * FROM audit_events WHERE type LIKE 'alert_%%' ORDER BY at, id")
ENDED = Query("test.ended", "exec", "", b"UPDATE alerts SET ended_at = now()")
HISTORY = Query("test.history", "many", "", b"SELECT * FROM alerts")
LATER = Query("test.later", "exec", "", b"UPDATE acknowledgements SET expires_at = created_at + interval '1 us'")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Watcher]:
    (tmp_path / "alertmanager.yml").write_text(CONFIG)
    async with alertmanager(tmp_path, tmp_path / "alertmanager.yml") as running:
        yield running


@pytest.fixture
def watched(config: Config, server: Watcher) -> Config:
    """No round of the history comes in between."""
    return dataclasses.replace(config, alertmanager_url=server.url, alert_check_interval=3600.0)


@pytest.fixture
async def service(watched: Config) -> AsyncIterator[Service]:
    async with running(watched) as service:
        yield service


def labelled(name: str = "QueueStalled", severity: str = "warning", **more: str) -> dict[str, str]:
    return {"alertname": name, "severity": severity, "job": "ytdl", **more}


async def fire(service: Service, *labels: dict[str, str], **more: str) -> None:
    found = [{"labels": one, "annotations": {"summary": "It stands still."}, **more} for one in labels]
    await service.app[ALERTMANAGER].post_alerts(found)


async def listed(person: Person, query: str = "") -> list[dict[str, Any]]:
    answer = await person.get(f"/monitoring/alerts{query}")
    body = await answer.json()
    assert answer.status == 200, body
    return list(body["items"])


async def the(person: Person, name: str = "QueueStalled") -> dict[str, Any]:
    [alert] = await listed(person, f"?name={name}")
    return alert


async def acknowledge(person: Person, fingerprint: str, status: int = 200, **more: Any) -> dict[str, Any]:
    answer = await person.post(
        "/monitoring/alerts/acknowledge", {"fingerprint": fingerprint, "comment": "I am at it.", **more}
    )
    body: dict[str, Any] = await answer.json(content_type=None)
    assert answer.status == status, body
    return body


async def until_inhibited(person: Person) -> None:
    """Alertmanager takes up what silences others a moment after it has answered."""
    async with asyncio.timeout(30):
        while not await listed(person, "?state=inhibited"):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)


async def withdraw(person: Person, fingerprint: str) -> int:
    return (await person.delete(f"/monitoring/alerts/acknowledge/{fingerprint}")).status


def amtool(server: Watcher, *arguments: str) -> str:
    command = [str(AMTOOL), f"--alertmanager.url={server.url}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


async def test_alerts_are_listed_with_the_worst_first(service: Service, root: Person) -> None:
    await fire(service, labelled("A", "info"), labelled("B"), labelled("C", "critical"), labelled("D", "strange"))
    found = await listed(root)
    assert [(a["name"], a["severity"]) for a in found] == [
        ("C", "critical"), ("B", "warning"), ("A", "info"), ("D", "other")
    ]  # fmt: skip
    assert found[1]["annotations"] == {"summary": "It stands still."} and found[1]["labels"] == labelled("B")
    assert {a["state"] for a in found} == {"firing"} and found[0]["receivers"] == ["none"]


async def test_a_list_is_cut_and_says_how_many_there_are(service: Service, root: Person) -> None:
    await fire(service, *(labelled(f"A{n}") for n in range(5)))
    answer = await (await root.get("/monitoring/alerts?limit=2")).json()
    assert (len(answer["items"]), answer["total"]) == (2, 5)


FOUND = {
    "state=inhibited": "A", "state=silenced": "B", "state=firing": "AC", "severity=critical": "A",
    "severity=other": "C", "name=A": "AA", "name=A&state=firing": "A", "name=a": "",
}  # fmt: skip


async def test_alerts_are_found_by_state_severity_and_name(service: Service, root: Person) -> None:
    await fire(service, labelled("A"), labelled("A", "critical"), labelled("B"), labelled("C", "none"))
    await acknowledge(root, (await the(root, "B"))["fingerprint"])
    await until_inhibited(root)
    for query, names in FOUND.items():
        assert "".join(a["name"] for a in await listed(root, f"?{query}")) == names, query


NAMES = ('x" or "y', "\\", "a\nb", "{}", "=~", "ünï", "\t", '"', "'")


async def test_any_name_can_be_asked_for(service: Service, root: Person) -> None:
    await fire(service, {"job": "ytdl"}, *map(labelled, NAMES))
    for name in ("", *NAMES):
        found = await (await root.get("/monitoring/alerts", params={"name": name})).json()
        assert [a["name"] for a in found["items"]] == [name], found


async def test_an_acknowledgement_is_a_silence_in_the_admins_name(service: Service, root: Person) -> None:
    await fire(service, labelled(), labelled(instance="b"))
    alert = (await listed(root))[0]
    held = await acknowledge(root, alert["fingerprint"], expires_in_seconds=3600)
    assert (held["author"], held["comment"], held["user_id"]) == ("root", "I am at it.", str(root.user_id))
    [silence] = await service.app[ALERTMANAGER].silences()
    assert (silence.id, silence.created_by, silence.only_labels) == (held["silence_id"], "root", alert["labels"])
    # It begins when Alertmanager hears of it.
    assert 3600 - 30 < (silence.ends_at - silence.starts_at).total_seconds() <= 3600
    states = {a["fingerprint"]: a["state"] for a in await listed(root)}
    assert states.pop(alert["fingerprint"]) == "silenced" and set(states.values()) == {"firing"}


async def test_the_list_tells_who_has_taken_an_alert_up(service: Service, root: Person) -> None:
    await fire(service, labelled())
    held = await acknowledge(root, (await the(root))["fingerprint"])
    alert = await the(root)
    shown = alert["acknowledgement"]
    assert {name: shown[name] for name in ("silence_id", "author", "user_id", "comment", "fingerprint")} == {
        name: held[name] for name in ("silence_id", "author", "user_id", "comment", "fingerprint")
    }
    assert (alert["acknowledged_by"], alert["waiting_since"]) == ("root", None)


async def test_who_is_late_gets_the_same_answer(service: Service, root: Person) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    first = await acknowledge(root, fingerprint)
    async with service.person("rita", role="admin") as rita:
        again = await acknowledge(rita, fingerprint, comment="Me too.", expires_in_seconds=60)
    same = ("silence_id", "author", "user_id", "comment")
    assert [again[name] for name in same] == [first[name] for name in same]
    assert len(await service.app[ALERTMANAGER].silences()) == 1


async def test_two_at_the_same_moment_make_one_silence(
    service: Service, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgements, "TURN_SECONDS", 30.0)
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    answers = await asyncio.gather(*(acknowledge(root, fingerprint) for _ in range(5)))
    assert len({answer["silence_id"] for answer in answers}) == 1
    assert len(await service.app[ALERTMANAGER].silences()) == 1


async def test_what_admins_do_with_alerts_is_on_record(service: Service, root: Person) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    await acknowledge(root, fingerprint)
    await acknowledge(root, fingerprint)
    await withdraw(root, fingerprint)
    events = await service.app[DB].many(AUDIT)
    assert [e["type"] for e in events] == ["alert_acknowledged", "alert_acknowledgement_ended"]
    assert {e["object_id"] for e in events} == {fingerprint} and {e["user_id"] for e in events} == {root.user_id}
    assert {audit.TYPES[e["type"]] for e in events} == {"info"} and events[0]["detail"]["seconds"] == 4 * 3600


async def test_an_alert_that_is_given_back_fires_again(service: Service, root: Person) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    first = await acknowledge(root, fingerprint)
    assert await withdraw(root, fingerprint) == 204
    alert = await the(root)
    assert (alert["state"], alert["acknowledgement"]) == ("firing", None)
    assert await withdraw(root, fingerprint) == 404
    assert (await acknowledge(root, fingerprint))["silence_id"] != first["silence_id"]


async def test_what_does_not_fire_cannot_be_taken_up_or_given_back(service: Service, root: Person) -> None:
    await acknowledge(root, "0123456789abcdef", 404)
    for fingerprint in ("0123456789abcdef", "none", "0123456789ABCDEF"):
        assert await withdraw(root, fingerprint) == 404


WRONG: tuple[dict[str, Any], ...] = (
    {"fingerprint": "x"},
    {"comment": " "},
    {"comment": "a\nb"},
    {"comment": "x" * 501},
    {"expires_in_seconds": 59},
    {"expires_in_seconds": 7 * 86_400 + 1},
    {"author": "root"},
)


async def test_a_wrong_field_is_named(service: Service, root: Person) -> None:
    for body in WRONG:
        found = await acknowledge(root, **{"fingerprint": "0123456789abcdef", "status": 422, **body})
        assert [fault["field"] for fault in found["errors"]] == list(body)


async def test_the_dead_mans_switch_cannot_be_silenced(service: Service, root: Person) -> None:
    await fire(service, labelled("Watchdog", "info"))
    await acknowledge(root, (await the(root, "Watchdog"))["fingerprint"], 409)
    assert not await service.app[ALERTMANAGER].silences()


async def test_a_test_of_a_channel_is_not_to_be_taken_up(service: Service, root: Person) -> None:
    await fire(service, labelled("NotificationTest", "info"))
    await acknowledge(root, (await the(root, "NotificationTest"))["fingerprint"], 409)
    assert not await service.app[DB].many(HISTORY)


async def test_a_silence_of_amtools_counts_with_its_author(server: Watcher, service: Service, root: Person) -> None:
    await fire(service, labelled(instance="a"), labelled(instance="b"))
    amtool(server, "silence", "add", "alertname=QueueStalled", "-a", "olga", "-c", "works on it")
    alert = (await listed(root))[0]
    held = alert["acknowledgement"]
    assert (alert["state"], held["author"], held["comment"], held["user_id"]) == (
        "silenced", "olga", "works on it", None
    )  # fmt: skip
    assert (await acknowledge(root, alert["fingerprint"]))["author"] == "olga"
    # It holds the other as well, so it is not for one to end.
    assert await withdraw(root, alert["fingerprint"]) == 409
    assert {a["state"] for a in await listed(root)} == {"silenced"}


async def test_a_silence_of_amtools_for_one_alert_can_be_ended(server: Watcher, service: Service, root: Person) -> None:
    await fire(service, labelled())
    amtool(server, "silence", "add", *(f"{k}={v}" for k, v in labelled().items()), "-a", "olga", "-c", "mine")
    assert await withdraw(root, (await the(root))["fingerprint"]) == 204
    assert (await the(root))["state"] == "firing"


async def test_an_acknowledgement_whose_alert_has_ended_can_be_taken_back(service: Service, root: Person) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    await acknowledge(root, fingerprint)
    await fire(service, labelled(), endsAt="2026-01-01T00:00:00Z", startsAt="2025-01-01T00:00:00Z")
    assert await withdraw(root, fingerprint) == 204
    [silence] = await service.app[ALERTMANAGER].silences()
    assert silence.status.state == "expired"


async def test_when_its_time_is_over_an_alert_can_be_taken_up_anew(service: Service, root: Person) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    held = await acknowledge(root, fingerprint)
    await service.app[DB].exec(LATER)
    await service.app[ALERTMANAGER].expire_silence(held["silence_id"])
    assert (await acknowledge(root, fingerprint))["silence_id"] != held["silence_id"]


async def test_a_silence_that_could_not_be_put_on_record_is_ended(
    service: Service, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **kwargs: object) -> None:
        raise errors.Unavailable("The disk is full.")

    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    with monkeypatch.context() as patched:
        patched.setattr(audit, "record", broken)
        await acknowledge(root, fingerprint, 503)
    assert [s.status.state for s in await service.app[ALERTMANAGER].silences()] == ["expired"]
    assert (await the(root))["state"] == "firing"
    assert (await acknowledge(root, fingerprint))["author"] == "root"


async def test_an_acknowledgement_stays_when_alertmanager_cannot_be_asked_to_end_it(
    server: Watcher, service: Service, root: Person
) -> None:
    await fire(service, labelled())
    fingerprint = (await the(root))["fingerprint"]
    await acknowledge(root, fingerprint)
    await server.kill()
    assert await withdraw(root, fingerprint) == 503
    await server.start()
    assert await withdraw(root, fingerprint) == 204


HANGING = 12


@pytest.fixture
async def hanging(server: Watcher, service: Service, root: Person) -> AsyncIterator[list[dict[str, Any]]]:
    """The alerts of an Alertmanager that says no more; every other one is acknowledged."""
    await fire(service, *(labelled(instance=str(n)) for n in range(2 * HANGING)))
    found = await listed(root)
    for alert in found[:HANGING]:
        await acknowledge(root, alert["fingerprint"])
    server.signal(signal.SIGSTOP)
    yield found
    await server.kill()


async def until_all_connections_are_free(service: Service, asked: list[asyncio.Task[Any]]) -> None:
    """Alertmanager is waited for by then; the service's own rounds may have one for a moment."""
    await asyncio.sleep(0.5)
    while (stats := service.app[DB].stats())["available"] < stats["size"]:
        assert not any(task.done() for task in asked), stats
        await asyncio.sleep(0.02)
    assert not any(task.done() for task in asked)


@pytest.mark.parametrize("method", ["acknowledge", "withdraw"])
async def test_an_alertmanager_that_hangs_takes_no_connections_to_the_database(
    hanging: list[dict[str, Any]],
    server: Watcher,
    service: Service,
    root: Person,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 30.0)
    asked: list[asyncio.Task[Any]]
    if method == "acknowledge":
        asked = [asyncio.create_task(acknowledge(root, a["fingerprint"], 503)) for a in hanging[HANGING:]]
    else:
        asked = [asyncio.create_task(withdraw(root, a["fingerprint"])) for a in hanging[:HANGING]]
    await until_all_connections_are_free(service, asked)
    await server.kill()
    answers = await asyncio.gather(*asked)
    assert method == "acknowledge" or answers == [503] * HANGING


async def test_an_alertmanager_that_hangs_is_asked_outside_of_transactions_in_rounds_too(
    hanging: list[dict[str, Any]], server: Watcher, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr(acknowledgements, "OVER_SECONDS", 0.0)
    await service.app[DB].exec(ENDED)
    features = service.app[ACKNOWLEDGEMENTS]
    asked = [asyncio.create_task(work()) for work in (features.retire, features.restore_all)]
    await until_all_connections_are_free(service, asked)
    await server.kill()
    for failed in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(failed, errors.Unavailable)


async def test_who_waits_too_long_for_another_is_told_so(
    hanging: list[dict[str, Any]], server: Watcher, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr(acknowledgements, "TURN_SECONDS", 0.2)
    fingerprint = hanging[-1]["fingerprint"]
    asked = [asyncio.create_task(acknowledge(root, fingerprint, 503)) for _ in range(2)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await server.kill()
    answers = await asyncio.gather(*asked)
    assert sum("Somebody else" in answer["detail"] for answer in answers) == 1


async def test_of_two_processes_the_first_on_record_takes_an_alert_up(service: Service, root: Person) -> None:
    """Each has seen that nobody had, and has made its silence."""
    await fire(service, labelled())
    [alert] = await service.app[ALERTMANAGER].alerts()
    wish = Acknowledge(alert.fingerprint, "mine")
    both = [Acknowledgements(service.app[DB], service.app[ALERTMANAGER]) for _ in range(2)]
    made = [await one._silence(alert, wish, "mine", root.user_id, "root") for one in both]
    answers = [await one._take_up(alert, own, set()) for one, own in zip(both, made, strict=True)]
    assert {answer.silence_id for answer in answers} == {made[0].silence_id}
    silences = await service.app[ALERTMANAGER].silences()
    assert [s.id for s in silences if s.status.state == "active"] == [made[0].silence_id]


async def test_of_two_processes_that_make_a_silence_again_one_does(
    server: Watcher, service: Service, root: Person
) -> None:
    await fire(service, labelled())
    await acknowledge(root, (await the(root))["fingerprint"])
    await server.kill()
    await server.start()
    several = [Acknowledgements(service.app[DB], service.app[ALERTMANAGER]) for _ in range(3)]
    await asyncio.gather(*(one.restore_all() for one in several))
    states = [s.status.state for s in await service.app[ALERTMANAGER].silences()]
    assert states.count("active") == 1 and len(states) <= 3


async def test_what_has_ended_already_can_be_ended(server: Watcher, service: Service, root: Person) -> None:
    await fire(service, labelled())
    held = await acknowledge(root, (await the(root))["fingerprint"])
    amtool(server, "silence", "expire", held["silence_id"])
    assert await withdraw(root, held["fingerprint"]) == 204


async def test_a_silence_that_alertmanager_lost_is_made_again(server: Watcher, service: Service, root: Person) -> None:
    """Killed, it loses those of the last quarter of an hour."""
    await fire(service, labelled())
    held = await acknowledge(root, (await the(root))["fingerprint"], expires_in_seconds=3600)
    await server.kill()
    await server.start()
    await fire(service, labelled())
    found = await service.app[ALERTMANAGER].alerts()
    assert not found[0].status.silenced_by
    await asyncio.gather(*(service.app[ACKNOWLEDGEMENTS].restore(found) for _ in range(3)))
    again = (await the(root))["acknowledgement"]
    assert again["silence_id"] != held["silence_id"]
    assert [again[name] for name in ("author", "comment", "user_id")] == ["root", "I am at it.", str(root.user_id)]
    assert again["expires_at"][:19] == held["expires_at"][:19]
    assert len(await service.app[ALERTMANAGER].silences()) == 1


async def test_what_somebody_ended_in_alertmanager_is_not_made_again(
    server: Watcher, service: Service, root: Person
) -> None:
    await fire(service, labelled())
    held = await acknowledge(root, (await the(root))["fingerprint"])
    amtool(server, "silence", "expire", held["silence_id"])
    await service.app[ACKNOWLEDGEMENTS].restore(await service.app[ALERTMANAGER].alerts())
    assert (await the(root))["state"] == "firing"
    # Nor later, when Alertmanager remembers the silence no more.
    await server.kill()
    await server.start()
    await fire(service, labelled())
    await service.app[ACKNOWLEDGEMENTS].restore(await service.app[ALERTMANAGER].alerts())
    assert (await the(root))["state"] == "firing"


async def test_many_silences_cost_a_bounded_number_of_questions(
    server: Watcher, service: Service, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MOST_SILENCES", 1)
    await fire(service, labelled("A"), labelled("B"))
    for name in ("A", "B"):
        amtool(server, "silence", "add", f"alertname={name}", "-a", "olga", "-c", "works")
    found = await listed(root)
    assert [a["state"] for a in found] == ["silenced"] * 2
    assert [a["acknowledgement"] is None for a in found] == [False, True]


ADDRESSES = (
    ("GET", "/monitoring/alerts"),
    ("GET", "/monitoring/alerts?state=ended"),
    ("GET", "/monitoring/alerts/stats"),
    ("DELETE", "/monitoring/alerts/acknowledge/0123456789abcdef"),
)


async def test_without_an_alertmanager_the_answer_names_the_setting(config: Config) -> None:
    async with running(config) as service, service.person("rita", role="admin") as rita:
        for method, path in ADDRESSES:
            answer = await rita.request(method, path)
            body = await answer.json(content_type=None)
            assert (answer.status, body["code"]) == (503, "unavailable") and "ALERTMANAGER_URL" in body["detail"]


async def test_stats_refuse_a_window_that_is_none(service: Service, root: Person) -> None:
    for query in ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "from=2024-01-01T00:00:00Z",
                  "to=0001-01-01T00:00:00Z"):  # fmt: skip
        assert (await root.get(f"/monitoring/alerts/stats?{query}")).status == 422, query
    assert alert_history.LONGEST_WINDOW.days == 366
