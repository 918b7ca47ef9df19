"""The YouTube stand-in as the real yt-dlp sees it and, for what that hides, as a bare client does.

Later tests believe the stand-in; these show that they may. A long file: it is one list of short tests.
"""

import gc
import gzip
import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.youtube import STOP_SECONDS, YouTube
from tests.fakes.youtube_client import Client, command, environment, probe, run, talk
from tests.fakes.youtube_faults import Fault, Faults
from tests.fakes.youtube_media import Cupboard, Recipe, padded
from tests.fakes.youtube_replies import STREAM_HOST
from tests.fakes.youtube_videos import CATALOGUE

ROOT = Path(__file__).parent.parent
ODD_TITLES = ("emoji", "right_to_left", "quotes", "newlines", "slashes", "dots", "long", "template", "dash")
REFUSED = {
    "private": "Private video. Sign in if you've been granted access to this video",
    "removed": "Video unavailable. This video has been removed by the uploader",
    "age_restricted": "Sign in to confirm your age",
    "geo_blocked": "available in your country\nThis video is available in Germany, France",
    "members_only": "Join this channel to get access to members-only content",
    "bot_check": "Sign in to confirm you\u2019re not a bot",
    "rate_limited": "has been rate-limited by YouTube for up to an hour",
    "upcoming": "Premieres in 3 hours",
    "drm": "This video is DRM protected",
}


@pytest.fixture(scope="module")
def running() -> Iterator[YouTube]:
    with YouTube() as youtube:
        yield youtube


@pytest.fixture
def youtube(running: YouTube) -> Iterator[YouTube]:
    running.forget()
    yield running
    running.behave()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def media_requests(youtube: YouTube) -> list[tuple[str, int]]:
    return [(seen.range, seen.status) for seen in youtube.requests if seen.path == "/videoplayback"]


@pytest.fixture
def stream(youtube: YouTube) -> Iterator[Client]:
    client = Client(youtube, STREAM_HOST, timeout=20)
    yield client
    client.connection.close()


def place(name: str, itag: int = 18) -> str:
    return f"/videoplayback?id={CATALOGUE[name].id}&itag={itag}"


# What yt-dlp makes of it


def test_the_extractor_lists_progressive_and_adaptive_formats(youtube: YouTube, tmp_path: Path) -> None:
    done = run(youtube, tmp_path, "-J", youtube.url("ordinary"))
    info = json.loads(done.stdout)
    formats = {row["format_id"]: row for row in info["formats"]}
    assert set(formats) == {"18", "160", "133", "134", "135", "136", "137", "243", "247", "248", "140", "251"}
    assert [formats[itag]["height"] for itag in ("18", "136", "248")] == [360, 720, 1080]
    assert (info["title"], info["duration"], info["uploader"]) == ("An ordinary video", 6, "The Stand-in")
    assert done.stderr == ""


def test_a_cap_of_720p_is_downloaded_and_merged(youtube: YouTube, tmp_path: Path) -> None:
    choice = [
        "-f",
        "bv*[height<=720]+ba",
        "-S",
        "res:720,vcodec:h264,acodec:aac",
        "--merge-output-format",
        "mp4",
    ]
    done = run(youtube, tmp_path, *choice, "-o", "film.%(ext)s", youtube.url("ordinary"))
    assert done.returncode == 0, done.stderr
    said = probe(tmp_path / "film.mp4")
    assert "1280x720" in said and "Audio: aac" in said and "Duration: 00:00:06" in said
    assert [seen.itag for seen in youtube.requests if seen.sent] == [136, 140]
    assert youtube.refused_hosts == []


def test_the_progressive_format_arrives_byte_for_byte(youtube: YouTube, tmp_path: Path) -> None:
    run(youtube, tmp_path, "-f", "18", "-o", "film.mp4", youtube.url("ordinary"))
    assert sha256(tmp_path / "film.mp4") == youtube.media("ordinary", 18).sha256()
    assert "ERROR" not in probe(tmp_path / "film.mp4")


def test_audio_is_extracted_to_mp3(youtube: YouTube, tmp_path: Path) -> None:
    run(youtube, tmp_path, "-x", "--audio-format", "mp3", "-o", "sound.%(ext)s", youtube.url("ordinary"))
    said = probe(tmp_path / "sound.mp3")
    assert "Audio: mp3" in said and "Video:" not in said


