"""Taking an alert up, giving it back, and seeing to it that this holds.

An acknowledgement is a silence in Alertmanager for exactly the alert's labels, with the admin's name on it, and a row
here that makes it again should Alertmanager lose it. Alertmanager is never asked inside a transaction: while it hangs,
no connection to the database waits with it. So it is asked first, and the row says who was before whom.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
import uuid_utils.compat as uuid
from msgspec import Meta
from psycopg.types.json import Jsonb

from ytdl import alertmanager as am
from ytdl import alerts, audit, errors, sql, texts
from ytdl.alertmanager import Alertmanager, Matcher, Silence
from ytdl.alerts import FINGERPRINT, TRIED, WATCHDOG, Acknowledgement
from ytdl.db import DB, Row, Statements

log = logging.getLogger("ytdl.alerts")
q = sql.load("alerts")

COMMENT_LENGTH = 500
# Silences that are made again, or ended, at a time.
MOST_RESTORED = 100
# An alert that ends and comes back within this time is the same trouble; later it is told of again.
OVER_SECONDS = 900.0
# So long somebody waits for another who takes up, or gives back, the same alert.
TURN_SECONDS = 5.0
NONE = "No alert of that fingerprint fires."
TURN = "Somebody else takes that alert up, or gives it back, and Alertmanager has not answered yet."


class Acknowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """It ends after `expires_in_seconds`, so that an alert that still fires is told of again, and a quarter of an hour
    after the alert has ended."""

    fingerprint: Annotated[str, Meta(pattern=FINGERPRINT)]
    comment: Annotated[str, Meta(max_length=COMMENT_LENGTH)]
    expires_in_seconds: Annotated[int, Meta(ge=60, le=7 * 86_400)] = 4 * 3600


class Acknowledgements:
    """Every method raises `errors.Unavailable` where Alertmanager, or the database, cannot be asked."""

    def __init__(self, db: DB, alertmanager: Alertmanager) -> None:
        self._db = db
        self._alertmanager = alertmanager
        # By fingerprint, so that two of one process do not make two silences of which one is ended again.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._restoring = asyncio.Lock()

    async def acknowledge(self, wish: Acknowledge, *, user_id: UUID, username: str) -> Acknowledgement:
        """What holds already is the answer, whoever it is of. Raises `errors.NotFound` where no such alert fires,
        `errors.Conflict` for the one that must go on and for tests, and `errors.Invalid`."""
        comment = wish.comment.strip()
        if faults := texts.faults(comment, COMMENT_LENGTH):
            raise errors.invalid("comment", "; ".join(faults))
        async with self._turn(wish.fingerprint):
            before = {row["silence_id"] for row in await self._holding(self._db, wish.fingerprint)}
            alert = await self._to_acknowledge(wish.fingerprint)
            if held := await self._held(alert):
                return held
            return await self._take_up(alert, await self._silence(alert, wish, comment, user_id, username), before)

    @asynccontextmanager
    async def _turn(self, fingerprint: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(fingerprint, asyncio.Lock())
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await turn.acquire()
        except TimeoutError:
            raise errors.Unavailable(TURN, retry_after=5) from None
        try:
            yield
        finally:
            turn.release()

    async def _holding(self, db: Statements, fingerprint: str) -> list[Row]:
        return await db.many(q.holding, fingerprints=[fingerprint])

    async def _to_acknowledge(self, fingerprint: str) -> am.Alert:
        alert = await self._firing(fingerprint)
        if alert is None:
            raise errors.NotFound(NONE)
        if alerts.name_of(alert) == WATCHDOG:
            raise errors.Conflict(f"{WATCHDOG} shows that alerts arrive, so it must go on firing.")
        if alerts.name_of(alert) == TRIED:
            raise errors.Conflict("That is the test of a channel, which ends by itself.")
        return alert

    async def _firing(self, fingerprint: str) -> am.Alert | None:
        return next((a for a in await self._alertmanager.alerts() if a.fingerprint == fingerprint), None)

    async def _held(self, alert: am.Alert) -> Acknowledgement | None:
        """What holds the alert already."""
        silence = alerts.longest_of(alert, await alerts.silences_of(self._alertmanager, [alert]))
        if silence is None:
            return None
        user_id = (await alerts.ours(self._db, [silence.id])).get(silence.id)
        return alerts.acknowledgement_of(alert, silence, user_id)

    async def _silence(
        self, alert: am.Alert, wish: Acknowledge, comment: str, user_id: UUID, username: str
    ) -> Acknowledgement:
        now = datetime.now(UTC)
        ends = now + timedelta(seconds=wish.expires_in_seconds)
        id = await self._alertmanager.create_silence(
            _matchers(alert.labels), starts_at=now, ends_at=ends, author=username, comment=comment
        )
        return Acknowledgement(alert.fingerprint, id, username, user_id, comment, now, ends)

    async def _take_up(self, alert: am.Alert, made: Acknowledgement, before: set[str]) -> Acknowledgement:
        """Puts it on record, unless somebody in another process was first: then theirs is the answer."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._undo, made.silence_id)
            async with self._db.transaction() as tx:
                await tx.value(q.lock_alert, fingerprint=alert.fingerprint)
                for row in await self._holding(tx, alert.fingerprint):
                    if row["silence_id"] not in before:
                        return Acknowledgement(**{name: row[name] for name in Acknowledgement.__struct_fields__})
                await _keep(tx, alert, made)
            undo.pop_all()
        return made

    async def _undo(self, silence_id: str) -> None:
        """A silence that is on nobody's record holds nothing."""
        try:
            await self._alertmanager.expire_silence(silence_id)
        except errors.Unavailable:
            log.exception("alerts.silence_left", extra={"silence": silence_id})

    async def withdraw(self, fingerprint: str) -> None:
        """Ends what holds an alert, so that it is told of again; one made in Alertmanager too if it is for this alert
        alone. Raises `errors.NotFound` where nothing holds it, and `errors.Conflict` where only a silence for further
        alerts does."""
        async with self._turn(fingerprint):
            ids = {row["silence_id"] for row in await self._holding(self._db, fingerprint)}
            alert = await self._firing(fingerprint)
            silences = await alerts.silences_of(self._alertmanager, [alert] if alert else [])
            ids |= {s.id for s in silences.values() if alert and s.only_labels == alert.labels}
            if not ids:
                raise _not_acknowledged(silences.values())
            await self._end(ids)
            # Of another process, or made again, meanwhile.
            await self._end(await self._give_back(fingerprint, alert) - ids)

    async def _end(self, silence_ids: Iterable[str]) -> None:
        for id in silence_ids:
            await self._alertmanager.expire_silence(id)

    async def _give_back(self, fingerprint: str, alert: am.Alert | None) -> set[str]:
        """Puts the end on record; the silences of what was in force."""
        facts: dict[str, Any] = {"alert": alerts.name_of(alert)} if alert else {}
        async with self._db.transaction() as tx:
            await tx.value(q.lock_alert, fingerprint=fingerprint)
            rows = await tx.many(q.withdraw, fingerprint=fingerprint)
            await audit.record(tx, "alert_acknowledgement_ended", object=("alert", fingerprint), **facts)
        return {row["silence_id"] for row in rows if row["holds"]}

    async def restore(self, found: Sequence[am.Alert]) -> None:
        """Makes the silences of acknowledgements again that Alertmanager has lost, as by a crash of it. One that
        somebody ended there is withdrawn. `found` are alerts of this moment."""
        loud = {alert.fingerprint: alert.labels for alert in found if not alert.status.silenced_by}
        async with self._restoring:
            for row in (await self._db.many(q.holding, fingerprints=list(loud)))[:MOST_RESTORED]:
                await self._see_to(row, loud[row["fingerprint"]])

    async def restore_all(self) -> None:
        """As `restore`, also for alerts that Alertmanager does not know yet; the newest so many."""
        async with self._restoring:
            for row in await self._db.many(q.holding_all, limit=MOST_RESTORED):
                await self._see_to(row, row["labels"])

    async def _see_to(self, row: Row, labels: dict[str, str]) -> None:
        silence = await self._alertmanager.silence(row["silence_id"])
        if silence is None:
            await self._restore(row, labels)
        elif silence.status.state == "expired" and await self._db.exec(q.withdraw_one, id=row["id"]):
            log.info("alerts.withdrawn_elsewhere", extra={"fingerprint": row["fingerprint"]})

    async def _restore(self, row: Row, labels: dict[str, str]) -> None:
        id = await self._alertmanager.create_silence(
            _matchers(labels), starts_at=datetime.now(UTC), ends_at=row["expires_at"], author=row["author"],
            comment=row["comment"],
        )  # fmt: skip
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._undo, id)
            if await self._db.exec(q.name_silence, id=row["id"], silence_id=id, former=row["silence_id"]):
                undo.pop_all()
                log.info("alerts.silenced_again", extra={"fingerprint": row["fingerprint"], "silence": id})

    async def retire(self) -> None:
        """Ends acknowledgements whose alerts have ended for good: of the next time nobody knows yet."""
        for row in await self._db.many(q.over, seconds=OVER_SECONDS, limit=MOST_RESTORED):
            await self._alertmanager.expire_silence(row["silence_id"])
            if await self._db.exec(q.withdraw_one, id=row["id"]):
                log.info("alerts.acknowledgement_over", extra={"fingerprint": row["fingerprint"]})


async def _keep(tx: Statements, alert: am.Alert, made: Acknowledgement) -> None:
    # Whose time is over stands there until the next one.
    await tx.many(q.withdraw, fingerprint=alert.fingerprint)
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    await tx.exec(q.acknowledge, id=uuid.uuid7(), **fields)
    record = alerts.recorded(alert) | {"acknowledged_at": made.created_at, "acknowledged_by": made.author}
    await tx.many(q.seen, alerts=Jsonb([record | {"waits": False}]))
    seconds = round((made.expires_at - made.created_at).total_seconds())
    await audit.record(
        tx, "alert_acknowledged", object=("alert", alert.fingerprint), alert=alerts.name_of(alert),
        severity=alerts.severity_of(alert), seconds=seconds,
    )  # fmt: skip


def _matchers(labels: dict[str, str]) -> list[Matcher]:
    return [Matcher(name, value) for name, value in labels.items()]


def _not_acknowledged(silences: Iterable[Silence]) -> errors.Error:
    others = sorted({silence.created_by for silence in silences})
    if not others:
        return errors.NotFound("That alert is not acknowledged.")
    return errors.Conflict(
        f"The alert is held by a silence for further alerts, of {', '.join(others)}; end that in Alertmanager."
    )
