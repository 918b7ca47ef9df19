"""Whether a value would be accepted: by the same rules as asking for a download."""

from typing import Any, get_args

import pytest

from tests.conftest import Person, Service
from ytdl import texts, validation
from ytdl.child.formats import CONTENT_TYPES
from ytdl.record import Format, Quality
from ytdl.validation import FILE_TYPES, TEXT_LENGTH, Question, Verdict, judge

NOTHING = {"extractor": None, "video_id": None, "playlist_id": None, "canonical_url": None}
WATCH = "https://www.youtube.com/watch?v=dQw4w9WgXcQ"


async def validated(person: Person, kind: str, value: Any) -> Any:
    answer = await person.post("/security/validate", {"kind": kind, "value": value})
    assert answer.status == 200
    return await answer.json()


async def test_a_url_is_taken_apart(alice: Person) -> None:
    assert await validated(alice, "url", "https://youtu.be/dQw4w9WgXcQ?list=PL1234&t=5") == {
        "valid": True, "value": WATCH, "errors": [], "extractor": "youtube", "video_id": "dQw4w9WgXcQ",
        "playlist_id": "PL1234", "canonical_url": WATCH,
    }  # fmt: skip


URLS = [
    WATCH, "http://m.youtube.com/shorts/dQw4w9WgXcQ", "https://youtu.be/short", "https://example.org/x", "",
    "https://www.youtube.com/playlist?list=PL1234", "ytsearch5:cats", "--batch-file=/etc/passwd", " " + WATCH,
    "https://www.youtube.com:8443/watch?v=dQw4w9WgXcQ", "https://a@youtu.be/dQw4w9WgXcQ", "file:///etc/passwd",
    "https://youtu.be/dQw4w9WgXcQ\u202e", "https://www.youtub\u0435.com/watch?v=dQw4w9WgXcQ",
    WATCH + "&x=" + "y" * 2048,
]  # fmt: skip


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
async def test_a_url_is_valid_when_a_download_of_it_is_accepted(alice: Person, url: str) -> None:
    found = await validated(alice, "url", url)
    accepted = (await alice.post("/downloads", {"url": url})).status == 202
    assert found["valid"] == accepted == (not found["errors"])
    if not accepted:
        assert found == {"valid": False, "value": url, "errors": found["errors"]} | NOTHING
        assert {fault["field"] for fault in found["errors"]} == {"value"}


@pytest.mark.parametrize(("kind", "words"), [("quality", get_args(Quality)), ("format", get_args(Format))])
async def test_a_word_is_valid_when_a_download_takes_it(alice: Person, kind: str, words: tuple[str, ...]) -> None:
    for value in (*words, "1081p", "", "MP4", "1080P", " best", "avi", "exe", "best;rm"):
        found = await validated(alice, kind, value)
        asked = await alice.post("/downloads", {"url": WATCH, kind: value})
        assert found["valid"] == (asked.status in (200, 202)) == (value in words), value
        assert found["value"] == value


def answer(kind: validation.Kind, value: str) -> Verdict:
    return judge(Question(kind, value))


def test_file_types_are_those_that_are_ever_delivered() -> None:
    assert set(FILE_TYPES) == set(CONTENT_TYPES)
    for value, taken in (("mp4", "mp4"), (".MKV", "mkv"), ("Opus", "opus")):
        assert answer("file_type", value) == Verdict(valid=True, value=taken)
    for value in ("desktop", "", ".", "..mp4", "mp4 ", "any", "html", "mp4/../x", "url"):
        assert not answer("file_type", value).valid, value


def test_a_text_comes_back_composed_and_without_space_around_it() -> None:
    assert answer("text", " e\u0301te\u0301 ") == Verdict(valid=True, value="\u00e9t\u00e9")
    assert (
        answer("text", "x" * TEXT_LENGTH).valid and answer("text", "\u674e\u5c0f\u9f99 \u0645\u06cc\u200c\u062e").valid
    )


def test_a_text_that_could_play_tricks_is_refused() -> None:
    for value in ("", " ", "x" * (TEXT_LENGTH + 1), "a\nb", "\x1b[2J", "a\x7f", "a\u2028b", *texts.BIDI):
        found = answer("text", f"a{value}b" if value in texts.BIDI else value)
        assert not found.valid and found.errors, repr(value)


async def test_a_question_out_of_its_form_is_refused(alice: Person) -> None:
    for body in ({}, {"kind": "url"}, {"kind": "email", "value": "x"}, {"kind": "url", "value": 1}, {"value": "x"}):
        assert (await alice.post("/security/validate", body)).status == 422
    for text in ("a\0b", "x" * 16_385):
        assert (await alice.post("/security/validate", {"kind": "text", "value": text})).status == 422


async def test_nobody_else_is_answered(service: Service) -> None:
    async with service.client.post("/api/v1/security/validate", json={"kind": "text", "value": "x"}) as answer:
        assert answer.status == 401
