"""The audit trail as admins read it: its events, what a window of time comes to, and a report of one.

It only reads, and says in the trail who read. What is written there, and how, is `audit`'s; the forms of a report
beside JSON are `security_report`'s.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from ytdl import audit, errors, networks, sql
from ytdl.db import Row, Statements
from ytdl.record import Moment

q = sql.load("security")

Type = Annotated[str, Meta(max_length=64, extra_json_schema={"enum": list(audit.TYPES)})]
Form = Literal["json", "csv", "markdown"]
STATS_WINDOW = timedelta(days=1)
LONGEST_WINDOW = timedelta(days=366)
TOP = 10
NOTABLE = 100
# Where a list begins: before any event there is.
NEWEST = "infinity", UUID(int=2**128 - 1)
_CURSOR_TIME = "%Y%m%dT%H%M%S%f"


class EventFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Query of the list. `ip` is an address or a network."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(pattern=r"^\d{8}T\d{12}-[0-9a-f]{32}$")] | None = None
    type: Type | None = None
    severity: audit.Severity | None = None
    ip: Annotated[str, Meta(max_length=64)] | None = None
    user_id: UUID | None = None
    from_: Moment | None = None
    to: Moment | None = None


class Thing(msgspec.Struct, frozen=True):
    """What something was done to."""

    kind: str
    id: str | None


class Event(msgspec.Struct, frozen=True):
    """`username` is the user's name now; null for one that is gone. `credential_id` is the session or API key."""

    id: UUID
    at: Moment
    type: str
    severity: audit.Severity
    result: audit.Result
    user_id: UUID | None
    username: str | None
    credential_id: UUID | None
    object: Thing | None
    ip: str | None
    request_id: str | None
    detail: dict[str, Any]


class EventPage(msgspec.Struct, frozen=True):
    items: list[Event]
    next_cursor: str | None


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """`to` is now where it is left out, `from` a day before `to`."""

    from_: Moment | None = None
    to: Moment | None = None


class ReportWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    from_: Moment
    to: Moment
    format: Form = "json"


class Address(msgspec.Struct, frozen=True):
    """`warnings` are the events that are more than information."""

    ip: str
    events: int
    warnings: int


class Person(msgspec.Struct, frozen=True):
    user_id: UUID
    username: str | None
    events: int
    warnings: int


