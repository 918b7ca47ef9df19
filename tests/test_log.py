"""What the log leaves out: secrets by the name they stand under, by the word before them, and by how they look."""

import json
import logging
import secrets
from typing import Any
from uuid import UUID

import jwt
import pytest

from tests.conftest import Service
from ytdl import log

TOKEN = secrets.token_urlsafe(32)
KEY = "ytdl_" + "Ab1" * 12 + "xy"
JWT = jwt.encode({"sub": "alice"}, "k" * 32, "HS256")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sent {TOKEN}, twice", "sent ***, twice"),
        (f"'{JWT}' and {JWT[:-9]}", "'***' and ***"),
        (f"key {KEY}.", "key ytdl_***."),
        ("Authorization: Bearer hunter2 x", "Authorization: Bearer *** x"),
        ("BASIC YWxpY2U6aHVudGVyMg==", "BASIC ***"),
        ("GET /x?ticket=hunter2&a=1&refresh_token=hunter2", "GET /x?ticket=***&a=1&refresh_token=***"),
        ("postgresql://ytdl:hunter2@db/x?host=a and http://u:p@ss@h:1", "postgresql://ytdl:***@db/x?host=a and http://u:***@h:1"),
    ],
    ids=["token", "access token", "key", "bearer", "basic", "query", "address"],
)  # fmt: skip
def test_a_secret_is_taken_out_of_a_text(text: str, expected: str) -> None:
    assert log.redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a" * 43, "0123456789abcdef" * 4, "test_a_secret_is_found_in_whatever_form_it_is", "basic settings, bearer",
        "https://www.youtube.com/watch?v=ordinary_01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "019b0000-0000-7000-8000-000000000001", "http://h:8000/a@b", "redis://cache:6379/0", "/data/media/1.1.mp4",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert log.redact(text) == text


def line(**fields: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"msg": "event", "levelname": "INFO", "name": "x", **fields})
    written: dict[str, Any] = json.loads(log.Lines().format(record))
    return written


def test_nothing_under_a_secrets_name_is_written_but_a_number() -> None:
    written = line(password="x", new_token=["x"], cookies={"a": "x"}, tickets=3, api_key=None, is_secret=True)
    hidden = {"password": "***", "new_token": "***", "cookies": "***", "tickets": 3, "api_key": None, "is_secret": True}
    assert hidden.items() <= written.items()


def test_a_secret_deep_in_a_field_is_not_written() -> None:
    deep = {"a": [{"password": "x"}, (f"it was {TOKEN}",)], "error": ValueError(f"of {KEY}"), "id": UUID(int=1)}
    assert line(deep=deep)["deep"] == {
        "a": [{"password": "***"}, ["it was ***"]], "error": "of ytdl_***", "id": str(UUID(int=1)),
    }  # fmt: skip


@pytest.mark.parametrize("id", [TOKEN, KEY], ids=["token", "key"])
async def test_a_request_id_that_looks_like_a_secret_is_not_taken_over(service: Service, id: str) -> None:
    answer = await service.client.get("/healthz", headers={"X-Request-Id": id})
    assert len(answer.headers["X-Request-Id"]) == 16


@pytest.mark.parametrize("id", ["r-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "f" * 64])
async def test_any_other_request_id_is_taken_over(service: Service, id: str) -> None:
    answer = await service.client.get("/healthz", headers={"X-Request-Id": id})
    assert answer.headers["X-Request-Id"] == id
