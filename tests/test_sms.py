"""Text messages: each number has each piece of news once, as far as anybody can know, and nobody else gets in."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests import alerting, watching
from tests.alerting import NUMBER, OTHER_NUMBER, Stage
from tests.servers import Servers
from ytdl import errors, sms
from ytdl.api.keys import DB, TEXTS
from ytdl.notifications import read
from ytdl.sms import LONGEST, Notification, NotifiedAlert, compose, key_of

pytestmark = [watching.needs_alertmanager, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with alerting.staged(servers, tmp_path_factory.mktemp("sms")) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def stage(whole: Stage) -> AsyncIterator[Stage]:
    await whole.forget()
    await whole.service.app[DB].exec(sms.q.forget_texts)
    whole.service.app[TEXTS]._sent.clear()
    await whole.set_all("sms")
    yield whole


def news(name: str, *, status: str = "firing", ended: str = "", **annotations: str) -> Notification:
    alert = NotifiedAlert(status, {"alertname": name, "severity": "critical"}, annotations, "2026-01-01", ended, name)
    return Notification(status, f"{{}}:{name}", [alert])


async def token_of(stage: Stage) -> str:
    app = stage.service.app
    return (await read(app[DB], app[TEXTS]._vault)).secrets["sms"]["receiver"]


async def receive(stage: Stage, notification: Notification) -> None:
    await receive_with(stage, await token_of(stage), notification)


async def receive_with(stage: Stage, token: str, notification: Notification) -> None:
    texts = stage.service.app[TEXTS]
    await texts.send(await texts.admit("sms", token), notification)


async def test_what_alertmanager_tries_again_is_sent_once(stage: Stage) -> None:
    """One of two numbers is refused at first: the other does not get it twice."""
    channel = next(c for c in stage.channels() if c["name"] == "sms")
    await stage.set(channels=[channel | {"to": [NUMBER, OTHER_NUMBER]}])
    stage.chat.status = {"twilio": 503}
    await stage.fire("Twice")
    await stage.chat.until_asked("twilio", count=2)
    stage.chat.status = {}
    await stage.chat.until("twilio", "Twice", count=2)
    await asyncio.sleep(1.5)
    assert sorted(got.to for got in stage.chat.of("twilio")) == [NUMBER, OTHER_NUMBER]


async def test_the_same_news_again_is_not_sent_again(stage: Stage) -> None:
    for _ in range(2):
        await receive(stage, news("Same"))
        stage.service.app[TEXTS]._sent.clear()
    assert len(stage.chat.of("twilio")) == 1


async def test_other_news_of_the_same_alert_is_sent(stage: Stage) -> None:
    await receive(stage, news("Ends"))
    await receive(stage, news("Ends", status="resolved", ended="2026-01-02"))
    assert [got.text for got in stage.chat.of("twilio")] == ["[CRITICAL] Ends", "[RESOLVED] Ends"]


async def test_of_two_at_once_one_sends(stage: Stage) -> None:
    found = await asyncio.gather(*(receive(stage, news("Race")) for _ in range(5)), return_exceptions=True)
    assert len(stage.chat.of("twilio")) == 1
    assert all(each is None or isinstance(each, errors.Unavailable) for each in found)


async def test_one_whose_sender_died_is_sent_after_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.service.app[DB].value(sms.q.claim_text, key=key_of("sms", NUMBER, news("Died")), fresh=10.0, lost=30.0)
    with pytest.raises(errors.Unavailable):
        await receive(stage, news("Died"))
    assert not stage.chat.of("twilio")
    monkeypatch.setattr(sms, "LOST_SECONDS", 0.0)
    await receive(stage, news("Died"))
    assert len(stage.chat.of("twilio")) == 1


async def test_one_whose_answer_was_lost_is_sent_again(stage: Stage) -> None:
    """Twice is better than never."""
    stage.chat.lost = {"twilio"}
    with pytest.raises(errors.Unavailable):
        await receive(stage, news("Lost"))
    stage.chat.lost = set()
    await receive(stage, news("Lost"))
    assert len(stage.chat.of("twilio")) == 2


async def test_what_goes_on_is_told_of_again_after_its_interval(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sms, "SPARE_SECONDS", -1.0)
    for _ in range(2):
        await receive(stage, news("Long"))
    assert len(stage.chat.of("twilio")) == 2


@pytest.mark.parametrize(
    ("status", "raised"), [(400, errors.Invalid), (401, errors.Invalid), (429, errors.Unavailable)]
)
async def test_what_twilio_says_decides_whether_trying_again_helps(
    stage: Stage, status: int, raised: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.chat.status = {"twilio": status}
    with pytest.raises(raised):
        await receive(stage, news(f"Status{status}"))
    lines = "".join(str(vars(record)) for record in caplog.records)
    assert "sms.refused" in lines and NUMBER not in lines and "twilio-secret" not in lines


async def test_without_the_database_texts_are_sent_all_the_same(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is away is what people are to hear of."""
    token, texts = await token_of(stage), stage.service.app[TEXTS]
    await texts.read()

    def away(*_: Any) -> Any:
        raise errors.Unavailable("away")

    monkeypatch.setattr(texts._db, "_connection", away)
    for _ in range(2):
        await receive_with(stage, token, news("PostgresDown"))
    assert [got.text for got in stage.chat.of("twilio")] == ["[CRITICAL] PostgresDown"]


@pytest.mark.parametrize(("channel", "wrong"), [("sms", "no"), ("sms", ""), ("none", ""), ("hook", "")])
async def test_only_alertmanager_gets_in(stage: Stage, channel: str, wrong: str) -> None:
    body = {"status": "firing", "groupKey": "k", "alerts": [{"status": "firing", "labels": {}, "annotations": {}}]}
    await stage.set(channels=[*stage.channels()[1:2], *stage.channels()[5:]])
    headers = {"Authorization": f"Bearer {wrong}"} if wrong else {}
    url = f"{stage.service.url}/api/v1/monitoring/receivers/sms/{channel}"
    async with aiohttp.ClientSession() as client, client.post(url, json=body, headers=headers) as answer:
        assert answer.status == 401
    answer = await stage.root.post(f"/monitoring/receivers/sms/{channel}", body)
    assert answer.status == 401 and not stage.chat.of("twilio")


@pytest.mark.parametrize("body", [{}, {"status": "firing", "groupKey": "k", "alerts": []}, {"alerts": 1}])
async def test_what_is_no_notification_is_refused(stage: Stage, body: dict[str, Any]) -> None:
    token = await token_of(stage)
    url = f"{stage.service.url}/api/v1/monitoring/receivers/sms/sms"
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as client, client.post(url, json=body, headers=headers) as answer:
        assert answer.status == 422


async def test_a_text_is_short_and_plain() -> None:
    text = compose(news("Long", summary="two\nlines\x07 " + "x" * 1000))
    assert len(text) == LONGEST and text.isprintable() and text.startswith("[CRITICAL] Long: two lines")
