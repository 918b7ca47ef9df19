"""Qualities and formats: the choice by itself, and every one of them through yt-dlp and ffmpeg to a real
file."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio

from tests.fakes.youtube import YouTube
from tests.fetching import fail, fetch, order_for, settings_for
from ytdl.child.formats import CONTENT_TYPES, Choice, cap_of, choose, smaller_side
from ytdl.fetcher import Fetcher

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fetcher(youtube_server: YouTube, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fetcher]:
    folder = tmp_path_factory.mktemp("fetcher")
    fetcher = Fetcher(settings_for(youtube_server, folder, socket_timeout_seconds=20.0))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


def stream(format_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "format_id": format_id,
        "url": "https://x/",
        "protocol": "https",
        "vcodec": "none",
        "acodec": "none",
        **fields,
    }


H1080 = stream("137", ext="mp4", width=1920, height=1080, vcodec="avc1.64")
V1080 = stream("248", ext="webm", width=1920, height=1080, vcodec="vp9")
V2160 = stream("313", ext="webm", width=3840, height=2160, vcodec="vp9")
UPRIGHT = stream("p720", ext="mp4", width=720, height=1280, vcodec="avc1.64")
BOTH360 = stream("18", ext="mp4", width=640, height=360, vcodec="avc1.42", acodec="mp4a.40.2")
AAC = stream("140", ext="m4a", acodec="mp4a.40.2", abr=128, container="m4a_dash")
OPUS = stream("251", ext="webm", acodec="opus", abr=150)
UNSIZED = stream("x", ext="mp4", vcodec="avc1", acodec="mp4a")
ALL = [AAC, OPUS, BOTH360, H1080, V1080, V2160]


def ids(choice: Choice | None) -> list[str] | None:
    return [each["format_id"] for each in choice.streams] if choice else None


@pytest.mark.parametrize(
    ("streams", "quality", "wanted", "expected"),
    [
        (ALL, "best", "mkv", ["313", "251"]),
        (ALL, "best", "mp4", ["313", "140"]),
        (ALL, "1080p", "mp4", ["137", "140"]),
        (ALL, "1080p", "webm", ["248", "251"]),
        (ALL, "720p", "mp4", ["18"]),
        (ALL, "240p", "mp4", None),
        (ALL, "worst", "mp4", ["18"]),
        (ALL, "720p", "webm", None),
        ([UPRIGHT, AAC], "720p", "mp4", ["p720", "140"]),
        ([UPRIGHT, AAC], "480p", "mp4", None),
        ([UNSIZED], "1080p", "mp4", None),
        ([UNSIZED], "best", "mp4", ["x"]),
        ([H1080], "best", "mp4", ["137"]),
        ([V1080, AAC], "best", "webm", ["248"]),
        ([OPUS, AAC], "1080p", "any", ["140"]),
        (ALL, "best", "m4a", ["140"]),
        (ALL, "best", "opus", ["251"]),
        (ALL, "worst", "mp3", ["140"]),
        ([BOTH360, H1080], "best", "mp3", ["18"]),
        ([H1080], "best", "mp3", None),
        ([{**H1080, "protocol": "rtmp"}], "best", "mp4", None),
        ([{**H1080, "preference": -10}, BOTH360], "best", "mp4", ["18"]),
        ([], "best", "mp4", None),
    ],
)
async def test_the_choice_keeps_to_the_cap_and_the_container(
    streams: list[dict[str, Any]], quality: str, wanted: str, expected: list[str] | None
) -> None:
    assert ids(choose(streams, quality, wanted)) == expected


async def test_without_ffmpeg_only_a_ready_made_stream_is_taken() -> None:
    assert ids(choose(ALL, "best", "mp4", can_process=False)) == ["18"]
    assert choose(ALL, "best", "mp3", can_process=False) is None
    assert choose(ALL, "1080p", "webm", can_process=False) is None


async def test_a_dynamic_range_that_few_screens_show_loses_in_mp4() -> None:
    bright = {**H1080, "format_id": "hdr", "dynamic_range": "HDR10"}
    assert ids(choose([H1080, bright, AAC], "best", "mp4")) == ["137", "140"]


async def test_the_original_language_comes_before_the_better_codec() -> None:
    dubbed = {**AAC, "format_id": "dub", "language_preference": -1}
    original = {**OPUS, "format_id": "own", "language_preference": 10}
    assert ids(choose([original, dubbed, H1080], "best", "mp4")) == ["137", "own"]


async def test_a_stream_without_a_known_height_has_no_tier() -> None:
    assert smaller_side({"width": 1920}) is None
    assert smaller_side({"width": 1080, "height": 1920}) == 1080


TIERS = [("best", 1080), ("2160p", 1080), ("1440p", 1080), ("1080p", 1080), ("720p", 720), ("480p", 480)]
TIERS += [("360p", 360), ("240p", 240), ("144p", 144), ("worst", 144)]


@pytest.mark.parametrize(("quality", "side"), TIERS)
async def test_every_quality_delivers_the_best_within_its_cap(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, quality: str, side: int
) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, quality=quality))
    with av.open(done.path) as container:
        picture = container.streams.video[0].codec_context
    assert min(picture.width, picture.height) == side == min(done.width or 0, done.height or 0)
    assert side <= (cap_of(quality) or 9999)


async def test_an_upright_video_is_capped_by_its_width(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, "portrait", "720p"))
    assert (done.width, done.height) == (720, 1280)


KINDS = [
    ("mp4", "mov,mp4", "h264", "aac"),
    ("webm", "matroska,webm", "vp9", "opus"),
    ("mkv", "matroska,webm", "vp9", "opus"),
    ("any", "matroska,webm", "vp9", "opus"),
    ("mp3", "mp3", None, "mp3"),
    ("m4a", "mov,mp4", None, "aac"),
    ("opus", "ogg", None, "opus"),
    ("flac", "flac", None, "flac"),
    ("wav", "wav", None, "pcm_s16le"),
]


@pytest.mark.parametrize(("wanted", "container", "video", "audio"), KINDS)
async def test_every_format_is_what_it_says(
    fetcher: Fetcher,
    youtube: YouTube,
    tmp_path: Path,
    wanted: str,
    container: str,
    video: str | None,
    audio: str,
) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, wanted=wanted))
    with av.open(done.path) as opened:
        codecs = (
            [each.codec_context.codec.canonical_name for each in opened.streams.video],
            opened.streams.audio[0].codec_context.codec.canonical_name,
        )
        assert opened.format.name.startswith(container)
    assert codecs == ([video] if video else [], audio)
    assert (done.video_codec, done.audio_codec) == (video, audio)
    assert done.content_type == CONTENT_TYPES[done.ext] and done.path.endswith("." + done.ext)
    assert done.duration_seconds == pytest.approx(6.0, abs=0.2)


async def test_sound_of_the_right_codec_is_copied_not_encoded(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, wanted="m4a"))
    source = next((tmp_path / "attempt").glob("140.m4a"))
    assert _packets(done.path) == _packets(str(source))


def _packets(path: str) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


async def test_metadata_is_embedded_when_asked_for_and_only_then(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    for embed, title in ((True, "An ordinary video"), (False, None)):
        folder = tmp_path / str(embed)
        done, _, _ = await fetch(fetcher, order_for(youtube, folder, embed_metadata=embed))
        with av.open(done.path) as container:
            assert container.metadata.get("title") == title


async def test_webm_above_what_is_offered_as_webm_is_refused(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:

    failure = await fail(fetcher, order_for(youtube, tmp_path, quality="240p", wanted="webm"))
    assert (failure.failure.code, failure.failure.retryable) == ("format_unavailable", False)


async def test_it_works_with_nothing_on_the_path(
    youtube: YouTube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    fetcher = Fetcher(settings_for(youtube, tmp_path, socket_timeout_seconds=20.0))
    await fetcher.start()
    try:
        for wanted in ("mp4", "mp3"):
            done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path / wanted, wanted=wanted))
            assert done.ext == wanted
    finally:
        await fetcher.stop()


async def test_the_finished_mp4_starts_playing_before_it_is_whole(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    head = Path(done.path).read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")
