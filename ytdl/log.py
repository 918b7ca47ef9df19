"""Log lines as JSON, one object a line, with the request, user and download at hand.

The ids come from context variables, so code that logs need not carry them. What a client sent can only end up
inside a JSON string, so it cannot forge a line; values under a name that sounds secret are replaced.
"""

import contextvars
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
user_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("user_id", default=None)
download_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("download_id", default=None)

_SECRET_NAME = re.compile(r"password|secret|token|authorization|cookie|ticket|api_key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?i)(bearer\s+|[?&](?:ticket|token|access_token)=)[^\s&\"']+")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """Takes bearer tokens and ticket parameters out of a text."""
    return _SECRET_TEXT.sub(r"\1***", text)


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        ids = {"request_id": request_id.get(), "user_id": user_id.get(), "download_id": download_id.get()}
        line |= {name: value for name, value in ids.items() if value is not None}
        line |= {k: _safe(k, v) for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


def _safe(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return "***"
    return redact(value) if isinstance(value, str) else value


def set_up(level: str, stream: TextIO = sys.stderr) -> None:
    """Sends every logger of the process to `stream`; called once, by the command line."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its access lines would double ours, without the ids.
    logging.getLogger("aiohttp.access").disabled = True
