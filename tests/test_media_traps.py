"""Media that names other files or addresses: neither PyAV nor ffmpeg opens what it names.

Both are native code, which no audit hook sees: the kernel says whether the file was opened, a server whether it was
asked. The same traps are shown to work where nothing is closed.
"""

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.opening import Watch
from ytdl.child import encode, remux, verify
from ytdl.child.errors import Refused
from ytdl.child.formats import Choice
from ytdl.child.frames import Setup
from ytdl.child.partials import Folder
from ytdl.fetcher import find_ffmpeg

FFMPEG = find_ffmpeg() or "ffmpeg"
SOUND = ["-f", "lavfi", "-i", "sine=frequency=440:duration=2"]


def _run(*words: str, folder: Path) -> int:
    command = [FFMPEG, "-nostdin", "-loglevel", "quiet", "-y", *words]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, timeout=60).returncode


@cache
def _sound() -> bytes:
    with TemporaryDirectory() as folder:
        _run(*SOUND, "sound.mp3", folder=Path(folder))
        return (Path(folder) / "sound.mp3").read_bytes()


class Trap:
    """A folder of a job with a secret beside it, and a port of this machine that hears who connects."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.secret = folder / "secret.mp3"
        self.secret.write_bytes(_sound())
        self.folder = Folder(str(folder / "work"))
        self.source = self.folder.path / "140.m4a"
        (self.folder.path / "beside.mp3").write_bytes(self.secret.read_bytes())
        self._watches = [Watch(self.secret), Watch(self.folder.path / "beside.mp3")]
        self._door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._door.setblocking(False)
        self.port = self._door.getsockname()[1]
        for watch in self._watches:
            stack.callback(watch.close)

    def was_sprung(self) -> bool:
        """Whether anybody opened what the trap names."""
        opened = [watch.was_opened() for watch in self._watches]
        return any(opened) or self._was_asked()

    def _was_asked(self) -> bool:
        try:
            self._door.accept()[0].close()
            return True
        except BlockingIOError:
            return False

    def set(self, text: str) -> None:
        known = {"path": str(self.secret), "http": f"http://127.0.0.1:{self.port}/x.mp3", "port": str(self.port)}
        for name, value in known.items():
            text = text.replace("{" + name + "}", value)
        self.source.write_text(text)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    with ExitStack() as stack:
        yield Trap(tmp_path, stack)


def hls(segment: str, more: str = "") -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n{more}#EXTINF:2.0,\n{segment}\n#EXT-X-ENDLIST\n"


_DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1"
codecs="mp4a.40.2"><BaseURL>%s</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>"""
TEXTS = {
    "an HLS list with a path": hls("{path}"),
    "an HLS list with a file": hls("file://{path}"),
    "an HLS list with a neighbour": hls("beside.mp3"),
    "an HLS list with an address": hls("{http}"),
    "an HLS list with a key": hls("beside.mp3", '#EXT-X-KEY:METHOD=AES-128,URI="{http}"\n'),
    "an HLS list with a map": hls("beside.mp3", '#EXT-X-MAP:URI="file://{path}"\n'),
    "an HLS list with another list": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{http}\n",
    "an HLS list with subfile": hls("subfile,,start,0,end,0,,:{path}"),
    "an HLS list with concat": hls("concat:{path}"),
    "an HLS list with crypto": hls("crypto:{path}"),
    "an HLS list with tcp": hls("tcp://127.0.0.1:{port}"),
    "a concat script with a path": "ffconcat version 1.0\nfile {path}\n",
    "a concat script with a file": "ffconcat version 1.0\nfile 'file:{path}'\n",
    "a concat script with a neighbour": "ffconcat version 1.0\nfile beside.mp3\n",
    "a concat script with an address": "ffconcat version 1.0\nfile {http}\n",
    "a DASH manifest with a file": _DASH % "{path}",
    "a DASH manifest with an address": _DASH % "{http}",
    "a description of a session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "a reference to RTSP": "RTSPtext\nrtsp://127.0.0.1:{port}/x\n",
    "a list of references": "[Reference]\nRef1={http}\n",
    "an ASX list": '<asx version="3.0"><entry><ref href="{http}"/></entry></asx>',
}
_STREAM = {"format_id": "140", "ext": "m4a", "acodec": "mp4a", "vcodec": "none", "url": "https://x.test/"}
SOUND_ONLY = Choice([_STREAM], "mp3", audio_only=True)


