"""The audit trail: who did what, on what, from where, with what result. Written once, never changed.

`await record(db, "authn_password_change", object=("user", id))` writes an event, its log line and its count; give it
the transaction of the change where there is one, and both are there or neither. Who asks, from where and in which
request is taken from the context. Names are those of OWASP's logging vocabulary where it has one.
"""

import logging
import re
from typing import Any, Literal
from uuid import UUID

import msgspec
import uuid_utils.compat as uuid
from psycopg.types.json import Jsonb

from ytdl import log as lines
from ytdl import metrics, sql
from ytdl.db import Statements

log = logging.getLogger("ytdl.audit")
q = sql.load("audit")

Severity = Literal["info", "warning", "critical"]
Result = Literal["ok", "failed", "denied"]
# What is recorded, and how bad it is. A name that is not here is a mistake of ours.
TYPES: dict[str, Severity] = {
    "authn_login_success": "info",
    "authn_login_fail": "warning",
    "authn_login_lock": "warning",
    "authn_password_change": "info",
    "authn_password_change_fail": "warning",
    "authn_token_created": "info",
    "authn_token_revoked": "info",
    "authn_token_reuse": "critical",
    "authz_fail": "warning",
    "excess_rate_limit_exceeded": "warning",
    "malicious_excess_404": "warning",
    "privilege_permissions_changed": "warning",
    "sensitive_create": "info",
    "sensitive_read": "info",
    "sensitive_update": "info",
    "sensitive_delete": "info",
    "user_created": "info",
    "user_updated": "info",
    "user_deleted": "warning",
    "user_unlocked": "info",
    "network_blocked": "warning",
    "network_block_lifted": "info",
    "alert_acknowledged": "info",
    "alert_acknowledgement_ended": "info",
    "secret_rotated": "info",
    "notification_tested": "info",
    "sys_startup": "info",
    "sys_shutdown": "info",
}
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
# A detail is a few facts; levels are those of objects and lists in it.
DETAIL_BYTES = 2048
DETAIL_DEPTH = 3
OBJECT_LENGTH = 200
# Control characters, marks that turn the direction of text or have no width, and halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
for _type in TYPES:
    metrics.audit_events.labels(_type)


async def record(
    db: Statements,
    type: str,
    *,
    result: Result = "ok",
    user_id: UUID | None = None,
    object: tuple[str, object] | None = None,
    ip: str | None = None,
    **detail: Any,
) -> None:
    """Writes one event of a type in `TYPES`; `user_id` and `ip` are given only where the context does not have them.

    `detail` holds small facts. What sounds or looks like a secret is left out of it, as of the log.
    Raises `errors.Unavailable`, and for a fault of the caller's `KeyError` (an unknown type) or `ValueError` (a detail
    or object that is too large, one that is too deep, or one with a name that log records use).
    """
    severity = TYPES[type]
    who = user_id or lines.user_id.get()
    kind, name = (object[0], _name(object[1])) if object else (None, None)
    from_ = ip or lines.client_ip.get()
    facts = _facts(detail)
    await db.exec(
        q.insert, id=uuid.uuid7(), type=type, severity=severity, result=result, user_id=who,
        credential_id=lines.credential_id.get(), object_kind=kind, object_id=name,
        ip=from_, request_id=lines.request_id.get(), detail=Jsonb(facts),
    )  # fmt: skip
    told = {"user_id": str(who) if who else None, "object": f"{kind} {name}" if kind else None, "ip": from_}
    db.on_commit(lambda: _tell(type, severity, facts | {"result": result} | {k: v for k, v in told.items() if v}))


def _name(id: object) -> str | None:
    if id is None:
        return None
    name = _seen(lines.redact(str(id)))
    if len(name) > OBJECT_LENGTH:
        raise ValueError(f"the object's name is longer than {OBJECT_LENGTH} characters")
    return name


def _facts(detail: dict[str, Any]) -> dict[str, Any]:
    if wrong := detail.keys() & lines.STANDARD:
        raise ValueError(f"a detail cannot be called {min(wrong)}")
    facts: dict[str, Any] = _plain(lines.safe("detail", detail), DETAIL_DEPTH)
    if len(msgspec.json.encode(facts)) > DETAIL_BYTES:
        raise ValueError(f"the detail is larger than {DETAIL_BYTES} bytes")
    return facts


def _plain(value: Any, depth: int) -> Any:
    """JSON that people and PostgreSQL can read; `depth` is how many levels may follow."""
    if depth < 0:
        raise ValueError(f"the detail is nested deeper than {DETAIL_DEPTH} levels")
    if isinstance(value, dict):
        return {_seen(key): _plain(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth - 1) for inner in value]
    return value if value is None or isinstance(value, int | float) else _seen(str(value))


def _seen(text: str) -> str:
    """What could hide other text, or cannot be stored, as the sign for a character that is none."""
    return _UNSEEN.sub("\ufffd", text)


def _tell(type: str, severity: str, fields: dict[str, Any]) -> None:
    metrics.audit_events.labels(type).inc()
    log.log(_LEVELS[severity], type, extra=fields)
