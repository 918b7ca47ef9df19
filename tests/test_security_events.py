"""Security events over HTTP: the list with its filters, what a window comes to, and reports nobody can slip a formula
into."""

import csv
import io
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Person, Service
from tests.queueing import sql
from ytdl import audit, log
from ytdl.api.keys import DB as DB_KEY
from ytdl.security import Address, Day, Event, Report, Thing
from ytdl.security import Person as Top
from ytdl.security_report import csv_of, markdown_of

EVENTS, STATS, REPORT = "/security/events", "/security/stats", "/security/report"
DAY = datetime(2020, 5, 17, tzinfo=UTC)


async def put(service: Service, at: datetime, type: str, **columns: Any) -> UUID:
    """An event of some time ago; what is recorded has the time of its recording."""
    columns = {"id": uuid4(), "at": at, "type": type, "severity": audit.TYPES[type], "result": "ok", **columns}
    names, values = ", ".join(columns), ", ".join(["%s"] * len(columns))
    await sql(service.app[DB_KEY], f"INSERT INTO audit_events ({names}) VALUES ({values})", *columns.values())
    assert isinstance(columns["id"], UUID)
    return columns["id"]


@pytest.fixture
async def past(service: Service) -> list[UUID]:
    """Four events of a day, oldest first."""
    user = uuid4()
    return [
        await put(service, DAY, "authn_login_fail", result="failed", ip="192.0.2.7"),
        await put(
            service, DAY + timedelta(hours=1), "authn_token_reuse", result="denied", ip="192.0.2.9", user_id=user
        ),
        await put(service, DAY + timedelta(hours=2), "authn_login_fail", result="failed", ip="2001:db8::1"),
        await put(service, DAY + timedelta(hours=2), "user_updated", user_id=user),
    ]


OF_DAY = {"from": "2020-05-17T00:00:00Z", "to": "2020-05-18T02:00:00+02:00"}


async def ids(person: Person, **filters: str) -> list[UUID]:
    answer = await person.get(EVENTS, params=OF_DAY | filters)
    assert answer.status == 200, await answer.text()
    return [UUID(item["id"]) for item in (await answer.json())["items"]]


async def test_an_event_is_shown_with_who_what_and_where_from(service: Service, root: Person, alice: Person) -> None:
    credential = uuid4()
    log.client_ip.set("192.0.2.7")
    log.request_id.set("r-1")
    log.credential_id.set(str(credential))
    await audit.record(
        service.app[DB_KEY], "user_updated", user_id=alice.user_id, object=("user", alice.user_id), fields=["email"]
    )
    answer = await root.get(EVENTS, params={"type": "user_updated"})
    event = (await answer.json())["items"][0]
    assert datetime.now(UTC) - datetime.fromisoformat(event.pop("at")) < timedelta(minutes=1) and event.pop("id")
    assert event == {
        "type": "user_updated", "severity": "info", "result": "ok", "user_id": str(alice.user_id), "username": "alice",
        "credential_id": str(credential), "object": {"kind": "user", "id": str(alice.user_id)}, "ip": "192.0.2.7",
        "request_id": "r-1", "detail": {"fields": ["email"]},
    }  # fmt: skip


async def test_events_come_newest_first_a_page_at_a_time(root: Person, past: list[UUID]) -> None:
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        params = OF_DAY | {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = await (await root.get(EVENTS, params=params)).json()
        found += [UUID(item["id"]) for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 4
    # Two of the same moment are told apart by their ids.
    assert found == [*sorted(past[2:], reverse=True), past[1], past[0]]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"type": "authn_login_fail"}, [2, 0]),
        ({"severity": "critical"}, [1]),
        ({"ip": "192.0.2.7"}, [0]),
        ({"ip": "192.0.2.1/24"}, [1, 0]),
        ({"ip": "2001:db8::/32", "type": "authn_login_fail"}, [2]),
        ({"from": "2020-05-17T01:00:00Z", "to": "2020-05-17T02:00:00Z"}, [1]),
        ({"type": "user_deleted"}, []),
    ],
    ids=str,
)
async def test_filters_are_combined(root: Person, past: list[UUID], filters: dict[str, str], wanted: list[int]) -> None:
    assert await ids(root, **filters) == [past[n] for n in wanted]


async def test_events_of_one_user_are_found(service: Service, root: Person, alice: Person) -> None:
    own = await put(service, DAY, "user_updated", user_id=alice.user_id)
    await put(service, DAY, "user_updated", user_id=root.user_id)
    assert await ids(root, user_id=str(alice.user_id)) == [own]


