"""Fetching the finished file: ranges, validators, names, and never half a file."""

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Person, Service
from tests.fakes.youtube import YouTube
from tests.following import fetched
from ytdl.api.files import Unsatisfiable, disposition, span
from ytdl.titles import title_name

TAG = '"abc"'

SPANS = [
    (None, None),
    ("bytes=0-0", (0, 1)),
    ("bytes=0-9", (0, 10)),
    ("bytes=5-", (5, 95)),
    ("bytes=-10", (90, 10)),
    ("bytes=-1000", (0, 100)),
    ("bytes=90-1000", (90, 10)),
    ("bytes=9-5", None),
    ("bytes=-", None),
    ("bytes=a-b", None),
    ("bytes=0-1,5-6", None),
    ("items=0-1", None),
    ("bytes = 0-1", None),
    ("bytes=99999999999999999999-", None),
]


@pytest.mark.parametrize(("header", "expected"), SPANS)
def test_a_single_range_is_understood_and_all_else_means_the_whole(
    header: str | None, expected: tuple[int, int] | None
) -> None:
    assert span(header, None, TAG, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        span(header, None, TAG, 100)


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [(TAG, (5, 95)), ('"other"', None), ("W/" + TAG, None), ("Mon, 23 Nov 2026 00:00:00 GMT", None)],
)
def test_a_range_of_another_representation_means_the_whole(if_range: str, expected: tuple[int, int] | None) -> None:
    assert span("bytes=5-", if_range, TAG, 100) == expected


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40), st.integers(0, 10_000))
def test_no_header_gives_bytes_out_of_the_file(header: str, size: int) -> None:
    try:
        found = span(f"bytes={header}", None, TAG, size)
    except Unsatisfiable:
        return
    if found:
        start, count = found
        assert 0 <= start < size and 0 < count <= size - start


NAMES = [
    ("A plain title", "A plain title.mp4"),
    (None, "id.mp4"),
    ("", "id.mp4"),
    ("..", "id.mp4"),
    ("../../etc/passwd", "_.._etc_passwd.mp4"),
    ("-rf", "rf.mp4"),
    ('say "hi"\r\nSet-Cookie: x', "say _hi_ Set-Cookie_ x.mp4"),
    ("a\u202egpj.exe", "a gpj.exe.mp4"),
    ("été 日本 🎬", "été 日本 🎬.mp4"),
    ("é" * 300, "é" * 75 + ".mp4"),
    ("\ud800x", "x.mp4"),
]


@pytest.mark.parametrize(("title", "expected"), NAMES)
def test_a_title_becomes_a_safe_name(title: str | None, expected: str) -> None:
    assert title_name(title, "id", "mp4") == expected


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=400))
def test_no_title_breaks_the_header_or_the_file_system(title: str) -> None:
    name = title_name(title, "id", "mp4")
    header = disposition(name)
    assert header.isascii() and header.isprintable() and header.count('"') == 2
    assert len(name.encode()) <= 160 and "/" not in name and not name.startswith(".")


async def test_the_file_is_what_was_promised(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    response = await ann.get(f"/downloads/{done['id']}/file")
    body = await response.read()
    assert (response.status, len(body)) == (200, done["file"]["size_bytes"])
    assert hashlib.sha256(body).hexdigest() == done["file"]["sha256"]
    assert response.headers["ETag"] == f'"{done["file"]["sha256"]}"'


async def test_a_range_is_served_and_resumed_by_its_tag(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    path = f"/downloads/{done['id']}/file"
    whole = await (await ann.get(path)).read()
    part = await ann.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status, await part.read()) == (206, whole[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    stale = await ann.get(path, headers={"Range": "bytes=100-199", "If-Range": '"another"'})
    assert (stale.status, len(await stale.read())) == (200, len(whole))


async def test_a_range_behind_the_end_is_a_problem(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    response = await ann.get(f"/downloads/{done['id']}/file", headers={"Range": "bytes=99999999-"})
    assert (response.status, (await response.json())["code"]) == (416, "range_not_satisfiable")
    assert response.headers["Content-Range"] == f"bytes */{done['file']['size_bytes']}"


async def test_head_says_all_but_sends_nothing(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    response = await ann.request("HEAD", f"/downloads/{done['id']}/file")
    assert (response.status, response.headers["Content-Length"]) == (200, str(done["file"]["size_bytes"]))
    assert await response.read() == b""


async def test_what_the_client_has_is_not_sent_again(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    tag = f'"{done["file"]["sha256"]}"'
    response = await ann.get(f"/downloads/{done['id']}/file", headers={"If-None-Match": tag})
    assert (response.status, await response.read()) == (304, b"")


@pytest.mark.parametrize(
    "video", ["emoji", "quotes", "newlines", "slashes", "dots", "long", "right_to_left", "template", "dash"]
)
async def test_any_title_arrives_as_a_name(ann: Person, youtube: YouTube, video: str) -> None:
    done = await fetched(ann, youtube.url(video), quality="144p")
    response = await ann.get(f"/downloads/{done['id']}/file")
    assert response.content_disposition
    assert response.content_disposition.filename == done["file"]["name"]
    assert done["file"]["name"].endswith(".mp4") and "/" not in done["file"]["name"]


async def test_a_link_with_a_ticket_serves_the_file_once(ann: Person, youtube: YouTube, downloading: Service) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    ticket = (await (await ann.post("/auth/ticket")).json())["ticket"]
    for expected in (200, 401):
        async with downloading.client.get(done["file"]["url"], params={"ticket": ticket}) as response:
            assert response.status == expected


async def test_a_file_that_was_damaged_is_not_handed_out(ann: Person, youtube: YouTube, downloading: Service) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    (path,) = (downloading.config.data_dir / "media").iterdir()
    os.truncate(path, 1000)
    response = await ann.get(f"/downloads/{done['id']}/file")
    assert (response.status, (await response.json())["code"]) == (410, "gone")


async def test_a_file_that_was_lost_is_gone_and_not_half(ann: Person, youtube: YouTube, downloading: Service) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    for path in (downloading.config.data_dir / "media").iterdir():
        path.unlink()
    response = await ann.get(f"/downloads/{done['id']}/file")
    assert (response.status, (await response.json())["code"]) == (410, "gone")
