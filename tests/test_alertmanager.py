"""The client of Alertmanager's API, against a real one, and against servers that are none."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.watching import Watcher, alertmanager, needs_alertmanager
from ytdl import alertmanager as client
from ytdl import errors, metrics
from ytdl.alertmanager import Alertmanager, Matcher, Refused, equals

CONFIG = "route: {receiver: none, group_by: [job]}\nreceivers: [{name: none}]\n"
LABELS = {"alertname": "DiskFull", "severity": "critical", "job": "ytdl", "instance": 'a "b" \\ c\nd, {e="f"}'}
HOUR = timedelta(hours=1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Watcher]:
    (tmp_path / "alertmanager.yml").write_text(CONFIG)
    async with alertmanager(tmp_path, tmp_path / "alertmanager.yml") as running:
        yield running


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Alertmanager]:
    found = Alertmanager(url)
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
async def asked(server: Watcher) -> AsyncIterator[Alertmanager]:
    async with asking(f"{server.url}/") as found:
        yield found


@asynccontextmanager
async def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[Alertmanager]:
    """Whatever answers at the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with asking(f"http://127.0.0.1:{runner.addresses[0][1]}") as found:
            yield found
    finally:
        await runner.cleanup()


def counted(outcome: str) -> float:
    labels = {"server": "alertmanager", "outcome": outcome}
    return metrics.REGISTRY.get_sample_value("ytdl_monitoring_requests_total", labels) or 0.0


async def silence(asked: Alertmanager, labels: dict[str, str]) -> str:
    now = datetime.now(UTC)
    matchers = [Matcher(name, value) for name, value in labels.items()]
    return await asked.create_silence(matchers, starts_at=now, ends_at=now + HOUR, author="root", comment="seen")


@needs_alertmanager
async def test_an_alert_comes_back_as_it_was_posted(asked: Alertmanager) -> None:
    before = counted("ok")
    await asked.post_alerts([{"labels": LABELS, "annotations": {"summary": "No room."}}])
    [alert] = await asked.alerts()
    assert (alert.labels, alert.annotations, alert.status.state) == (LABELS, {"summary": "No room."}, "active")
    assert abs(alert.starts_at - datetime.now(UTC)) < HOUR and len(alert.fingerprint) == 16
    assert counted("ok") == before + 2


@needs_alertmanager
async def test_a_filter_takes_any_value_literally(asked: Alertmanager) -> None:
    await asked.post_alerts([{"labels": LABELS}, {"labels": LABELS | {"instance": "b"}}])
    assert [a.labels for a in await asked.alerts([equals("instance", LABELS["instance"])])] == [LABELS]
    assert len(await asked.alerts([equals("alertname", "DiskFull")])) == 2
    assert not await asked.alerts([equals("alertname", 'Disk.*" or "')])


@needs_alertmanager
async def test_a_silence_begins_holds_its_alert_alone_and_ends(asked: Alertmanager) -> None:
    await asked.post_alerts([{"labels": LABELS}, {"labels": LABELS | {"instance": "b"}}])
    id = await silence(asked, LABELS)
    assert [(a.labels, a.status.silenced_by) for a in await asked.alerts() if a.status.state == "suppressed"] == [
        (LABELS, [id])
    ]
    [one] = await asked.silences()
    assert (one.id, one.only_labels, one.created_by, one.status.state) == (id, LABELS, "root", "active")
    assert await asked.expire_silence(id)
    ended = await asked.silence(id)
    assert ended and ended.status.state == "expired"
    assert {a.status.state for a in await asked.alerts()} == {"active"}


@needs_alertmanager
@pytest.mark.parametrize("id", ["6f2a4b3e-0000-4000-8000-000000000000", "none", "../../-/reload"])
async def test_a_silence_that_nobody_made_is_not_known(asked: Alertmanager, id: str) -> None:
    assert await asked.silence(id) is None
    assert not await asked.expire_silence(id)


