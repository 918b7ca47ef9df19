"""The adapter of Prometheus' API against servers that are slow, talk too much, refuse, or are something else."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from ytdl import errors, metrics
from ytdl import prometheus as adapter
from ytdl.prometheus import AT_ONCE, MAX_ANSWER_BYTES, NOT_ONE, Prometheus, TooLong, TooMuch, quoted

NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def asking(handler: Handler, *, user: str = "") -> AsyncIterator[Prometheus]:
    """The adapter, and a server that answers every request so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    prometheus = Prometheus(f"http://{user}{host}:{port}/")
    try:
        yield prometheus
    finally:
        await prometheus.close()
        await runner.cleanup()


def saying(code: int, **answer: Any) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer, status=code)

    return handler


def series(*found: dict[str, Any]) -> Handler:
    return saying(200, status="success", data={"resultType": "vector", "result": list(found)})


def counted(outcome: str) -> float:
    return float(metrics.monitoring_requests.labels("prometheus", outcome)._value.get())


async def test_a_vector_and_a_matrix_are_read_the_same() -> None:
    async with asking(series({"metric": {"a": "b"}, "value": [1.5, "+Inf"]})) as prometheus:
        [found] = await prometheus.query("x", NOW)
        assert (found.labels, found.points) == ({"a": "b"}, [(1.5, float("inf"))])
    async with asking(series({"metric": {}, "values": [[1, "2"], [2, "3e1"]]})) as prometheus:
        [found] = await prometheus.query_range("x", NOW, NOW, 1)
        assert found.points == [(1, 2.0), (2, 30.0)]


async def test_what_is_asked_arrives_as_it_was_written() -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append({"path": request.path, **{k: str(v) for k, v in (await request.post()).items()}})
        return web.json_response({"data": {"result": []}})

    async with asking(handler) as prometheus:
        expression = 'up{a="+&é"}'
        await prometheus.query_range(expression, NOW, NOW, 0.5)
    assert asked == [
        {
            "path": "/api/v1/query_range", "query": expression, "start": "1779019200.000", "end": "1779019200.000",
            "step": "0.5", "timeout": "5s",
        }
    ]  # fmt: skip


async def test_a_name_and_password_of_the_address_are_sent_as_such() -> None:
    sent: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        sent.append(request.headers["Authorization"])
        return web.json_response({"data": {"version": "2.42.0"}})

    async with asking(handler, user="me:secret@") as prometheus:
        assert await prometheus.version() == "2.42.0"
    assert sent == ["Basic " + b64encode(b"me:secret").decode()]


async def test_one_that_is_silent_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "ANSWER_SECONDS", 0.2)

    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    before = counted("timeout")
    async with asking(silent) as prometheus:
        with pytest.raises(errors.Unavailable, match=r"did not answer within 0\.2 seconds"):
            await prometheus.query("x", NOW)
    assert counted("timeout") == before + 1


