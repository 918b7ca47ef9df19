"""What a job cannot reach: private addresses however written, other programs, files outside its folders."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.youtube import YouTube
from tests.fetching import fail, fetch, order_for
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Forbidden, Guard, resolve_proxy
from ytdl.fetcher import Fetcher, Settings, find_ffmpeg
from ytdl.fetcher.forkserver import ROOT
from ytdl.fetcher.tools import find_deno, write_wrapper


def guard_for(folder: Path, **setup: Any) -> Guard:
    order = Order("1.1", "https://x.test/", "best", "mp4", str(folder / "work"), [str(folder / "earlier")])
    return Guard(Setup(["youtube"], **setup), order)


def refuses(guard: Guard, event: str, *args: Any) -> bool:
    try:
        guard.hook(event, args)
    except Forbidden:
        return True
    return False


ODD_TARGETS = [
    ("localhost", 80),
    ("2130706433", 80),
    ("127.1", 80),
    ("::1%lo", 80, 0, 0),
    ("fe80::1%eth0", 80, 0, 2),
    ("", 80),
    (2, 80),
    "/run/docker.sock",
    b"\0abstract",
]


@pytest.mark.parametrize("target", ODD_TARGETS, ids=repr)
@pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.sendmsg"])
def test_no_spelling_of_an_inner_address_gets_through(tmp_path: Path, event: str, target: Any) -> None:
    assert refuses(guard_for(tmp_path), event, None, target)


KINDS = [
    (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, False),
    (socket.AF_INET6, socket.SOCK_DGRAM, False),
    (socket.AF_INET, socket.SOCK_RAW, True),
    (socket.AF_UNIX, socket.SOCK_STREAM, True),
    (socket.AF_NETLINK, socket.SOCK_DGRAM, True),
    (socket.AF_VSOCK, socket.SOCK_STREAM, True),
    (socket.AF_PACKET, socket.SOCK_RAW, True),
]


@pytest.mark.parametrize(("family", "kind", "refused"), KINDS)
def test_a_job_has_sockets_for_tcp_and_udp_only(tmp_path: Path, family: int, kind: int, refused: bool) -> None:
    assert refuses(guard_for(tmp_path), "socket.__new__", None, family, kind, 0) is refused


REQUESTS = {
    b"CONNECT 127.0.0.1:443 HTTP/1.0\r\n": True,
    b"CONNECT [::1]:443 HTTP/1.1\r\n": True,
    b"CONNECT ::1:443 HTTP/1.0\r\n": True,
    b"CONNECT 2130706433:443 HTTP/1.1\r\n": True,
    b"CONNECT 127.1:443 HTTP/1.1\r\n": True,
    b"CONNECT localhost:443 HTTP/1.1\r\n": True,
    b"CONNECT metadata.google.internal:80 HTTP/1.1\r\n": True,
    b"GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\n": True,
    b"POST http://www.youtube.com@10.0.0.1:80/x HTTP/1.1\r\n": True,
    b"GET http://2130706433/x HTTP/1.1\r\n": True,
    b"GET http:///x HTTP/1.1\r\n": True,
    b"GET HTTP://[fd00:ec2::254]/ HTTP/1.1\r\n": True,
    b"CONNECT www.youtube.com:443 HTTP/1.1\r\n": False,
    b"CONNECT 2606:4700::1111:443 HTTP/1.0\r\n": False,
    b"GET http://www.youtube.com/http://10.0.0.1/ HTTP/1.1\r\n": False,
    b"GET /watch HTTP/1.1\r\nHost: 127.0.0.1\r\n": False,
    b'{"url": "CONNECT 127.0.0.1:443 "}': False,
}


@pytest.mark.parametrize(("request_", "refused"), REQUESTS.items())
def test_a_proxy_is_not_asked_for_inner_hosts(tmp_path: Path, request_: bytes, refused: bool) -> None:
    guard = guard_for(tmp_path, proxy="http://127.0.0.1:3128")
    assert refuses(guard, "http.client.send", None, request_) is refused
    assert bool(guard.refused_address) is refused


def test_behind_a_proxy_only_the_proxy_can_be_reached(tmp_path: Path) -> None:
    guard = guard_for(tmp_path, proxy="http://user:secret@127.0.0.1:3128")
    assert not refuses(guard, "socket.connect", None, ("127.0.0.1", 3128))
    for target in (("127.0.0.1", 3129), ("8.8.8.8", 3128), ("10.0.0.1", 3128)):
        assert refuses(guard, "socket.connect", None, target)


def test_a_proxy_by_name_is_reached_by_its_address(tmp_path: Path) -> None:
    assert ("127.0.0.1", 80) in resolve_proxy("http://localhost")
    assert ("127.0.0.1", 443) in resolve_proxy("https://localhost")
    assert ("127.0.0.1", 1080) in resolve_proxy("socks5h://localhost")
    assert resolve_proxy(None) == set()


def test_an_admin_can_open_a_network(tmp_path: Path) -> None:
    guard = guard_for(tmp_path, allowed_networks=["10.1.0.0/16", "fd00::/8"])
    for host, refused in (("10.1.2.3", False), ("10.2.0.1", True), ("fd00::1", False), ("127.0.0.1", True)):
        assert refuses(guard, "socket.connect", None, (host, 80)) is refused


def test_only_our_two_programs_can_be_started(tmp_path: Path) -> None:
    guard = guard_for(tmp_path, ffmpeg="/rt/bin/ffmpeg", deno="/rt/bin/deno")
    assert not refuses(guard, "subprocess.Popen", None, ["/rt/bin/ffmpeg", "-i", "x"], None, None)
    assert not refuses(guard, "subprocess.Popen", "/rt/bin/deno", ["deno"], None, None)
    for executable, arguments in (
        (None, ["ffmpeg"]),
        ("/bin/sh", ["/rt/bin/ffmpeg"]),
        (None, ["/usr/bin/aria2c"]),
    ):
        assert refuses(guard, "subprocess.Popen", executable, arguments, None, None)
    for event in ("os.system", "os.exec", "os.fork", "os.forkpty", "pty.spawn"):
        assert refuses(guard, event, "x")


def test_files_are_written_inside_the_folders_of_the_download_only(tmp_path: Path) -> None:
    guard = guard_for(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to("/etc")
    inside = [tmp_path / "work" / "a", tmp_path / "earlier" / "lock", Path("/dev/null")]
    outside = [
        tmp_path / "a",
        tmp_path / "work" / ".." / "a",
        tmp_path / "work" / "link" / "passwd",
        tmp_path / "work2",
    ]
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        assert not any(refuses(guard, "open", path, None, flags) for path in inside)
        assert all(refuses(guard, "open", path, None, flags) for path in outside)
    assert not refuses(guard, "open", "/etc/passwd", "r", os.O_RDONLY)


CHANGES = """
lambda: os.rename(own, out / "new")
lambda: os.rename(other, own)
lambda: os.replace(other, own)
lambda: os.rename("file", own, src_dir_fd=folder)
lambda: os.rename(own, "new", dst_dir_fd=folder)
lambda: os.link(own, "new", dst_dir_fd=folder)
lambda: os.link("file", work / "new", src_dir_fd=folder)
lambda: os.remove(other)
lambda: other.unlink()
lambda: os.unlink("file", dir_fd=folder)
lambda: os.remove(out / "back")
lambda: os.rmdir(out / "empty")
lambda: os.rmdir("empty", dir_fd=folder)
lambda: os.mkdir(out / "new")
lambda: os.mkdir("new", dir_fd=folder)
lambda: os.mkdir(work / ".." / "new")
lambda: os.link(other, work / "new")
lambda: os.link(own, out / "new")
lambda: os.symlink(own, out / "new")
lambda: os.symlink(own, "new", dir_fd=folder)
lambda: os.truncate(other, 0)
lambda: os.truncate(work / "way" / "file", 0)
lambda: os.truncate(work / "door", 0)
lambda: os.chmod(other, 0o777)
lambda: os.chmod(work / "door", 0o777)
lambda: os.fchmod(descriptor, 0o777)
lambda: os.chown(other, os.getuid(), -1)
lambda: os.chown("file", os.getuid(), -1, dir_fd=folder)
lambda: os.utime(other)
lambda: os.setxattr(other, "user.x", b"x")
lambda: os.removexattr(other, "user.x")
lambda: os.mkfifo(work / "pipe")
lambda: os.mknod(work / "node")
lambda: os.open("file", os.O_WRONLY, dir_fd=folder)
lambda: os.open("new", os.O_CREAT, dir_fd=folder)
lambda: sqlite3.connect(out / "new.db")
lambda: shutil.rmtree(out)
lambda: shutil.move(other, out / "new")
lambda: shutil.copy(own, out / "new")
"""
ALLOWED = """
lambda: os.mkdir(work / "new")
lambda: os.mkdir("newer", dir_fd=home)
lambda: os.rename(work / "new", work / "newest")
lambda: os.rename("newest", "new", src_dir_fd=home, dst_dir_fd=home)
lambda: os.link(own, work / "second")
lambda: os.symlink(own, work / "link")
lambda: os.truncate(own, 0)
lambda: os.ftruncate(os.open(own, os.O_RDWR), 0)
lambda: os.chmod(work / "link", 0o600)
lambda: os.utime(own)
lambda: os.remove(work / "second")
lambda: os.remove("link", dir_fd=home)
lambda: os.rmdir(work / "new/")
lambda: os.open("own", os.O_RDONLY, dir_fd=home)
lambda: os.open(own, os.O_RDWR)
lambda: shutil.rmtree(work / "newer")
"""
TRY_CHANGES = """
import os, shutil, sqlite3, sys
from pathlib import Path
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Forbidden, Guard
work, out, attempts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
own, other = work / "own", out / "file"
home, folder, descriptor = (os.open(path, os.O_RDONLY) for path in (work, out, other))
os.chdir(work)  # as a job does: what is relative to another folder must not be taken for relative to this one
Guard(Setup(["youtube"]), Order("1.1", "u", "best", "mp4", str(work))).install()
for line in attempts.strip().splitlines():
    try:
        eval(line)()
        print("allowed", line)
    except Forbidden:
        print("forbidden", line)
