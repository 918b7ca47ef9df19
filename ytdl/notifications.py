"""Who is told of alerts: kept in PostgreSQL, rendered into Alertmanager's file, brought into force by its reload.

The database is the truth and the file follows it. A change is one transaction that ends only when Alertmanager has
taken the file; whoever dies before leaves the former row, and the next round, of any process that has the file, puts
the file and Alertmanager right. What may be written is `channels`' business, what it becomes `routing`'s.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from psycopg.types.json import Jsonb

from ytdl import alertmanager, audit, channels, crypto, errors, loops, metrics, routing, sealed, sql, trials
from ytdl.alertmanager import Alertmanager
from ytdl.alertmanager_file import put_back, read_templates, settle, tells_somebody, write
from ytdl.channels import (
    MOST_CHANNELS,
    MOST_ROUTES,
    Channel,
    DeadMan,
    Email,
    NotificationRoute,
    Pace,
    QuietHours,
    Secrets,
    Settings,
    Sms,
)
from ytdl.config import Config
from ytdl.db import DB, Row, Statements
from ytdl.outbound import Outbound
from ytdl.trials import Trial
from ytdl.vault import Unopened, Vault

log = logging.getLogger("ytdl.notifications")
q = sql.load("notifications")

# Of the sealed value with all channels' secrets.
PLACE = "notifications"
OFF = "Notifications are not configured here: set ALERTMANAGER_CONFIG_FILE, and ALERTMANAGER_URL."
STALE = "Somebody else has changed it meanwhile: it is version {} now. Read it again."
REFUSED = "Alertmanager refuses this, and goes on with what it had: {}"
AWAY = "Nothing was changed, as Alertmanager did not say that it took it: {}"
ELSEWHERE = "Alertmanager does not read ALERTMANAGER_CONFIG_FILE: it was told to, and works by something else."
UNREADABLE = "Nothing was changed: Alertmanager runs as another user than this service, and may not read its file."
BUSY = "Nothing was changed: Alertmanager has yet to answer to another change or to the regular look at it."
TESTING = "Nothing was changed: a test is under way, and takes some 40 seconds at most."
# How long a change waits for another one of this process, which waits for Alertmanager.
TURN_SECONDS = 5.0
# What Alertmanager refuses it may take later, as when it may not read the file.
REFUSED_SECONDS = 300.0
# Pieces of a secret that are shorter could be any word.
TELLING = 6
_DENIED = re.compile(r"open \S+: permission denied")
_encode = msgspec.json.Encoder().encode
_secrets = msgspec.json.Decoder(Secrets)


class NotificationWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays; a list takes the place of the whole former one. With `version`, that of the answer which
    was changed, nothing is written over what somebody else has set meanwhile. `test` sends a message by each channel.
    """

    channels: Annotated[list[Channel], Meta(max_length=MOST_CHANNELS)] | UnsetType = UNSET
    routes: Annotated[list[NotificationRoute], Meta(max_length=MOST_ROUTES)] | UnsetType = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    pace: Pace | UnsetType = UNSET
    dead_man: DeadMan | UnsetType | None = UNSET
    version: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    test: bool = False

    @property
    def parts(self) -> dict[str, Any]:
        """What of the settings is given."""
        given = {name: getattr(self, name) for name in Settings.__struct_fields__}
        return {name: value for name, value in given.items() if value is not UNSET}