async def test_an_address_is_found_however_it_is_written(service: Service, root: Person) -> None:
    """As IPv4 in IPv6, too, which is how a socket for both names it."""
    mapped = await (await root.get(EVENTS, params={"ip": "::ffff:127.0.0.1", "limit": "1"})).json()
    assert [event["ip"] for event in mapped["items"]] == ["127.0.0.1"]


async def test_the_name_of_a_user_who_is_gone_is_null(service: Service, root: Person) -> None:
    await put(service, DAY, "user_deleted", user_id=uuid4())
    (event,) = (await (await root.get(EVENTS, params=OF_DAY)).json())["items"]
    assert event["user_id"] and event["username"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ip", "192.0.2"), ("ip", "localhost"), ("ip", "fe80::1%eth0"), ("type", "nothing"), ("severity", "fatal"),
        ("cursor", "x"), ("cursor", "20201331T000000000000-" + "0" * 32), ("user_id", "alice"), ("from", "yesterday"),
        ("from", "2020-05-17T00:00:00"), ("from", "2020-05-18T00:00:00Z"), ("to", "2020-05-17T00:00:00Z"),
        ("limit", "0"), ("limit", "201"),
    ],
)  # fmt: skip
async def test_a_filter_out_of_form_is_named(root: Person, field: str, value: str) -> None:
    answer = await root.get(EVENTS, params=OF_DAY | {field: value})
    named = "from" if field == "to" else field
    assert (answer.status, [e["field"] for e in (await answer.json())["errors"]]) == (422, [named])


@pytest.mark.parametrize("path", [EVENTS, STATS])
async def test_the_trail_is_for_admins(service: Service, alice: Person, path: str) -> None:
    assert (await alice.get(path)).status == 403
    assert (await service.client.get(f"/api/v1{path}")).status == 401


async def test_a_report_is_for_admins(service: Service, alice: Person) -> None:
    assert (await alice.post(REPORT, OF_DAY)).status == 403
    assert (await service.client.post(f"/api/v1{REPORT}", json=OF_DAY)).status == 401


async def test_who_reads_the_trail_is_in_it(root: Person) -> None:
    assert (await root.get("/security/events")).status == 200
    assert (await root.post("/security/report", OF_DAY)).status == 200
    read = await root.get(EVENTS, params={"type": "sensitive_read"})
    items = (await read.json())["items"]
    assert [item["detail"]["what"] for item in items[:3]] == ["events", "report", "events"]
    assert {item["user_id"] for item in items[:3]} == {str(root.user_id)}


async def test_stats_count_what_happened_in_the_window(root: Person, past: list[UUID]) -> None:
    answer = await root.get("/security/stats", params=OF_DAY)
    assert await answer.json() == {
        "from": "2020-05-17T00:00:00Z", "to": "2020-05-18T02:00:00+02:00", "events": 4,
        "by_type": {"authn_login_fail": 2, "authn_token_reuse": 1, "user_updated": 1},
        "by_severity": {"info": 1, "warning": 2, "critical": 1},
        "top_addresses": [{"ip": ip, "events": 1, "warnings": 1} for ip in ("192.0.2.7", "192.0.2.9", "2001:db8::1")],
        "blocked_now": 0, "locked_now": 0,
    }  # fmt: skip


async def test_stats_are_of_the_last_day_where_nothing_is_said(service: Service, root: Person) -> None:
    now = datetime.now(UTC)
    for hours in (1, 23, 25):
        await put(service, now - timedelta(hours=hours), "secret_rotated")
    stats = await (await root.get(STATS)).json()
    assert stats["by_type"]["secret_rotated"] == 2
    assert datetime.fromisoformat(stats["to"]) - datetime.fromisoformat(stats["from"]) == timedelta(days=1)


async def test_stats_count_what_is_blocked_now(service: Service, root: Person) -> None:
    new = {"network": "198.51.100.0/24", "reason": "test", "expires_in_seconds": 3600}
    assert (await root.post("/security/blocks", new)).status == 201
    block = (
        "INSERT INTO sign_in_attempts (name_digest, locked_until, expires_at) VALUES (%s, now() + %s::interval, now())"
    )
    for n, when in enumerate(("1 hour", "-1 hour")):
        await sql(service.app[DB_KEY], block, bytes([n]), when)
    stats = await (await root.get(STATS)).json()
    assert (stats["blocked_now"], stats["locked_now"]) == (1, 1)


@pytest.mark.parametrize(
    "window", [("2020-05-18", "2020-05-17"), ("2020-05-17", "2020-05-17"), ("2019-05-16", "2020-05-17")]
)
async def test_a_window_out_of_bounds_is_named(root: Person, window: tuple[str, str]) -> None:
    from_, to = (f"{day}T00:00:00Z" for day in window)
    for answer in (
        await root.get(STATS, params={"from": from_, "to": to}),
        await root.post(REPORT, {"from": from_, "to": to}),
    ):
        assert (answer.status, (await answer.json())["errors"][0]["field"]) == (422, "from")


