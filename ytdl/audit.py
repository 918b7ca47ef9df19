"""The audit trail: who did what, on what, from where, with what result. Written once, never changed.

`await record(db, "authn_password_change", object=("user", id))` writes an event, its log line and its count; give it
the transaction of the change where there is one, and both are there or neither. Who asks, from where and in which
request is taken from the context. Names are those of OWASP's logging vocabulary where it has one.
"""

import logging
from typing import Any, Literal
from uuid import UUID

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
    "authz_admin": "info",
    "excess_rate_limit_exceeded": "warning",
    "malicious_excess_404": "warning",
    "malicious_direct_reference": "warning",
    "privilege_permissions_changed": "warning",
    "sensitive_create": "info",
    "sensitive_read": "info",
    "sensitive_update": "info",
    "sensitive_delete": "info",
    "session_created": "info",
    "user_created": "info",
    "user_updated": "info",
    "user_deleted": "warning",
    "user_unlocked": "info",
    "network_blocked": "warning",
    "network_block_lifted": "info",
    "secret_rotated": "info",
    "sys_startup": "info",
    "sys_shutdown": "info",
}
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

    `detail` holds small facts, never a secret and never what a client may choose freely without bounds.
    Raises `KeyError` for an unknown type and `errors.Unavailable`.
    """
    severity = TYPES[type]
    who = user_id or lines.user_id.get()
    kind, id = object or (None, None)
    await db.exec(
        q.insert, id=uuid.uuid7(), type=type, severity=severity, result=result, user_id=who,
        credential_id=lines.credential_id.get(), object_kind=kind, object_id=None if id is None else str(id),
        ip=ip or lines.client_ip.get(), request_id=lines.request_id.get(), detail=Jsonb(detail),
    )  # fmt: skip
    db.on_commit(lambda: _tell(type, severity, result, who, kind, id, detail))


def _tell(
    type: str, severity: str, result: str, who: Any, kind: str | None, id: object, detail: dict[str, Any]
) -> None:
    metrics.audit_events.labels(type).inc()
    told = {"user_id": str(who)} if who else {}
    what = {"object": f"{kind} {id}"} if kind else {}
    level = logging.INFO if severity == "info" else logging.WARNING
    ip = lines.client_ip.get()
    log.log(level, type, extra={**detail, "result": result, **told, **what, **({"ip": ip} if ip else {})})