def encode_(trap: Trap) -> None:
    encode.make(SOUND_ONLY, trap.folder, Setup([], ffmpeg=FFMPEG), {}, False, lambda done: None)


def join(trap: Trap) -> None:
    remux.join([trap.source], [["audio"]], trap.folder.path / "out.mka", "matroska", {}, lambda done: None)


def measure(trap: Trap) -> None:
    verify.measure(trap.source, Choice([_STREAM], "m4a", audio_only=True), None)


WAYS = {"encoding": encode_, "joining": join, "checking": measure}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_text_that_names_other_media_opens_nothing(trap: Trap, way: str, name: str) -> None:
    trap.set(TEXTS[name])
    with pytest.raises(Refused):
        WAYS[way](trap)
    assert not trap.was_sprung()


LIVE = ["an HLS list with a path", "an HLS list with a neighbour", "a concat script with a neighbour"]


@pytest.mark.parametrize("name", LIVE)
def test_the_trap_springs_where_formats_are_not_closed(trap: Trap, name: str) -> None:
    """Else the test above would show nothing. These need no more than leave to read files."""
    trap.set(TEXTS[name])
    code = _run("-protocol_whitelist", "file,pipe", "-i", trap.source.name, "out.mp3", folder=trap.folder.path)
    assert code == 0 and trap.was_sprung()


def test_the_trap_with_an_address_springs_where_the_network_is_open(trap: Trap) -> None:
    trap.set(TEXTS["an HLS list with a key"])
    words = ["-rw_timeout", "200000", "-protocol_whitelist", "file,http,tcp,crypto", "-allowed_extensions", "ALL"]
    _run(*words, "-i", trap.source.name, "out.mp3", folder=trap.folder.path)
    assert trap.was_sprung()


def _with_media_elsewhere(film: bytes, target: str) -> bytes:
    """The same film, with its samples in another file: an mp4 may say so in `dref`, as a Macintosh alias of a path."""
    path = target.encode()
    alias = bytes(150) + struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    fresh = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    at = film.index(b"dref") - 4
    size = struct.unpack(">I", film[at : at + 4])[0]
    grown = bytearray(film[:at] + fresh + film[at + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = grown.index(name) - 4
        grown[place : place + 4] = struct.pack(
            ">I", struct.unpack(">I", grown[place : place + 4])[0] + len(fresh) - size
        )
    return bytes(grown)


@pytest.fixture
def far(trap: Trap) -> Trap:
    """A sound in mp4 that says that its samples are in the secret file."""
    _run(*SOUND, "-c:a", "aac", "own.m4a", folder=trap.folder.path)
    film = (trap.folder.path / "own.m4a").read_bytes()
    trap.source.write_bytes(_with_media_elsewhere(film, str(trap.secret)))
    return trap


@pytest.mark.parametrize("way", WAYS)
def test_a_film_that_points_to_another_file_reads_its_own_alone(far: Trap, way: str) -> None:
    with suppress(Refused):
        WAYS[way](far)
    assert not far.was_sprung()


def test_the_film_that_points_elsewhere_is_followed_by_who_wants_it(far: Trap) -> None:
    words = ["-enable_drefs", "1", "-use_absolute_path", "1", "-i", far.source.name, "-c", "copy", "out.mka"]
    _run(*words, folder=far.folder.path)
    assert far.was_sprung()