class Stats(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """The addresses with most warnings come first. `blocked_now` counts networks, `locked_now` names that cannot sign
    in, of users or not."""

    from_: Moment
    to: Moment
    events: int
    by_type: dict[str, int]
    by_severity: dict[str, int]
    top_addresses: list[Address]
    blocked_now: int
    locked_now: int


class Day(msgspec.Struct, frozen=True):
    """A day in UTC. Those without an event are left out."""

    day: date
    events: int
    by_severity: dict[str, int]


class Report(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """`notable` are the newest critical events, a hundred at most; `by_severity` has the number of all."""

    from_: Moment
    to: Moment
    made_at: Moment
    events: int
    by_type: dict[str, int]
    by_severity: dict[str, int]
    by_result: dict[str, int]
    by_day: list[Day]
    top_addresses: list[Address]
    top_users: list[Person]
    notable: list[Event]


async def events(db: Statements, f: EventFilter) -> EventPage:
    """Raises `errors.Invalid`."""
    _check(f.from_, f.to)
    if f.type is not None and f.type not in audit.TYPES:
        raise errors.invalid("type", "is not a type of event")
    network = _network(f.ip)
    before, before_id = _place(f.cursor)
    await audit.record(db, "sensitive_read", object=("audit", None), what="events")
    rows = await db.many(
        q.events, before=before, before_id=before_id, since=f.from_ or "-infinity", until=f.to or "infinity",
        type=f.type, severity=f.severity, user_id=f.user_id, network=network, limit=f.limit + 1,
    )  # fmt: skip
    items = [_event(row) for row in rows[: f.limit]]
    return EventPage(items, _cursor(items[-1]) if len(rows) > f.limit else None)


async def stats(db: Statements, window: Window) -> Stats:
    """Raises `errors.Invalid`."""
    to = window.to or datetime.now(UTC)
    from_ = window.from_ or _day_before(to)
    _check(from_, to, longest=LONGEST_WINDOW)
    bounds = {"since": from_, "until": to}
    counts = await db.many(q.counts, **bounds)
    addresses = await db.many(q.top_addresses, **bounds, limit=TOP)
    now = await db.one(q.now)
    return Stats(
        from_, to, _sum(counts), _by("type", counts), _severities(counts), [Address(**row) for row in addresses],
        blocked_now=now["blocked"], locked_now=now["locked"],
    )  # fmt: skip


async def report(db: Statements, wish: ReportWish) -> Report:
    """Raises `errors.Invalid`."""
    _check(wish.from_, wish.to, longest=LONGEST_WINDOW)
    await audit.record(db, "sensitive_read", object=("audit", None), what="report", format=wish.format)
    bounds = {"since": wish.from_, "until": wish.to}
    counts = await db.many(q.counts, **bounds)
    return Report(
        from_=wish.from_,
        to=wish.to,
        made_at=datetime.now(UTC),
        events=_sum(counts),
        by_type=_by("type", counts),
        by_severity=_severities(counts),
        by_result=_by("result", counts),
        by_day=list(_days(counts)),
        top_addresses=[Address(**row) for row in await db.many(q.top_addresses, **bounds, limit=TOP)],
        top_users=[Person(**row) for row in await db.many(q.top_users, **bounds, limit=TOP)],
        notable=[_event(row) for row in await db.many(q.critical, **bounds, limit=NOTABLE)],
    )


def _day_before(to: datetime) -> datetime:
    try:
        return to.astimezone(UTC) - STATS_WINDOW
    except OverflowError:
        raise errors.invalid("to", "must be a day later than the first there is") from None


def _check(from_: datetime | None, to: datetime | None, *, longest: timedelta | None = None) -> None:
    if from_ is None or to is None:
        return
    if from_ >= to:
        raise errors.invalid("from", "must be before to")
    if longest is not None and to - from_ > longest:
        raise errors.invalid("from", f"must be at most {longest.days} days before to")


def _network(text: str | None) -> str | None:
    if text is None:
        return None
    # PostgreSQL knows no zones, which are names of this machine's own.
    network = networks.read_network(text.strip().replace("%", " "))
    if network is None:
        raise errors.invalid("ip", "must be an address or a network such as 192.0.2.0/24")
    return str(network)


def _cursor(event: Event) -> str:
    return f"{event.at.astimezone(UTC):{_CURSOR_TIME}}-{event.id.hex}"


def _place(cursor: str | None) -> tuple[datetime | str, UUID]:
    """After which event a page begins."""
    if cursor is None:
        return NEWEST
    at, _, id = cursor.partition("-")
    try:
        return datetime.strptime(at, _CURSOR_TIME).replace(tzinfo=UTC), UUID(id)
    except ValueError:
        raise errors.invalid("cursor", "is not one that this list gave") from None


def _event(row: Row) -> Event:
    kind, id = row.pop("object_kind"), row.pop("object_id")
    return Event(**row, object=Thing(kind, id) if kind else None)


def _sum(rows: Iterable[Row]) -> int:
    return sum(row["events"] for row in rows)


def _by(name: str, rows: Iterable[Row]) -> dict[str, int]:
    """Events by one of their columns, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row[name]] += row["events"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _severities(rows: Iterable[Row]) -> dict[str, int]:
    counts = _by("severity", rows)
    return {name: counts.get(name, 0) for name in ("info", "warning", "critical")}


def _days(rows: list[Row]) -> Iterable[Day]:
    for day in sorted({row["day"] for row in rows}):
        of_day = [row for row in rows if row["day"] == day]
        yield Day(day, _sum(of_day), _severities(of_day))
