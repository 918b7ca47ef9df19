"""Prometheus' HTTP API: a question in its language, the answer as series. Whose question it is, is `monitoring`'s.

The server is the operator's, so any address may be it. Time, size and the number of questions at once have an end:
Prometheus is told to stop as well, and what it would say beyond the bound is not read. A text that somebody chose goes
into an expression only through `quoted`.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import aiohttp
import msgspec

from ytdl import errors, metrics

log = logging.getLogger("ytdl.prometheus")
ANSWER_SECONDS = 5.0
# How long a question waits for one of the places to come free.
TURN_SECONDS = 5.0
AT_ONCE = 4
MAX_ANSWER_BYTES = 8 * 2**20
MAX_SERIES = 100
MAX_POINTS = 1000
NOT_SET = "This needs Prometheus; set PROMETHEUS_URL to its address."
BUSY = "Too many ask Prometheus just now; try again in a moment."
NOT_ONE = "What is at PROMETHEUS_URL does not answer like Prometheus."
# What Prometheus answers where an expression cannot be worked out, as for too many samples.
UNPROCESSABLE = 422
# An answer of series begins with what both of these are in; one that is cut short is told by them.
HEAD_BYTES = 1024
OF_SERIES = (b'"success"', b'"resultType"')


class TooMuch(Exception):
    """The answer would be larger than is read; the sentence says what would make it smaller."""


class TooLong(TooMuch):
    """More than Prometheus works out at once, however few series it comes to."""


class Series(msgspec.Struct, frozen=True):
    """`points` are pairs of a time in seconds and a value, which may be NaN or infinite; one for a single moment."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class _Raw(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct):
    # Asked for are expressions of series only, so there are no scalars.
    result: list[_Raw]


class _Answer(msgspec.Struct):
    data: _Data


class _Build(msgspec.Struct):
    version: str


class _BuildAnswer(msgspec.Struct):
    data: _Build


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes


_answer = msgspec.json.Decoder(_Answer)
_build = msgspec.json.Decoder(_BuildAnswer)


def quoted(text: str) -> str:
    """A text as PromQL's string, whatever is in it."""
    return msgspec.json.encode(text).decode()


class Prometheus:
    """`url` is empty where there is none: then every question raises `errors.Unavailable`, which names the setting."""

    def __init__(self, url: str) -> None:
        self.configured = bool(url)
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def version(self) -> str:
        """Raises `errors.Unavailable`. Waits for nobody's turn, so that a check of health tells of Prometheus only."""
        try:
            reply = await self._ask("GET", "/api/v1/status/buildinfo", {})
        except TooMuch:
            raise errors.Unavailable(NOT_ONE) from None
        return str(_decoded(reply.body, _build).data.version)

    async def query(self, expression: str, at: datetime, *, most: int = MAX_SERIES) -> list[Series]:
        """What the expression comes to at a moment; `most` series at most.

        Raises `errors.Unavailable`, `TooMuch` and `TooLong`.
        """
        return await self._series("/api/v1/query", {"query": expression, "time": _time(at)}, most)

    async def query_range(self, expression: str, since: datetime, until: datetime, step: float) -> list[Series]:
        """The same at every `step` seconds from one moment to another; the caller sees to there being 1,000 at most."""
        wanted = {"query": expression, "start": _time(since), "end": _time(until), "step": f"{step:g}"}
        return await self._series("/api/v1/query_range", wanted, MAX_SERIES)

    async def _series(self, path: str, wanted: dict[str, str], most: int) -> list[Series]:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise errors.Unavailable(BUSY, retry_after=5) from None
        try:
            reply = await self._ask("POST", path, wanted | {"timeout": f"{ANSWER_SECONDS:g}s"})
            # Some megabytes take longer than the loop should wait for.
            return await asyncio.to_thread(_read, reply.body, most)
        finally:
            self._turns.release()

    async def _ask(self, method: Literal["GET", "POST"], path: str, wanted: dict[str, str]) -> _Reply:
        if not self.configured:
            raise errors.Unavailable(NOT_SET)
        # Of one that was given up by whoever asked nothing is known.
        outcome = ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await self._request(method, path, wanted)
            # A page that some other server has there is no answer.
            outcome = "ok" if reply.status == 200 and reply.body.startswith(b"{") else "refused"
        except TimeoutError:
            outcome = "timeout"
            log.warning("prometheus.slow", extra={"seconds": ANSWER_SECONDS})
            raise errors.Unavailable(
                f"Prometheus did not answer within {ANSWER_SECONDS:g} seconds.", retry_after=5
            ) from None
        except (TooMuch, errors.Unavailable):
            outcome = "refused"
            raise
        except (aiohttp.ClientError, OSError, ValueError) as e:
            outcome = "unreachable"
            log.warning("prometheus.unreachable", extra={"error": type(e).__name__})
            raise errors.Unavailable(
                "Prometheus cannot be reached just now; PROMETHEUS_URL says where it is looked for.", retry_after=5
            ) from e
        finally:
            if outcome:
                metrics.monitoring_requests.labels("prometheus", outcome).inc()
        return _accepted(reply)

    async def _request(self, method: str, path: str, wanted: dict[str, str]) -> _Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        data = wanted or None
        async with self._session.request(method, self._url + path, data=data, allow_redirects=False) as response:
            return _Reply(response.status, await _bounded(response.content))


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise _too_many_bytes(b"".join(parts)[:HEAD_BYTES])
    return b"".join(parts)


def _too_many_bytes(head: bytes) -> Exception:
    """Only series can be asked for fewer of."""
    if all(mark in head for mark in OF_SERIES):
        return TooMuch(f"is more than {MAX_ANSWER_BYTES // 2**20} MiB of series; ask for fewer of them")
    return errors.Unavailable(NOT_ONE)


def _accepted(reply: _Reply) -> _Reply:
    if reply.status == 200:
        return reply
    said = reply.body[:500].decode(errors="replace")
    log.warning("prometheus.refused", extra={"status": reply.status, "answer": said})
    if reply.status == UNPROCESSABLE:
        raise TooLong("is more than Prometheus works out at once; ask for a shorter time")
    # 503 is an expression that took longer than it was told, or was stopped.
    if reply.status == 503:
        raise errors.Unavailable(f"Prometheus needs longer than {ANSWER_SECONDS:g} seconds for this.", retry_after=5)
    raise errors.Unavailable(f"Prometheus answers with status {reply.status}; is PROMETHEUS_URL its address?")


def _decoded(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise errors.Unavailable(NOT_ONE) from None


def _read(body: bytes, most: int) -> list[Series]:
    found = _decoded(body, _answer).data.result
    if len(found) > most:
        raise TooMuch(f"is {len(found)} series, and {most} at most are read; ask for fewer of them")
    try:
        return [Series(raw.metric, [(at, float(text)) for at, text in _points(raw)]) for raw in found]
    except ValueError:
        raise errors.Unavailable(NOT_ONE) from None


def _points(raw: _Raw) -> list[tuple[float, str]]:
    points = raw.values if raw.value is None else [raw.value]
    if not points:
        raise ValueError("A series without a value.")
    return points


def _time(at: datetime) -> str:
    return f"{at.timestamp():.3f}"
