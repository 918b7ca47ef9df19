"""Log lines as JSON, one object a line, with the request, user and download at hand.

The ids come from context variables, so code that logs need not carry them. What a client sent can only end up
inside a JSON string, so it cannot forge a line; values under a name that sounds secret are replaced.
"""

import contextlib
import contextvars
import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, TextIO
from uuid import UUID

import msgspec

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
user_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("user_id", default=None)
# The session or API key of who asks, and the address nearest to the client that can be believed.
credential_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("credential_id", default=None)
client_ip: contextvars.ContextVar[str | None] = contextvars.ContextVar("client_ip", default=None)
download_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("download_id", default=None)
# Of the trace that is told to a collector, if one is.
trace_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("trace_id", default=None)

_SECRET_NAME = re.compile(r"password|secret|token|authorization|cookie|ticket|api_key", re.IGNORECASE)
# What gives a secret away in a text: the word before it, the place in an address, or the form of what we make.
_SECRET_TEXT = re.compile(
    r"(?i:(\bbearer\s+|\bbasic\s+(?-i:(?=[A-Za-z0-9+/]{8})(?=\S*[0-9A-Z=]))"
    r"|[?&](?:ticket|(?:access_|refresh_)?token|api_key|password|secret)=))"
    r"[^\s&\"'<>]+"
    r"|(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"']*:)[^\s/\"']+(?=@)"  # the password in an address
    r"|(\bytdl_)[0-9A-Za-z]{38}\b"  # an API key
    r"|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"  # an access token, whole or cut
    # A refresh token or a ticket: 43 characters of base64, and no word or hash, for those do not mix their cases.
    r"|(?<![\w-])(?=[\w-]{0,42}[a-z])(?=[\w-]{0,42}[A-Z])[\w-]{43}(?![\w-])",
    re.ASCII,
)
# What a record of logging has of its own; no field may be called so.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_stream: TextIO | None = None


def redact(text: str) -> str:
    """Takes tokens, tickets, API keys and the passwords of addresses out of a text."""
    return _SECRET_TEXT.sub(r"\1\2\3***", text)


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _head(record.created, record.levelname.lower(), record.name, redact(record.getMessage()))
        line |= {k: safe(k, v) for k, v in vars(record).items() if k not in STANDARD}
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


def _head(created: float, level: str, logger: str, event: str) -> dict[str, Any]:
    """What every line begins with; `created` is in seconds since 1970."""
    moment = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {"time": moment[:-6] + "Z", "level": level, "logger": logger, "event": event}
    ids = (("request_id", request_id), ("user_id", user_id), ("download_id", download_id), ("trace_id", trace_id))
    return line | {name: value for name, id in ids if (value := id.get()) is not None}


def write(logger: logging.Logger, event: str, **fields: Any) -> None:
    """One line at level INFO for a place that writes thousands a second: a fifth of what a record costs.

    Nothing is redacted, so `fields` must hold nothing that a client could choose freely.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if _stream is None:
        logger.info(event, extra=fields)
        return
    line = _head(time.time(), "info", logger.name, event) | fields
    # As with logging's own handlers, a log that cannot be written takes nothing else with it.
    with contextlib.suppress(OSError, ValueError):
        _stream.write(msgspec.json.encode(line).decode() + "\n")


def safe(name: str, value: Any) -> Any:
    """A field as it may be written, also deep inside: nothing under a secret's name but a number, no secret in a text.

    What JSON has no form for becomes its text.
    """
    if value is None or isinstance(value, int | float):
        return value
    if _SECRET_NAME.search(name):
        return "***"
    if isinstance(value, Mapping):
        return {str(key): safe(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [safe(name, inner) for inner in value]
    return value if isinstance(value, UUID | date) else redact(str(value))


def set_up(level: str, stream: TextIO = sys.stderr) -> None:
    """Sends every logger of the process to `stream`; called once, by the command line."""
    global _stream  # noqa: PLW0603
    _stream = stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its access lines would double ours, without the ids.
    logging.getLogger("aiohttp.access").disabled = True