async def test_a_report_says_what_a_window_came_to(root: Person, past: list[UUID]) -> None:
    report = await (await root.post(REPORT, OF_DAY)).json()
    assert (report["events"], report["by_result"]) == (4, {"failed": 2, "denied": 1, "ok": 1})
    assert report["by_day"] == [
        {"day": "2020-05-17", "events": 4, "by_severity": {"info": 1, "warning": 2, "critical": 1}}
    ]
    assert [(who["events"], who["warnings"]) for who in report["top_users"]] == [(2, 1)]
    assert [UUID(event["id"]) for event in report["notable"]] == [past[1]]


@pytest.mark.parametrize(("format", "media"), [("csv", "text/csv"), ("markdown", "text/markdown")])
async def test_a_report_comes_in_other_forms(root: Person, past: list[UUID], format: str, media: str) -> None:
    answer = await root.post(REPORT, OF_DAY | {"format": format})
    assert (answer.status, answer.content_type, answer.charset) == (200, media, "utf-8")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert re.search(r"authn\\?_login\\?_fail\W+2\W", await answer.text())


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", '="x"\n=2')


def report_of(text: str) -> Report:
    """One with the text wherever a text can stand."""
    event = Event(
        uuid4(), DAY, text, "critical", "ok", uuid4(), text, None, Thing(text, text), text, text, {text: text}
    )
    by = {"info": 0, "warning": 0, "critical": 1}
    people = [Top(uuid4(), text, 1, 1)]
    return Report(
        DAY,
        DAY,
        DAY,
        1,
        {text: 1},
        by,
        {text: 1},
        [Day(date(2020, 5, 17), 1, by)],
        [Address(text, 1, 1)],
        people,
        [event],
    )


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_of(report_of(text)), newline="")))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert f"'{text}" in cells
    assert not [cell for cell in cells if cell.strip()[:1] in tuple("=+-@\uff1d") and cell.strip()]


@pytest.mark.parametrize(
    "text", ["a|b", "<b>x", "[x](y)", "`x`", "# x\n# y", "*x*", "http://x.example", "www.x.example"]
)
def test_no_word_of_a_report_is_a_mark(text: str) -> None:
    """Of the marks only those are left that a backslash takes for themselves; no line is begun."""
    lines = markdown_of(report_of(text)).splitlines()
    expected = markdown_of(report_of("x")).splitlines()
    assert [line[:2] for line in lines] == [line[:2] for line in expected]
    bare = [re.sub(r"\\.", "", line) for line in lines]
    assert not [line for line in bare if re.search(r"[<>\[\]`*]|://|www\.", line)]
    assert [line.count("|") for line in bare] == [line.count("|") for line in expected]


# The first and the last of these have no moment in UTC; the last but one has no day before it.
EDGES = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"]


@pytest.mark.parametrize("moment", EDGES)
async def test_a_window_that_ends_at_an_edge_of_the_calendar_is_refused_by_its_field(root: Person, moment: str) -> None:
    answer = await root.get(STATS, params={"to": moment})
    assert answer.status == 422
    assert (await answer.json())["errors"][0]["field"] in ("to", "from")


@pytest.mark.parametrize("path", [EVENTS, STATS, "/downloads"])
@pytest.mark.parametrize("field", ["from", "to"])
@pytest.mark.parametrize("moment", EDGES[:2])
async def test_a_moment_that_has_none_in_utc_is_refused_in_every_query(
    root: Person, path: str, field: str, moment: str
) -> None:
    answer = await root.get(path, params={field: moment})
    assert (answer.status, (await answer.json())["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize("form", ["json", "csv", "markdown"])
@pytest.mark.parametrize("moment", EDGES)
async def test_a_report_from_an_edge_of_the_calendar_is_made_or_refused(root: Person, form: str, moment: str) -> None:
    near = "9999-12-31T20:00:00Z" if moment.startswith("9") else "0001-01-02T00:00:00Z"
    window = {"from": near, "to": moment} if moment.startswith("9") else {"from": moment, "to": near}
    answer = await root.post(REPORT, window | {"format": form})
    assert answer.status == (200 if moment == EDGES[2] else 422)


@pytest.mark.parametrize("at", ["00010101T000000000000", "99991231T235959999999"])
async def test_a_cursor_at_an_edge_of_the_calendar_begins_there(root: Person, at: str) -> None:
    answer = await root.get(EVENTS, params={"cursor": f"{at}-{'0' * 32}"})
    assert answer.status == 200
    assert bool((await answer.json())["items"]) == at.startswith("9")