@pytest.fixture(scope="module")
def refusals(running: YouTube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One process asks for every video that doesn't play."""
    urls = [running.url(name) for name in REFUSED]
    return run(running, tmp_path_factory.mktemp("refused"), "-s", "-i", *urls).stderr


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_video_gives_the_extractors_own_words(refusals: str, name: str) -> None:
    blocks = [block for block in refusals.split("ERROR: ") if CATALOGUE[name].id in block.split(":")[0]]
    assert len(blocks) == 1
    assert REFUSED[name] in blocks[0]


@pytest.fixture(scope="module")
def described(running: YouTube, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process reads of videos that are listed but not downloaded, by id."""
    names = [*ODD_TITLES, "portrait", "small", "live", "upcoming"]
    fields = "%(.{id,title,uploader,width,height,live_status,release_timestamp})j"
    wanted = ["-s", "--ignore-no-formats-error", "--print", fields, *[running.url(name) for name in names]]
    lines = run(running, tmp_path_factory.mktemp("described"), *wanted).stdout.splitlines()
    return {info["id"]: info for info in map(json.loads, lines)}


@pytest.mark.parametrize("name", ODD_TITLES)
def test_an_odd_title_arrives_as_it_is(described: dict[str, Any], name: str) -> None:
    info = described[CATALOGUE[name].id]
    assert (info["title"], info["uploader"]) == (CATALOGUE[name].title, CATALOGUE[name].channel)


@pytest.mark.parametrize(("name", "size"), [("portrait", (1080, 1920)), ("small", (640, 360))])
def test_an_uncommon_picture_has_its_size(described: dict[str, Any], name: str, size: tuple[int, int]) -> None:
    info = described[CATALOGUE[name].id]
    assert (info["width"], info["height"]) == size


def test_a_live_video_says_so(described: dict[str, Any]) -> None:
    assert described["live_now_01"]["live_status"] == "is_live"


def test_a_premiere_tells_when_it_begins(described: dict[str, Any]) -> None:
    info = described["premiere_01"]
    assert info["live_status"] == "is_upcoming"
    assert 2 * 3600 < info["release_timestamp"] - time.time() < 4 * 3600


def test_a_playlist_lists_its_entries(youtube: YouTube, tmp_path: Path) -> None:
    done = run(youtube, tmp_path, "--flat-playlist", "-J", youtube.url("playlist"))
    info = json.loads(done.stdout)
    names = ["ordinary", "second", "portrait", "small", "emoji"]
    assert [entry["id"] for entry in info["entries"]] == [CATALOGUE[name].id for name in names]
    assert (info["title"], info["playlist_count"]) == ("Five videos", 5)


def test_without_the_authority_nothing_is_trusted(youtube: YouTube, tmp_path: Path) -> None:
    arguments = command(youtube, "-s", "--extractor-retries", "0", youtube.url("ordinary"))
    arguments.remove("no-certifi")
    arguments.remove("--compat-options")
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert youtube.requests == []


# Downloads that go wrong


def test_a_killed_download_goes_on_where_it_was(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("big", media_throttle=3_000_000)
    arguments = ["-f", "18", "-o", "film.mp4", youtube.url("big")]
    child = subprocess.Popen(command(youtube, *arguments), env=environment(youtube), cwd=tmp_path, stdout=-3)
    wait_until(lambda: size_of(tmp_path / "film.mp4.part") > 1_000_000)
    child.kill()
    child.wait()
    youtube.behave()
    youtube.forget()
    reached = size_of(tmp_path / "film.mp4.part")
    run(youtube, tmp_path, *arguments)
    assert media_requests(youtube)[0][0].startswith(f"bytes={reached}-")
    assert sha256(tmp_path / "film.mp4") == youtube.media("big", 18).sha256()


def test_forbidden_media_fails_at_once(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", media_status=403)
    done = run(youtube, tmp_path, "-f", "18", youtube.url("ordinary"))
    assert "HTTP Error 403: Forbidden" in done.stderr
    assert len(media_requests(youtube)) == 1


def test_two_server_errors_are_outlived(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", media_status=503, times=2)
    done = run(youtube, tmp_path, "-f", "18", "-o", "film.mp4", youtube.url("ordinary"))
    assert done.returncode == 0, done.stderr
    assert [status for _, status in media_requests(youtube)] == [503, 503, 206]


def test_a_cut_body_is_continued(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", media_cut_after=100_000, times=1)
    run(youtube, tmp_path, "-f", "18", "-o", "film.mp4", youtube.url("ordinary"))
    first, second = [seen for seen in youtube.requests if seen.path == "/videoplayback"]
    wait_until(lambda: first.sent == 100_000)
    # yt-dlp throws away what it had of the block in which the body broke off.
    assert 0 < int(second.range.removeprefix("bytes=").split("-")[0]) <= 100_000
    assert sha256(tmp_path / "film.mp4") == youtube.media("ordinary", 18).sha256()


def test_a_stall_ends_in_a_timeout(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", media_stall_after=50_000)
    options = ["--socket-timeout", "3", "--retries", "0", "-f", "18", "-o", "film.mp4"]
    done = run(youtube, tmp_path, *options, youtube.url("ordinary"))
    assert "timed out" in done.stderr
    wait_until(lambda: youtube.requests[-1].sent == 50_000)
    assert 0 < size_of(tmp_path / "film.mp4.part") <= 50_000


@pytest.mark.parametrize("fault", [{"player_status": 403}, {"player_status": 429, "retry_after": 7}])
def test_a_refused_player_call_leaves_no_formats(youtube: YouTube, tmp_path: Path, fault: dict[str, int]) -> None:
    youtube.misbehave("ordinary", **fault)
    done = run(youtube, tmp_path, "-s", youtube.url("ordinary"))
    assert f"HTTP Error {fault['player_status']}" in done.stderr
    assert "No video formats found!" in done.stderr


def test_a_refused_page_and_player_leave_nothing_at_all(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", page_status=429, player_status=403)
    done = run(youtube, tmp_path, "-s", youtube.url("ordinary"))
    assert "Unable to download webpage: HTTP Error 429" in done.stderr
    assert "Failed to extract any player response" in done.stderr


def test_a_failing_player_call_is_asked_again(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", player_status=500, times=1)
    assert run(youtube, tmp_path, "-s", youtube.url("ordinary")).returncode == 0
    assert [seen.status for seen in youtube.requests if seen.path.endswith("/player")] == [500, 200]


def test_garbage_from_the_player_api_is_noticed(youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave("ordinary", player_garbage=True)
    assert "Failed to parse JSON" in run(youtube, tmp_path, "-s", youtube.url("ordinary")).stderr


def test_a_padded_file_is_long_and_still_plays(youtube: YouTube, tmp_path: Path) -> None:
    wanted = ["-f", "247,140", "-o", "%(format_id)s", "--fixup", "never"]
    run(youtube, tmp_path, *wanted, "https://www.youtube.com/watch?v=big004_0001")
    assert [size_of(tmp_path / name) for name in ("247", "140")] == [4_000_000, 500_000]
    assert "1280x720" in probe(tmp_path / "247")
    assert not [name for name in ("247", "140") if "ERROR" in probe(tmp_path / name)]


# What a bare client sees


def test_a_range_is_answered_with_that_range(youtube: YouTube, stream: Client) -> None:
    answer = stream.open(place("ordinary"), {"Range": "bytes=1000-1999"})
    size = youtube.media("ordinary", 18).size
    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes 1000-1999/{size}")
    assert answer.read() == youtube.media("ordinary", 18).read(1000, 1000)


def test_a_range_in_the_address_is_answered_with_200(youtube: YouTube, stream: Client) -> None:
    answer = stream.open(place("ordinary") + "&range=5-14")
    assert (answer.status, answer.read()) == (200, youtube.media("ordinary", 18).read(5, 10))


def test_a_range_past_the_end_is_416(youtube: YouTube, stream: Client) -> None:
    size = youtube.media("ordinary", 18).size
    answer = stream.open(place("ordinary"), {"Range": f"bytes={size}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


def test_a_head_request_gets_the_length_only(youtube: YouTube, stream: Client) -> None:
    answer = stream.open(place("big"), method="HEAD")
    assert (answer.headers["Content-Length"], answer.read()) == ("32000000", b"")
    # A body that came all the same would be taken for the next answer on this connection.
    assert stream.open(place("big"), {"Range": "bytes=0-9"}).status == 206


def test_an_old_etag_gets_the_whole_file(youtube: YouTube, stream: Client) -> None:
    answer = stream.open(place("ordinary"), {"Range": "bytes=9-", "If-Range": '"old"'})
    assert (answer.status, len(answer.read())) == (200, youtube.media("ordinary", 18).size)


def test_too_long_a_length_ends_early(youtube: YouTube, stream: Client) -> None:
    youtube.misbehave("ordinary", media_length_off=10)
    with pytest.raises(http.client.IncompleteRead, match="10 more expected"):
        stream.open(place("ordinary")).read()


def test_an_endless_body_goes_on_past_the_files_end(youtube: YouTube, stream: Client) -> None:
    youtube.misbehave("ordinary", media_endless=True)
    answer = stream.open(place("ordinary"))
    assert answer.headers["Content-Length"] is None
    assert len(answer.read(5_000_000)) == 5_000_000


def test_an_endless_body_ends_when_its_client_leaves(youtube: YouTube) -> None:
    youtube.misbehave("ordinary", media_endless=True)
    for _ in range(5):  # whether a write or the loop notices it first is a matter of chance
        client = Client(youtube, STREAM_HOST)
        client.open(place("ordinary")).read(1_000_000)
        client.connection.close()
    wait_until(lambda: all(seen.seconds for seen in youtube.requests))


@pytest.mark.parametrize("change", ["etag", "bytes", "length", "file"])
def test_a_changed_file_differs_as_told(youtube: YouTube, stream: Client, change: str) -> None:
    before = stream.open(place("small"))
    old = before.read()
    youtube.misbehave("small", media_change=change)
    after = stream.open(place("small"))
    new = after.read()
    assert before.headers["ETag"] != after.headers["ETag"]
    assert (new != old) == (change != "etag")
    assert (len(new) != len(old)) == (change in ("length", "file"))


def test_a_throttled_body_takes_its_time(youtube: YouTube, stream: Client) -> None:
    youtube.misbehave("big", media_throttle=1_000_000)
    began = time.monotonic()
    stream.open(place("big"), {"Range": "bytes=0-499999"}).read()
    # Eight times as long if it took bits for bytes.
    assert 0.35 < time.monotonic() - began < 3.5


@pytest.mark.parametrize(
    ("fault", "method", "path"),
    [
        ("page_delay", "GET", "/watch?v=ordinary_01"),
        ("player_delay", "POST", "/youtubei/v1/player"),
        ("media_delay", "GET", "/videoplayback?id=ordinary_01&itag=18"),
    ],
)
def test_a_slow_answer_is_slow(youtube: YouTube, stream: Client, fault: str, method: str, path: str) -> None:
    youtube.misbehave("ordinary", **{fault: 0.3})
    began = time.monotonic()
    answer = stream.open(path, method=method, body=b'{"videoId": "ordinary_01"}' if method == "POST" else None)
    assert answer.status == 200
    assert time.monotonic() - began > 0.3


def test_the_log_shows_an_answer_that_is_still_open(youtube: YouTube, stream: Client) -> None:
    youtube.misbehave("ordinary", media_stall_after=4000)
    assert len(stream.open(place("ordinary")).read(4000)) == 4000
    # The log is written a moment after the bytes are.
    wait_until(lambda: youtube.requests[-1].sent == 4000)
    seen = youtube.requests[-1]
    assert (seen.video, seen.itag, seen.seconds) == ("ordinary_01", 18, 0)


@pytest.mark.parametrize(("kept", "has"), [("", (True, True)), ("modified", (False, True)), ("none", (False, False))])
def test_a_server_may_keep_its_validators_to_itself(
    youtube: YouTube, stream: Client, kept: str, has: tuple[bool, bool]
) -> None:
    youtube.misbehave("ordinary", media_validators=kept)
    answer = stream.open(place("ordinary"), method="HEAD")
    assert (bool(answer.headers["ETag"]), bool(answer.headers["Last-Modified"])) == has


def test_conditions_and_ranges_may_be_ignored(youtube: YouTube, stream: Client) -> None:
    asked = {"Range": "bytes=9-", "If-Range": '"old"'}
    for ignored, status in (("", 200), ("if_range", 206), ("range", 200)):
        youtube.misbehave("ordinary", media_ignores=ignored or "", media_change="etag")
        answer = stream.open(place("ordinary"), asked)
        assert (answer.status, len(answer.read()) > 1000) == (status, True)
        youtube.behave()


def test_a_bomb_is_small_until_it_is_unpacked(youtube: YouTube) -> None:
    youtube.misbehave("ordinary", player_bomb=4)
    client, body = Client(youtube, "www.youtube.com"), json.dumps({"videoId": CATALOGUE["ordinary"].id}).encode()
    packed = client.open("/youtubei/v1/player", method="POST", body=body).read()
    client.connection.close()
    assert len(packed) < 50_000 and len(gzip.decompress(packed)) > 4 * 2**20


def test_limits_name_when_to_come_again(youtube: YouTube, stream: Client) -> None:
    youtube.misbehave("ordinary", media_status=429, retry_after=30, skip=1)
    first = stream.open(place("ordinary"), method="HEAD")
    first.read()
    second = stream.open(place("ordinary"))
    assert (first.status, second.status, second.headers["Retry-After"]) == (200, 429, "30")


def test_a_thumbnail_is_a_real_picture(youtube: YouTube, tmp_path: Path) -> None:
    client = Client(youtube, "i.ytimg.com")
    (tmp_path / "picture.jpg").write_bytes(client.open("/vi/ordinary_01/hqdefault.jpg").read())
    client.connection.close()
    assert "480x360" in probe(tmp_path / "picture.jpg")


@pytest.mark.parametrize("host", ["example.com", "youtube.com.example.org", "notyoutube.com", "127.0.0.1"])
def test_other_hosts_are_refused_and_written_down(youtube: YouTube, host: str) -> None:
    client = Client(youtube, host)
    with pytest.raises(OSError, match="502"):
        client.open("/")
    client.connection.close()
    assert youtube.refused_hosts == [host]


# The stand-in itself


def test_skipped_and_counted_faults_hold_for_those_requests_only() -> None:
    faults = Faults()
    faults.add(Fault(video="a", media_status=500, skip=1, times=2))
    statuses = [faults.take("media", "a").media_status for _ in range(4)]
    assert statuses == [0, 500, 500, 0]
    assert faults.take("media", "b").media_status == 0


@pytest.mark.parametrize("wrong", [{"media_statsu": 403}, {"media_status": "403"}, {"media_change": "all"}])
def test_a_misspelt_fault_is_an_error(youtube: YouTube, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="media_"):
        youtube.misbehave("ordinary", **wrong)


@pytest.mark.parametrize(("suffix", "length", "outside"), [("mp4", slice(8, 16), 0), ("webm", slice(2, 9), 9)])
def test_padding_says_how_long_it_is(suffix: str, length: slice, outside: int) -> None:
    media = padded(b"", suffix, 1000)
    assert int.from_bytes(media.head[length], "big") + outside == media.size == 1000


def test_a_film_is_made_once_however_many_ask(tmp_path: Path) -> None:
    recipe = Recipe("h264", "mp4", 64, 64)
    with ThreadPoolExecutor(4) as pool:
        films = set(pool.map(lambda _: Cupboard(tmp_path).get(recipe), range(4)))
    assert len(films) == 1
    assert [path.name for path in tmp_path.glob("*.mp4")] == [recipe.name]
    assert list(tmp_path.glob(".*")) == []


async def test_it_serves_inside_a_tests_own_loop_and_leaves_nothing() -> None:
    for _ in range(5):  # stopping races with the last connection
        async with YouTube() as youtube:
            port = int(youtube.proxy_url.rsplit(":", 1)[1])
            socket.create_connection(("127.0.0.1", port), 2).close()
        gc.collect()  # an unclosed socket in the stand-in would warn now, and warnings are errors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 2)
    assert not youtube.ca_file.exists()


def test_it_stops_at_once_with_connections_open() -> None:
    with YouTube() as youtube:
        port = int(youtube.proxy_url.rsplit(":", 1)[1])
        idle = socket.create_connection(("127.0.0.1", port), 2)
        youtube.misbehave(media_stall_after=10)
        stalled = Client(youtube, STREAM_HOST)
        stalled.open(place("ordinary")).read(10)
        began = time.monotonic()
    assert time.monotonic() - began < STOP_SECONDS - 2
    assert idle.recv(1) == b""
    idle.close()
    stalled.connection.close()
    gc.collect()


def test_a_process_of_its_own_is_driven_over_http(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    started = [sys.executable, "-m", "tests.fakes.youtube", "--ready-file", str(ready), "--with-parent"]
    with subprocess.Popen(started, cwd=ROOT) as process:
        try:
            wait_until(ready.exists)
            control = json.loads(ready.read_text())["control_url"]
            assert talk(control + "/control", "POST", {"video": "ordinary", "media_status": 403})[0] == 201
            assert talk(control + "/control")[1] == [{"video": "ordinary_01", "media_status": 403, "seen": 0}]
            assert talk(control + "/control", "POST", {"media_sttus": 1})[0] == 400
            assert talk(control + "/control", "DELETE")[0] == 204
            assert [talk(control + path)[1] for path in ("/control", "/requests", "/refused")] == [[], [], []]
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