@needs_alertmanager
async def test_what_alertmanager_refuses_is_said_in_its_own_words(asked: Alertmanager) -> None:
    before = counted("refused")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(Refused) as refused:
        await asked.create_silence(
            [Matcher("a", "b")], starts_at=long_ago, ends_at=long_ago + HOUR, author="a", comment="c"
        )
    assert (refused.value.status, "past" in refused.value.said) == (400, True)
    assert "past" not in refused.value.message and counted("refused") == before + 1


@needs_alertmanager
async def test_a_wrong_configuration_is_refused_and_the_former_goes_on(server: Watcher, asked: Alertmanager) -> None:
    file = Path(server._log.parent / "alertmanager.yml")
    file.write_text("route: {receiver: gone}\nreceivers: [{name: none}]\n")
    with pytest.raises(Refused) as refused:
        await asked.reload()
    assert 'undefined receiver "gone"' in refused.value.said
    await asked.ready()
    file.write_text(CONFIG)
    await asked.reload()


@needs_alertmanager
async def test_it_says_since_when_it_runs_also_after_a_restart(server: Watcher, asked: Alertmanager) -> None:
    first = await asked.status()
    assert abs(first.uptime - datetime.now(UTC)) < HOUR
    await server.kill()
    with pytest.raises(errors.Unavailable, match="cannot be reached; look at ALERTMANAGER_URL"):
        await asked.ready()
    await server.start()
    assert (await asked.status()).uptime > first.uptime


async def test_without_an_address_each_question_names_the_setting() -> None:
    async with asking("") as nowhere:
        assert not nowhere.configured
        with pytest.raises(errors.Unavailable, match="ALERTMANAGER_URL is not set"):
            await nowhere.alerts()


async def test_a_server_that_is_silent_costs_its_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(600)
        return web.Response()

    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.2)
    before, begun = counted("timeout"), time.monotonic()
    async with answering(never) as slow:
        with pytest.raises(errors.Unavailable, match="did not answer within"):
            await slow.alerts()
    assert time.monotonic() - begun < 30 and counted("timeout") == before + 1


def saying(body: bytes, status: int = 200, **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return answer


DEEP = b'[{"x":' * 100_000
NAIVE = b"""[{"fingerprint": "a", "labels": {}, "startsAt": "2026-03-01T00:00:00", "endsAt": "2026-03-02T00:00:00Z"}]"""


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b'[{"fingerprint": 1}]', b"", b"\xff", DEEP, NAIVE])
async def test_what_is_no_alertmanager_is_named_so(body: bytes) -> None:
    async with answering(saying(body)) as odd:
        with pytest.raises(errors.Unavailable, match="is no Alertmanager"):
            await odd.alerts()


async def test_no_redirect_is_followed() -> None:
    async with answering(saying(b"", 302, Location="/elsewhere")) as elsewhere:
        with pytest.raises(Refused) as refused:
            await elsewhere.ready()
    assert refused.value.status == 302


async def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    sent = 0

    async def endless(request: web.Request) -> Any:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            sent += 2**16
            await answer.write(b" " * 2**16)

    async with answering(endless) as talkative:
        with pytest.raises(errors.Unavailable, match="more to say than 4 MiB"):
            await talkative.alerts()
    assert sent < 64 * 2**20


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'"no such thing"', "no such thing"), (b'{"code": 1, "message": "bad"}', "bad"), (b"plain\n text", "plain text"),
     (b"[]", "[]"), (b"\xff", "\ufffd"), (b"x" * 1000, "x" * 300), (b"[" * 100_000, "[" * 300)],
)  # fmt: skip
async def test_a_refusal_is_cut_to_a_line(body: bytes, said: str) -> None:
    async with answering(saying(body, 500)) as grumpy:
        with pytest.raises(Refused) as refused:
            await grumpy.ready()
    assert refused.value.said == said
