"""Streams put into one container without ffmpeg: the same packets at the same moments, and clear failures."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.youtube_media import Cupboard, Recipe
from ytdl.child import remux
from ytdl.child.errors import Refused
from ytdl.fetcher import find_ffmpeg

PICTURES = {"h264": Recipe("h264", "mp4", 256, 144), "vp9": Recipe("vp9", "webm", 640, 360)}
SOUNDS = {"aac": Recipe("aac", "mp4"), "opus": Recipe("opus", "webm")}
CASES = [("h264", "aac", "mp4"), ("h264", "aac", "matroska"), ("vp9", "opus", "webm"), ("vp9", "opus", "matroska")]
needs_ffprobe = pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, cupboard = tmp_path_factory.mktemp("films"), Cupboard()
    for name, recipe in (PICTURES | SOUNDS).items():
        (folder / name).write_bytes(cupboard.get(recipe))
    return {name: folder / name for name in PICTURES | SOUNDS}


def _join(pair: list[Path], product: Path, muxer: str, **tags: str) -> list[float]:
    reported: list[float] = []
    remux.join(pair, [["video"], ["audio"]], product, muxer, tags, reported.append)
    return reported


def _by_ffmpeg(pair: list[Path], product: Path, muxer: str) -> None:
    inputs = [word for path in pair for word in ("-i", str(path))]
    copy = ["-map", "0:v:0", "-map", "1:a:0", "-c", "copy", "-f", muxer, str(product)]
    subprocess.run([find_ffmpeg() or "", "-nostdin", "-loglevel", "error", "-y", *inputs, *copy], check=True)


def _look(path: Path) -> dict[str, Any]:
    shown = "packet=stream_index,pts_time,dts_time,size,flags:stream=codec_name,width,height:format_tags"
    asked = ["ffprobe", "-v", "error", "-show_entries", shown, "-of", "json", str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    return found


@needs_ffprobe
@pytest.mark.parametrize(("picture", "sound", "muxer"), CASES)
def test_packets_and_their_moments_are_those_that_ffmpeg_makes(
    films: dict[str, Path], tmp_path: Path, picture: str, sound: str, muxer: str
) -> None:
    pair = [films[picture], films[sound]]
    _join(pair, tmp_path / "ours", muxer)
    _by_ffmpeg(pair, tmp_path / "theirs", muxer)
    ours, theirs = _look(tmp_path / "ours"), _look(tmp_path / "theirs")
    assert ours["streams"] == theirs["streams"]
    for track in (0, 1):
        assert [p for p in ours["packets"] if p["stream_index"] == track] == [
            p for p in theirs["packets"] if p["stream_index"] == track
        ]


@needs_ffprobe
@pytest.mark.parametrize("muxer", ["mp4", "matroska"])
def test_pictures_that_are_not_shown_in_the_order_of_decoding_all_arrive(
    films: dict[str, Path], tmp_path: Path, muxer: str
) -> None:
    """Matroska does not say when they are decoded."""
    inputs = ["-f", "lavfi", "-i", "testsrc=size=320x240:rate=30:duration=2"]
    encoded = ["-c:v", "libx264", "-bf", "3", "-g", "30", str(tmp_path / "in.mkv")]
    subprocess.run([find_ffmpeg() or "", "-nostdin", "-loglevel", "error", "-y", *inputs, *encoded], check=True)
    _join([tmp_path / "in.mkv", films["aac"]], tmp_path / "out", muxer)
    count = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0"]
    shown = [*count, "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(tmp_path / "out")]
    assert subprocess.run(shown, check=True, capture_output=True).stdout.strip() == b"60"


@needs_ffprobe
def test_tags_are_those_that_were_given_and_no_others(films: dict[str, Path], tmp_path: Path) -> None:
    _join([films["h264"], films["aac"]], tmp_path / "out", "mp4", title="Ein schöner Titel", artist='A "B" = C')
    tags = _look(tmp_path / "out")["format"]["tags"]
    assert (tags["title"], tags["artist"]) == ("Ein schöner Titel", 'A "B" = C')
    assert "comment" not in tags


def test_an_mp4_can_be_played_while_it_is_fetched(films: dict[str, Path], tmp_path: Path) -> None:
    _join([films["h264"], films["aac"]], tmp_path / "out", "mp4")
    content = (tmp_path / "out").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_stream_that_is_none_is_refused_with_a_clear_code(films: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_bytes(b"<html>not a film</html>" * 100)
    with pytest.raises(Refused) as refused:
        _join([films["h264"], tmp_path / "nonsense"], tmp_path / "out", "mp4")
    assert refused.value.code == "processing_failed"


def test_a_playlist_in_place_of_a_stream_reads_no_file_of_the_machine(films: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"ffconcat version 1.0\nfile {films['aac']}\n")
    with pytest.raises(Refused):
        _join([films["h264"], tmp_path / "list"], tmp_path / "out", "mp4")


def test_a_full_disk_is_told_as_such(films: dict[str, Path]) -> None:
    with pytest.raises(OSError, match="space"):
        _join([films["h264"], films["aac"]], Path("/dev/full"), "matroska")


def test_progress_rises_to_the_end(films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remux, "REPORT_SECONDS", 0.0)
    reported = _join([films["h264"], films["aac"]], tmp_path / "out", "mp4")
    assert reported == sorted(reported) and 0.0 <= reported[0] < 0.1 and 0.9 < reported[-1] <= 1.1
