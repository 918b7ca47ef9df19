"""Alertmanager, over version 2 of its API: alerts, silences, its state, and reading its configuration anew.

The address is the operator's, so it may be an inner one. Answers are bounded in time and size, redirects are not
followed. Nothing is kept: Alertmanager is asked each time. What an alert means to people is the features' business.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import aiohttp
import msgspec

from ytdl import errors, metrics

T = TypeVar("T")
# One without a time zone is of no moment.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
TIMEOUT_SECONDS = 5.0
# Some 4,000 alerts; as much is read into objects in some five milliseconds.
MOST_BYTES = 2**22
# Of what it says in a refusal.
MOST_WORDS = 300
CONNECTIONS = 4
OFF = "Alerts are switched off here: ALERTMANAGER_URL is not set."
AWAY = "Alertmanager cannot be reached; look at ALERTMANAGER_URL."
SLOW = f"Alertmanager did not answer within {TIMEOUT_SECONDS:g} seconds; look at ALERTMANAGER_URL."
ODD = "What answers at ALERTMANAGER_URL is no Alertmanager, or one that is not understood."
LARGE = f"Alertmanager has more to say than {MOST_BYTES // 2**20} MiB, which is not read."
_SILENCE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_encode = msgspec.json.Encoder().encode


class Refused(errors.Unavailable):
    """It answered that it will not. `said` are its own words, cut short; they may tell of its configuration."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"Alertmanager refused what it was asked, with status {status}; its log may say more.")
        self.status = status
        self.said = said


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """`state` of an alert: unprocessed is one that has just come."""

    state: Literal["active", "suppressed", "unprocessed"] = "active"
    silenced_by: list[str] = []
    inhibited_by: list[str] = []


class Receiver(msgspec.Struct, frozen=True):
    name: str


class Alert(msgspec.Struct, frozen=True, rename="camel"):
    """An alert as Alertmanager has it; `fingerprint` stands for its labels. `ends_at` is when it ends unless it comes
    again."""

    fingerprint: str
    labels: dict[str, str]
    starts_at: Moment
    ends_at: Moment
    status: Status = Status()
    annotations: dict[str, str] = {}
    receivers: list[Receiver] = []
    generator_url: str = msgspec.field(name="generatorURL", default="")