def endless(head: bytes, sent: list[int], *, compressed: bool = False) -> Handler:
    """Begins with `head` and goes on; `sent` has the bytes before compression."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if compressed:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        await response.write(head)
        while sum(sent) < 10 * MAX_ANSWER_BYTES:
            await response.write(b" " * 2**16)
            sent.append(2**16)
        return response

    return handler


async def test_one_that_talks_without_end_is_cut_short() -> None:
    sent: list[int] = []
    async with asking(endless(b'{"status":"success","data":{"resultType":"matrix",', sent)) as prometheus:
        with pytest.raises(TooMuch, match="8 MiB"):
            await prometheus.query("x", NOW)
    assert sum(sent) < 2 * MAX_ANSWER_BYTES


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("head", [b"", b"<html>", b'{"status":"success","data":['])
async def test_what_is_endless_and_no_series_is_nobody_s_question_s_fault(head: bytes, compressed: bool) -> None:
    before = counted("refused")
    async with asking(endless(head, [], compressed=compressed)) as prometheus:
        with pytest.raises(errors.Unavailable, match=NOT_ONE):
            await prometheus.query("x", NOW)
    assert counted("refused") == before + 1


@pytest.mark.parametrize("handler", [endless(b'{"status":"success","resultType":', []), saying(422)])
async def test_nothing_is_too_much_for_who_asks_for_the_version(handler: Handler) -> None:
    async with asking(handler) as prometheus:
        with pytest.raises(errors.Unavailable, match=NOT_ONE):
            await prometheus.version()


async def test_a_page_of_another_server_counts_as_no_answer() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>", content_type="text/html")

    refused, ok = counted("refused"), counted("ok")
    async with asking(page) as prometheus:
        with pytest.raises(errors.Unavailable, match=NOT_ONE):
            await prometheus.version()
    assert (counted("refused"), counted("ok")) == (refused + 1, ok)


async def test_what_is_nested_without_end_is_no_prometheus() -> None:
    async def nested(request: web.Request) -> web.Response:
        return web.Response(text='{"x":' + "[" * 100_000, content_type="application/json")

    async with asking(nested) as prometheus:
        for question in (prometheus.query("x", NOW), prometheus.version()):
            with pytest.raises(errors.Unavailable, match=NOT_ONE):
                await question


async def test_more_series_than_are_read_are_refused() -> None:
    many = [{"metric": {"n": str(n)}, "value": [1, "1"]} for n in range(101)]
    async with asking(series(*many)) as prometheus:
        with pytest.raises(TooMuch, match="is 101 series, and 100 at most"):
            await prometheus.query("x", NOW)
        assert len(await prometheus.query("x", NOW, most=101)) == 101


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (saying(400, status="error", errorType="bad_data"), "status 400"),
        (saying(503, status="error", errorType="timeout"), "needs longer than 5 seconds"),
        (saying(401), "is PROMETHEUS_URL its address"),
        (saying(302), "status 302"),
        (saying(200, status="success"), "does not answer like Prometheus"),
        (series({"metric": {}, "value": [1, "many"]}), "does not answer like Prometheus"),
        (series({"metric": {}, "value": [1]}), "does not answer like Prometheus"),
        (series({"metric": {}}), "does not answer like Prometheus"),
        (series({"metric": {}, "values": []}), "does not answer like Prometheus"),
    ],
)
async def test_what_it_refuses_or_does_not_know_is_unavailable(handler: Handler, says: str) -> None:
    async with asking(handler) as prometheus:
        with pytest.raises(errors.Unavailable, match=says):
            await prometheus.query("x", NOW)


async def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with asking(handler) as prometheus:
        with pytest.raises(errors.Unavailable, match="status 307"):
            await prometheus.query("x", NOW)
    assert asked == ["/api/v1/query"]


async def test_too_many_samples_are_the_question_s_fault() -> None:
    async with asking(saying(422, errorType="execution")) as prometheus:
        with pytest.raises(TooLong, match="shorter time"):
            await prometheus.query("x", NOW)


async def test_nobody_there_is_unavailable_and_names_the_setting() -> None:
    prometheus = Prometheus("http://127.0.0.1:1")
    before = counted("unreachable")
    with pytest.raises(errors.Unavailable, match="PROMETHEUS_URL"):
        await prometheus.query("x", NOW)
    await prometheus.close()
    assert counted("unreachable") == before + 1


async def test_none_set_is_unavailable_and_is_not_counted() -> None:
    before = {outcome: counted(outcome) for outcome in ("ok", "refused", "unreachable", "timeout")}
    with pytest.raises(errors.Unavailable, match="set PROMETHEUS_URL"):
        await Prometheus("").query("x", NOW)
    assert {outcome: counted(outcome) for outcome in before} == before


async def test_four_questions_are_under_way_at_once_and_health_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "TURN_SECONDS", 0.2)
    monkeypatch.setattr(adapter, "ANSWER_SECONDS", 60.0)
    under_way = most = 0
    free = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal under_way, most
        if request.path.endswith("buildinfo"):
            return web.json_response({"data": {"version": "2"}})
        under_way += 1
        most = max(most, under_way)
        await free.wait()
        under_way -= 1
        return web.json_response({"data": {"result": []}})

    async with asking(handler) as prometheus:
        asked = [asyncio.create_task(prometheus.query("x", NOW)) for _ in range(AT_ONCE)]
        async with asyncio.timeout(20):
            while under_way < AT_ONCE:  # noqa: ASYNC110 - the server is another one's
                await asyncio.sleep(0.01)
        with pytest.raises(errors.Unavailable, match="Too many ask"):
            await prometheus.query("x", NOW)
        assert await prometheus.version() == "2"
        free.set()
        assert await asyncio.gather(*asked) == [[]] * AT_ONCE
        # Their places are free again.
        assert await prometheus.query("x", NOW) == []
    assert most == AT_ONCE


@pytest.mark.parametrize("text", ['a"b', "a\\", "a\nb", 'x"} or up{a="', "é\u2028", "\x01"])
def test_a_text_is_quoted_whole(text: str) -> None:
    found = quoted(text)
    assert found[0] == found[-1] == '"' and "\n" not in found
    assert found[1:-1].replace("\\\\", "").replace('\\"', "").count('"') == 0