class NotificationState(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets are masked; a channel that is sent back so keeps them. `in_force` is whether Alertmanager has taken it,
    as far as this process knows, and null before it has looked or where it could not."""

    version: int
    updated_at: datetime | None
    updated_by: UUID | None
    in_force: bool | None
    channels: list[Channel]
    routes: list[NotificationRoute]
    quiet_hours: QuietHours | None
    pace: Pace
    dead_man: DeadMan | None


class NotificationAnswer(NotificationState, frozen=True, kw_only=True):
    """`tests` has each channel's outcome, where a test was asked for."""

    tests: list[Trial] = []


class Elsewhere(errors.Unavailable):
    """It has reloaded, and what it works by is not what was written."""


@dataclass(frozen=True)
class Stored:
    """What the row and the sealed value say."""

    version: int
    settings: Settings
    updated_at: datetime | None
    updated_by: UUID | None
    secrets: Secrets = field(default_factory=dict, repr=False)


def _stored(row: Row, secrets: Secrets) -> Stored:
    settings = msgspec.convert(row["settings"], Settings)
    return Stored(row["version"], settings, row["updated_at"], row["updated_by"], secrets)


async def read(db: Statements, vault: Vault) -> Stored:
    """Raises `vault.Unopened` where the secrets cannot be opened."""
    return _stored(await db.one(q.settings), await _read_secrets(db, vault))


async def _read_secrets(db: Statements, vault: Vault) -> Secrets:
    plain = await sealed.read(db, vault, "channel", None, name=PLACE)
    return _secrets.decode(plain) if plain else {}


class Notifications:
    def __init__(self, config: Config, db: DB, vault: Vault, alertmanager: Alertmanager, outbound: Outbound) -> None:
        self._db = db
        self._vault = vault
        self._alertmanager = alertmanager
        self._outbound = outbound
        self._around = routing.surroundings_of(config)
        self._file = Path(config.alertmanager_config_file) if config.alertmanager_config_file else None
        self._interval = config.alert_check_interval
        self._in_force: bool | None = None
        # The name of what Alertmanager would not take, and until when it is not asked for the same again.
        self._refused, self._refused_until = "", 0.0
        self._testing = asyncio.Lock()
        # Whoever waits for Alertmanager holds a connection to PostgreSQL: one at a time, not the whole pool.
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        if self._file:
            self._tasks.append(asyncio.create_task(loops.repeat("notifications", self._interval, self.follow)))

    async def stop(self) -> None:
        await loops.stop(self._tasks)

    async def state(self) -> NotificationState:
        """Raises `errors.Unavailable` where notifications are not this service's business."""
        self._path()
        return NotificationState(**self._shown(_stored(await self._db.one(q.settings), {})))

    async def change(self, wish: NotificationWish, user_id: UUID) -> NotificationAnswer:
        """Returns once Alertmanager works by it. Raises `errors.Invalid` for a field, or where Alertmanager refuses it,
        `errors.Conflict` for a version that is not the newest, and `errors.Unavailable`; nothing is changed then. What
        a test comes to undoes nothing."""
        self._path()
        if not wish.test:
            return NotificationAnswer(**self._shown(await self._change(wish, user_id)))
        # Counters tell of tests that ran; two at once would be taken for each other.
        if self._testing.locked():
            raise errors.Conflict(TESTING)
        async with self._testing:
            stored = await self._change(wish, user_id)
            return NotificationAnswer(**self._shown(stored), tests=await self._test(stored))

    async def _change(self, wish: NotificationWish, user_id: UUID) -> Stored:
        if not wish.parts:
            return await read(self._db, self._vault)
        async with self._own_turn():
            return await self._put(wish, user_id)

    async def _test(self, stored: Stored) -> list[Trial]:
        tests = await trials.run(self._alertmanager, stored.settings.channels)
        outcomes = [trial.outcome for trial in tests]
        await audit.record(self._db, "notification_tested", object=("notifications", stored.version), outcomes=outcomes)
        return tests

    def _path(self) -> Path:
        if self._file is None or not self._alertmanager.configured:
            raise errors.Unavailable(OFF)
        return self._file

    def _shown(self, stored: Stored) -> dict[str, Any]:
        parts = {name: getattr(stored.settings, name) for name in Settings.__struct_fields__}
        return parts | {
            "version": stored.version, "updated_at": stored.updated_at, "updated_by": stored.updated_by,
            "in_force": self._in_force,
        }  # fmt: skip

    # changing

    @contextlib.asynccontextmanager
    async def _own_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise errors.Unavailable(BUSY, retry_after=5) from None
        try:
            yield
        finally:
            self._turn.release()

    async def _put(self, wish: NotificationWish, user_id: UUID) -> Stored:
        async with self._db.transaction() as tx:
            await tx.exec(q.make)
            former = _stored(await tx.one(q.hold), await self._kept(tx))
            if wish.version is not None and wish.version != former.version:
                raise errors.Conflict(STALE.format(former.version), version=former.version)
            settings, secrets = self._checked(wish, former)
            await self._check_names(settings, secrets, former)
            row = await tx.one(q.put, settings=Jsonb(msgspec.to_builtins(settings)), user_id=user_id)
            await sealed.put(tx, self._vault, "channel", None, _encode(secrets), name=PLACE)
            await audit.record(tx, "sensitive_update", object=("notifications", row["version"]), **_told(settings))
            await self._bring_in_force(settings, secrets, former.secrets)
        return _stored(row, secrets)

    async def _kept(self, tx: Statements) -> Secrets:
        """None of them where they cannot be opened: then they are asked for again."""
        try:
            return await _read_secrets(tx, self._vault)
        except Unopened:
            log.error("notifications.unopened")
            return {}

    def _checked(self, wish: NotificationWish, former: Stored) -> tuple[Settings, Secrets]:
        settings = msgspec.structs.replace(former.settings, **wish.parts)
        known = {channel.name: channel for channel in former.settings.channels}
        masked, secrets = [], Secrets()
        for i, channel in enumerate(settings.channels):
            kept = former.secrets.get(channel.name, {})
            shown, own = channels.part(channel, known.get(channel.name), kept, f"channels[{i}]")
            if isinstance(channel, Sms):
                own["receiver"] = kept.get("receiver") or crypto.new_secret()
            masked.append(shown)
            secrets[channel.name] = own
        settings = msgspec.structs.replace(settings, channels=masked)
        channels.check(settings, secrets, self._outbound.check)
        self._check_possible(settings)
        return settings, secrets

    async def _check_names(self, settings: Settings, secrets: Secrets, former: Stored) -> None:
        """Of new addresses only: a name that is lost meanwhile keeps nobody from changing something else."""
        known = set(channels.addresses(former.settings, former.secrets).values())
        now = channels.addresses(settings, secrets)
        await self._outbound.check_names({field: url for field, url in now.items() if url not in known})

    def _check_possible(self, settings: Settings) -> None:
        for i, channel in enumerate(settings.channels):
            if isinstance(channel, Email) and not self._around.smtp_host:
                raise errors.invalid(f"channels[{i}].kind", "needs the setting SMTP_HOST")
            if isinstance(channel, Sms) and not self._around.service_url:
                raise errors.invalid(f"channels[{i}].kind", "needs the setting ALERTMANAGER_SERVICE_URL or PUBLIC_URL")

    async def _bring_in_force(self, settings: Settings, secrets: Secrets, before: Secrets) -> None:
        path = self._path()
        templates = await asyncio.to_thread(read_templates)
        text = routing.render(settings, secrets, self._around, templates)
        await asyncio.to_thread(write, path, text, templates)
        try:
            await self._reload(routing.name_of(text), refusal="declined")
        except errors.Unavailable as e:
            await asyncio.to_thread(put_back, path)
            if isinstance(e, alertmanager.Refused):
                await self._read_former()
            raise _told_to_admin(e, before, secrets) from None
        await asyncio.to_thread(settle, path)

    async def _read_former(self) -> None:
        """Else Alertmanager goes on saying that it has refused a file, which is an alert, though nothing is amiss."""
        try:
            await self._alertmanager.reload()
        except errors.Unavailable as e:
            log.warning("notifications.former_not_read", extra={"error": e.message})

    async def _reload(self, name: str, *, refusal: str) -> None:
        """Raises `alertmanager.Refused` where it does not take the file, counted as `refusal`, `Elsewhere` where it
        works by another, else `errors.Unavailable`."""
        try:
            await self._tell()
            taken = await self._works_by(name)
        except alertmanager.Refused:
            metrics.notifications_reloads.labels(refusal).inc()
            raise
        except errors.Unavailable:
            self._in_force = None
            metrics.notifications_reloads.labels("unreachable").inc()
            raise
        metrics.notifications_reloads.labels("ok" if taken else "elsewhere").inc()
        self._in_force = taken
        if not taken:
            raise Elsewhere(ELSEWHERE)
        self._refused = ""

    async def _tell(self) -> None:
        try:
            await self._alertmanager.reload()
        except alertmanager.Refused as e:
            # Something between may answer in its place; only this status is a word about the file.
            if e.status != 500:
                raise errors.Unavailable(e.message) from e
            raise

    async def _works_by(self, name: str) -> bool:
        try:
            return name in await self._alertmanager.receivers()
        except alertmanager.Refused as e:
            raise errors.Unavailable(e.message) from e

    # following

    async def follow(self) -> None:
        """One round: the file and Alertmanager are brought to what the database says, unless somebody changes it just
        now. Raises `errors.Unavailable`."""
        path = self._path()
        try:
            async with self._turn, self._db.transaction() as tx:
                await tx.exec(q.make)
                row = await tx.maybe(q.hold_free)
                if row is None:
                    return
                await self._follow(path, _stored(row, await _read_secrets(tx, self._vault)))
        except Exception:
            self._in_force = None
            raise
        await self._db.exec(q.forget_texts)

    async def _follow(self, path: Path, stored: Stored) -> None:
        templates = await asyncio.to_thread(read_templates)
        text = routing.render(stored.settings, stored.secrets, self._around, templates)
        name = routing.name_of(text)
        if name == self._refused and time.monotonic() < self._refused_until:
            self._in_force = await self._works_by(name)
        elif stored.version == 0 and await asyncio.to_thread(tells_somebody, path):
            self._in_force = False
            metrics.notifications_reloads.labels("withheld").inc()
            log.error("notifications.withheld", extra={"file": str(path)})
        else:
            await asyncio.to_thread(write, path, text, templates)
            try:
                self._in_force = await self._works_by(name)
                if not self._in_force:
                    await self._bring_back(path, name, stored.secrets)
            finally:
                await asyncio.to_thread(settle, path)

    async def _bring_back(self, path: Path, name: str, secrets: Secrets) -> None:
        """A reload begins all waits of Alertmanager's anew, so what it does not take is not tried in each round."""
        try:
            await self._reload(name, refusal="refused")
        except alertmanager.Refused as e:
            await asyncio.to_thread(put_back, path)
            self._refused, self._refused_until = name, time.monotonic() + REFUSED_SECONDS
            log.error("notifications.refused", extra={"said": scrub(e.said, secrets)})
        except Elsewhere:
            self._refused, self._refused_until = name, time.monotonic() + REFUSED_SECONDS
            log.error("notifications.elsewhere", extra={"file": str(path)})


def _told_to_admin(e: errors.Unavailable, before: Secrets, secrets: Secrets) -> errors.Error:
    if not isinstance(e, alertmanager.Refused):
        return errors.Unavailable(AWAY.format(e.message), retry_after=5)
    if _DENIED.search(e.said):
        return errors.Unavailable(UNREADABLE)
    return errors.Invalid(REFUSED.format(scrub(e.said, before, secrets)))


def _told(settings: Settings) -> dict[str, Any]:
    """What the audit trail says of a change."""
    kinds = [channels.kind_of(channel) for channel in settings.channels]
    return {"kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))}, "routes": len(settings.routes)}


def scrub(said: str, *secrets: Secrets) -> str:
    """Words of Alertmanager's without secrets, or the beginnings of any that are cut off."""
    for secret in {text for each in secrets for channel in each.values() for text in channel.values()}:
        parts = urlsplit(secret) if "://" in secret else None
        telling = secret.split(parts.netloc, 1)[1].lstrip("/") if parts and parts.netloc else secret
        for length in range(len(telling), TELLING - 1, -1):
            said = said.replace(telling[:length], channels.MASK)
    return said