class Matcher(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


class SilenceStatus(msgspec.Struct, frozen=True):
    state: Literal["active", "pending", "expired"]


class Silence(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    matchers: list[Matcher]
    starts_at: Moment
    ends_at: Moment
    created_by: str
    comment: str
    status: SilenceStatus

    @property
    def only_labels(self) -> dict[str, str] | None:
        """The labels that it asks for, where it asks for whole values and for nothing else."""
        plain = all(m.is_equal and not m.is_regex for m in self.matchers)
        return {m.name: m.value for m in self.matchers} if plain else None


class State(msgspec.Struct, frozen=True):
    """`uptime` is when it was started, for so it calls that."""

    uptime: Moment


class _Created(msgspec.Struct):
    silenceID: str


_ALERTS = msgspec.json.Decoder(list[Alert])
_SILENCE = msgspec.json.Decoder(Silence)
_SILENCES = msgspec.json.Decoder(list[Silence])
_STATE = msgspec.json.Decoder(State)
_RECEIVERS = msgspec.json.Decoder(list[Receiver])
_CREATED = msgspec.json.Decoder(_Created)


def equals(name: str, value: str) -> str:
    """A filter for alerts and silences, whatever stands in the value."""
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{text}"'


class Alertmanager:
    """Every method raises `errors.Unavailable`: `Refused` where Alertmanager said no, otherwise where there is none,
    it cannot be reached, is slow or says too much. Close it at the end."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def configured(self) -> bool:
        return bool(self._url)

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def ready(self) -> None:
        """Returns when it can work."""
        await self._ask("GET", "/-/ready")

    async def reload(self) -> None:
        """Has it read its configuration anew. Where that is wrong it goes on with the former, and `Refused.said` is
        why."""
        await self._ask("POST", "/-/reload")

    async def status(self) -> State:
        return _read(_STATE, await self._ask("GET", "/api/v2/status"))

    async def alerts(self, filters: Sequence[str] = ()) -> list[Alert]:
        """Those that have not ended, silenced and inhibited ones too. All `filters` have to be met,
        matchers as `equals` makes them."""
        query = [("filter", text) for text in filters]
        return _read(_ALERTS, await self._ask("GET", "/api/v2/alerts", query=query))

    async def receivers(self) -> list[str]:
        """The names of those in the configuration that is in force."""
        return [receiver.name for receiver in _read(_RECEIVERS, await self._ask("GET", "/api/v2/receivers"))]

    async def figures(self) -> str:
        """Its own metrics, as the text that Prometheus reads."""
        return (await self._ask("GET", "/metrics")).decode(errors="replace")

    async def post_alerts(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Each is `labels`, and what is known of `annotations`, `startsAt`, `endsAt` and `generatorURL`."""
        await self._ask("POST", "/api/v2/alerts", body=alerts)

    async def silences(self, filters: Sequence[str] = ()) -> list[Silence]:
        """Those of the last days too, which have ended."""
        query = [("filter", text) for text in filters]
        return _read(_SILENCES, await self._ask("GET", "/api/v2/silences", query=query))

    async def silence(self, id: str) -> Silence | None:
        """One, also when it has ended; None where it is not known, or not any more."""
        if not _SILENCE_ID.fullmatch(id):
            return None
        try:
            return _read(_SILENCE, await self._ask("GET", f"/api/v2/silence/{id}"))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def create_silence(
        self, matchers: Sequence[Matcher], *, starts_at: datetime, ends_at: datetime, author: str, comment: str
    ) -> str:
        """Its id. A time that has begun already is taken for now."""
        body = {
            "matchers": matchers, "startsAt": starts_at, "endsAt": ends_at, "createdBy": author, "comment": comment,
        }  # fmt: skip
        return _read(_CREATED, await self._ask("POST", "/api/v2/silences", body=body)).silenceID

    async def expire_silence(self, id: str) -> bool:
        """Ends one; False where it is not known."""
        if not _SILENCE_ID.fullmatch(id):
            return False
        try:
            await self._ask("DELETE", f"/api/v2/silence/{id}")
        except Refused as refused:
            # Version 0.25 says 500 to what is not found, later ones 404.
            if refused.status == 404 or "not found" in refused.said:
                return False
            raise
        return True

    async def _ask(self, method: str, path: str, *, query: Sequence[tuple[str, str]] = (), body: Any = None) -> bytes:
        if not self._url:
            raise errors.Unavailable(OFF)
        try:
            answer = await self._exchange(method, path, query, body)
        except Refused:
            _count("refused")
            raise
        except TimeoutError:
            _count("timeout")
            raise errors.Unavailable(SLOW) from None
        except (aiohttp.ClientError, OSError, ValueError) as e:
            _count("unreachable")
            raise errors.Unavailable(AWAY) from e
        _count("ok")
        return answer

    async def _exchange(self, method: str, path: str, query: Sequence[tuple[str, str]], body: Any) -> bytes:
        data = None if body is None else _encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            self._client().request(
                method, self._url + path, params=query, data=data, headers=headers, allow_redirects=False
            ) as answer,
        ):
            answered = await _content(answer)
        if answer.status >= 300:
            raise Refused(answer.status, _words(answered))
        return answered

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A connection that is kept would break with each restart, and there are few requests.
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    content = b""
    while some := await answer.content.read(MOST_BYTES + 1 - len(content)):
        content += some
        if len(content) > MOST_BYTES:
            _count("refused")
            raise errors.Unavailable(LARGE)
    return content


def _words(answered: bytes) -> str:
    """What a refusal says: it is a JSON text, an object with a message, or plain."""
    try:
        found = msgspec.json.decode(answered)
    except (ValueError, RecursionError):
        found = answered.decode(errors="replace")
    if isinstance(found, dict):
        found = found.get("message", "")
    return " ".join(str(found).split())[:MOST_WORDS]


def _read(decoder: "msgspec.json.Decoder[T]", answered: bytes) -> T:
    try:
        return decoder.decode(answered)
    except (ValueError, RecursionError):
        raise errors.Unavailable(ODD) from None


def _count(outcome: str) -> None:
    metrics.monitoring_requests.labels("alertmanager", outcome).inc()