"""


@pytest.mark.parametrize(("attempts", "verdict"), [(CHANGES, "forbidden"), (ALLOWED, "allowed")])
def test_names_are_changed_in_the_folders_of_the_download_only(tmp_path: Path, attempts: str, verdict: str) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    for path in (work, out, out / "empty"):
        path.mkdir()
    (work / "own").write_text("own")
    (out / "file").write_text("other")
    (out / "back").symlink_to(work / "own")
    (work / "way").symlink_to(out)
    (work / "door").symlink_to(out / "file")
    command = [sys.executable, "-c", TRY_CHANGES, str(work), str(out), attempts]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said == [f"{verdict} {line}" for line in attempts.strip().splitlines()]
    assert verdict == "allowed" or sorted(path.name for path in tmp_path.rglob("*")) == UNCHANGED


UNCHANGED = sorted(("work", "own", "way", "door", "out", "file", "empty", "back"))


def test_the_rules_hold_in_a_real_interpreter_and_cannot_be_taken_off(tmp_path: Path) -> None:
    code = """
import ctypes, os, socket, subprocess, sys
from pathlib import Path
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Guard
udp, pair, libc = socket.socket(type=socket.SOCK_DGRAM), socket.socketpair(), ctypes.CDLL(None)
Guard(Setup(["youtube"]), Order("1.1", "u", "best", "mp4", sys.argv[1])).install()
def tries():
    yield lambda: socket.create_connection(("127.0.0.1", 1), 1)
    yield lambda: socket.create_connection(("localhost", 1), 1)
    yield lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 1))
    yield lambda: udp.sendto(b"x", ("127.0.0.1", 1))
    yield lambda: udp.sendmsg([b"x"], [], 0, ("127.0.0.1", 1))
    yield lambda: udp.connect(("127.0.0.1", 1))
    yield lambda: socket.socket().connect_ex(("127.0.0.1", 1))
    yield lambda: socket.socket(socket.AF_UNIX)
    yield lambda: socket.socketpair()
    yield lambda: socket.socket().bind(("127.0.0.1", 0))
    yield lambda: ctypes.CDLL("libm.so.6")
    yield lambda: libc.system
    yield lambda: ctypes.CDLL(None)
    yield lambda: subprocess.run(["/bin/true"])
    yield lambda: os.system("true")
    yield lambda: os.posix_spawn("/bin/true", ["true"], {})
    yield lambda: os.fork()
    yield lambda: Path("/tmp/outside").write_text("x")
