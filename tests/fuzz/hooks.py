"""What schemathesis is told about this API: how to sign in, what is there, and what no schema can say.

It runs inside schemathesis' process and knows the service by `FUZZ` in its environment, see `api.Who`.
"""

import json
import os
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import requests
import schemathesis
from schemathesis import GenerationMode

WHO: dict[str, Any] = json.loads(os.environ["FUZZ"])
# What ends the session it is asked with; each gets one of its own.
ENDS_ITS_SESSION = ("/api/v1/auth/logout", "/api/v1/auth/change-password", "/api/v1/auth/sessions/{id}")
KNOWN_ONE_IN = 3
# Parameters of paths that are no ids, with values that are known.
NAMES = {
    "name": ("swagger-ui.css",),
    "policy": ("api", "login"),
    "metric_name": (
        "ytdl_queue_jobs",
        "ytdl_http_errors_total",
        "ytdl_loop_lag_seconds",
        "queue_length",
        "error_ratio",
    ),
}
VIDEO = "https://www.youtube.com/watch?v="
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
COOKIES = "# Netscape HTTP Cookie File\n" + "".join(
    f".youtube.com\tTRUE\t/\tTRUE\t4102444800\t{name}\tx\n" for name in ("SID", "LOGIN_INFO", "SAPISID")
)
CURSOR = "20260131T120000000000-" + "0" * 32
NEW_PASSWORD = "Battery-staple-7"
_session = requests.Session()
_lock = threading.Lock()
_shared: list[str] = []
_tickets: set[str] = set()


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def _video() -> str:
    return VIDEO + "".join(random.choices(CHARACTERS, k=11))


def _line(text: Any) -> str:
    """Of the same length, without what is not to be seen."""
    shown = "".join(c if c.isprintable() else "x" for c in str(text))
    return shown if shown.strip() == shown else "x" * len(shown)


WINDOW: dict[str, Callable[[Any], Any]] = {"from": lambda _: _days_ago(9), "to": lambda _: _days_ago(2)}
# Labels are known by metric.
COURSE = WINDOW | {"by": lambda _: None, "where": lambda _: None, "step": lambda _: 86_400}

# Makes a value that the document allows one that is allowed: these rules are longer than a schema can say. None leaves
# it out.
FITTING: dict[str, dict[str, Callable[[Any], Any]]] = {
    "POST /api/v1/downloads": {"url": lambda _: _video()},
    "POST /api/v1/auth/register": {"password": lambda _: NEW_PASSWORD, "full_name": _line},
    "PUT /api/v1/auth/profile": {"full_name": _line},
    "PUT /api/v1/auth/users/{id}": {"full_name": _line},
    "POST /api/v1/auth/api-keys": {"name": _line},
    "POST /api/v1/security/blocks": {"network": lambda _: f"192.0.2.{random.randrange(256)}", "reason": _line},
    "GET /api/v1/security/blocks": {"ip": lambda _: "192.0.2.1"},
    "PUT /api/v1/cookies": {"cookies": lambda _: COOKIES},
    "GET /api/v1/monitoring/metrics/{metric_name}": COURSE,
    "GET /api/v1/monitoring/metrics/{metric_name}/stats": COURSE,
    "POST /api/v1/monitoring/thresholds/{metric_name}": {"warning": lambda _: 0.5, "critical": lambda _: 0.75},
    "POST /api/v1/monitoring/report": WINDOW,
    "GET /api/v1/monitoring/alerts": {"cursor": lambda _: None},
    "GET /api/v1/monitoring/alerts/stats": WINDOW,
    "POST /api/v1/monitoring/alerts/acknowledge": {"comment": lambda text: _line(text) or "x"},
    **{
        row: WINDOW | {"ip": lambda _: "192.0.2.1", "cursor": lambda _: CURSOR}
        for row in ("GET /api/v1/security/events", "GET /api/v1/security/stats", "POST /api/v1/security/report")
    },
}


@schemathesis.auth(refresh_interval=None)
class SignIn:
    """A live token with each request, however many sessions were ended on the way."""

    def get(self, case: Any, context: Any) -> str:
        if case.operation.path in ENDS_ITS_SESSION:
            return _token()
        with _lock:
            if not _shared:
                _shared.append(_token())
            return _shared[0]

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


def _token() -> str:
    answer = _session.post(
        f"{WHO['url']}/api/v1/auth/login",
        json={"username": WHO["username"], "password": WHO["password"]},
        timeout=10,
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """A token that was refused is not used again, and a ticket that was given is known."""
    sent = (response.request.headers.get("Authorization") or "").removeprefix("Bearer ")
    with _lock:
        if response.status_code == 401 and sent in _shared:
            _shared.clear()
    if case.operation.path == "/api/v1/auth/ticket" and response.status_code == 200:
        _tickets.add(response.json()["ticket"])


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Now and then something that is there: what is made up never is."""
    if not path_parameters or random.randrange(KNOWN_ONE_IN):
        return path_parameters
    ids = WHO["finished"] if context.operation.path.endswith("/file") else WHO["ids"]
    known = {"id": ids, **NAMES}
    return {name: random.choice(known[name]) if name in known else value for name, value in path_parameters.items()}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Makes valid requests valid, and keeps what the others need from being changed or deleted."""
    if case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE:
        fitting = FITTING.get(f"{case.method.upper()} {case.operation.path}", {})
        case.body, case.query = _fit(fitting, case.body), _fit(fitting, case.query)
        if "Idempotency-Key" in (case.headers or {}):
            # A key is good for one body.
            case.headers = {**case.headers, "Idempotency-Key": str(uuid4())}
    if (case.query or {}).get("ticket") in _tickets:
        # It was learnt from an answer; what schemathesis makes up itself it expects to be refused.
        case.query = {**case.query, "ticket": "made-up"}
    if case.method.upper() in ("PUT", "DELETE") and (case.path_parameters or {}).get("id") in WHO["kept"]:
        case.path_parameters = {**case.path_parameters, "id": str(uuid4())}


def _fit(fitting: dict[str, Callable[[Any], Any]], value: Any) -> Any:
    if isinstance(value, dict):
        fit = {k: fitting[k](v) if k in fitting and v is not None else _fit({}, v) for k, v in value.items()}
        return {k: v for k, v in fit.items() if v is not None or value[k] is None}
    if isinstance(value, list):
        return [_fit({}, inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        # JSON Schema takes 5.0 for an integer; the service does not, as few that read into types do.
        return int(value)
    # NUL is no character of any text here; saying so would take a pattern on every field.
    return value.replace("\0", "x") if isinstance(value, str) else value