for each in tries():
    try:
        each()
        print("allowed")
    except PermissionError as error:
        print(type(error).__name__)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["Forbidden"] * 18


Site = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def inner() -> AsyncIterator[tuple[int, list[str]]]:
    """A server on loopback that should never be asked, and what it was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="secret", content_type="video/mp4")

    runner = web.AppRunner(web.Application(), access_log=None)
    runner.app.router.add_get("/{path:.*}", answer)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1], asked
    await runner.cleanup()


def test_the_javascript_runtime_starts_inside_the_limits_and_rules(tmp_path: Path) -> None:
    deno = write_wrapper(tmp_path, "deno", find_deno() or "")
    code = """
import subprocess, sys
from ytdl.child import confine
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Guard
setup = Setup(["youtube"], deno=sys.argv[1])
confine.limit(setup, "1.1")
Guard(setup, Order("1.1", "u", "best", "mp4", "/nonexistent")).install()
subprocess.run([setup.deno, "eval", "console.log(6 * 7)"], check=True)
"""
    command = [sys.executable, "-c", code, deno]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    assert output.strip() == "42"


def cut_into_segments(folder: Path) -> None:
    """A short film as an HLS playlist with segments, made by ffmpeg."""
    source = ["-f", "lavfi", "-i", "testsrc=size=320x180:rate=10", "-f", "lavfi", "-i", "sine=frequency=440"]
    codecs = ["-t", "6", "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-c:a", "aac", "-threads", "1"]
    hls = ["-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", str(folder / "film.m3u8")]
    command = [find_ffmpeg() or "ffmpeg", "-nostdin", "-loglevel", "error", *source, *codecs, *hls]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture
async def film(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """The address of an HLS film on loopback, and its folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    await asyncio.to_thread(cut_into_segments, folder)
    app = web.Application()
    app.router.add_static("/", folder)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/film.m3u8", folder
    await runner.cleanup()


@pytest.fixture
async def open_fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    """A fetcher for any site that may reach 127.0.0.1, but not the rest of loopback."""
    settings = Settings(tmp_path / "runtime", find_ffmpeg(), allowed_extractors=("generic",))
    fetcher = Fetcher(replace(settings, allowed_networks=("127.0.0.1/32",), socket_timeout_seconds=20.0))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


async def test_segments_are_fetched_by_us_and_joined_by_ffmpeg(
    tmp_path: Path, film: tuple[str, Path], open_fetcher: Fetcher
) -> None:
    done, _, _ = await fetch(open_fetcher, Order("1.1", film[0], "best", "mp4", str(tmp_path / "work")))
    assert (done.video_codec, done.audio_codec, done.height) == ("h264", "aac", 180)
    assert done.duration_seconds == pytest.approx(6.0, abs=0.3)


async def test_a_missing_segment_is_no_success(tmp_path: Path, film: tuple[str, Path], open_fetcher: Fetcher) -> None:
    (film[1] / "film1.ts").unlink()
    failure = await fail(open_fetcher, Order("1.1", film[0], "best", "mp4", str(tmp_path / "work")))
    assert failure.failure.code == "upstream_forbidden" and failure.failure.retryable


@pytest.mark.parametrize(
    ("segment", "codes"),
    [
        ("file:///etc/hostname", ("upstream_error", "internal")),
        ("http://127.0.0.2:9/inner.ts", ("address_forbidden",)),
        ("http://169.254.169.254/latest/meta-data", ("address_forbidden",)),
    ],
)
async def test_a_manifest_cannot_point_inside(
    tmp_path: Path, film: tuple[str, Path], open_fetcher: Fetcher, segment: str, codes: tuple[str, ...]
) -> None:
    manifest = film[1] / "film.m3u8"
    manifest.write_text(manifest.read_text().replace("film1.ts", segment))
    failure = await fail(open_fetcher, Order("1.1", film[0], "best", "mp4", str(tmp_path / "work")))
    assert failure.failure.code in codes


DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT6S"><Period><AdaptationSet mimeType="video/mp4"><SegmentTemplate timescale="1" duration="3"
startNumber="1" media="{place}$Number$.m4s" initialization="{place}0.m4s"/><Representation id="1" bandwidth="1"
width="320" height="180" codecs="avc1.4d401e"/></AdaptationSet></Period></MPD>"""


@pytest.mark.parametrize("place", ["http://[::1]:9/", "https://169.254.169.254/"])
async def test_a_dash_manifest_cannot_point_inside(
    tmp_path: Path, film: tuple[str, Path], open_fetcher: Fetcher, place: str
) -> None:
    (film[1] / "film.mpd").write_text(DASH.replace("{place}", place))
    url = film[0].replace("m3u8", "mpd")
    failure = await fail(open_fetcher, Order("1.1", url, "best", "mp4", str(tmp_path / "work")))
    assert failure.failure.code == "address_forbidden"


async def test_pictures_subtitles_and_lists_are_not_asked_for(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    """What a site names there leads nowhere, since nobody goes."""
    youtube.forget()
    await fetch(fetcher, order_for(youtube, tmp_path, embed_metadata=True))
    asked = {(seen.host, seen.path.split("/")[1]) for seen in youtube.requests}
    assert {host for host, _ in asked} <= {"www.youtube.com", "rr1---sn-standin.googlevideo.com"}
    assert {path for _, path in asked} <= {"watch", "youtubei", "videoplayback", "iframe_api", "s"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_even_the_generic_extractor_cannot_reach_inside(
    tmp_path: Path, inner: tuple[int, list[str]], host: str
) -> None:
    port, asked = inner
    fetcher = Fetcher(Settings(tmp_path / "runtime", allowed_extractors=("generic",), socket_timeout_seconds=20.0))
    await fetcher.start()
    try:
        url = f"http://{host}:{port}/movie.mp4"
        failure = await fail(fetcher, Order("1.1", url, "best", "any", str(tmp_path / "work")))
    finally:
        await fetcher.stop()
    assert failure.failure.code == "address_forbidden" and not failure.failure.retryable
    await asyncio.sleep(0)
    assert asked == []
