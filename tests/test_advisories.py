"""What went wrong in yt-dlp and in services like this one, each as a test that would have caught it here.

Against the stand-in, the real yt-dlp and the running service. PyJWT's are in `test_tokens`, request smuggling, which is
CVE-2026-69243 of aiohttp, is in `test_smuggling`.
"""

import ast
import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yt_dlp.downloader import get_suitable_downloader
from yt_dlp.downloader.external import ExternalFD
from yt_dlp.utils import smuggle_url

from tests.conftest import Person, Service
from tests.fakes.youtube import YouTube
from tests.fetching import fetch, order_for, settings_for
from tests.shape.source import modules
from ytdl import urls
from ytdl.child import options
from ytdl.child.formats import CONTENT_TYPES, PROTOCOLS, choose
from ytdl.child.frames import Setup
from ytdl.fetcher import Fetcher, FetchFailed
from ytdl.fetcher.forkserver import ROOT

URL = "https://www.youtube.com/watch?v=ordinary_01"
COOKIES = "# Netscape HTTP Cookie File\n.youtube.com\tTRUE\t/\tTRUE\t0\tSECRET\tof-alice\n"


def files_below(folder: Path) -> set[str]:
    """What was made there, but for the fork server's own folder."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "runtime" not in path.parts
    }


# CVE-2023-35934 (GHSA-v8mc-9377-rwjj): cookies of one host were sent to another after a redirect.


class Hosts:
    """Two hosts: the first sends its visitor to the second."""

    def __init__(self) -> None:
        self.cookies: dict[str, str | None] = {}
        self.second = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        host = request.host.partition(":")[0]
        self.cookies[host] = request.headers.get("Cookie")
        moved = host == "127.0.0.1" and bool(self.second)
        return web.Response(status=302, headers={"Location": self.second}) if moved else web.Response(text="film")


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[Hosts, int]]:
    hosts = Hosts()
    runner = web.ServerRunner(web.Server(hosts.answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    yield hosts, runner.addresses[0][1]
    await runner.cleanup()


ASKING = """
import sys
from yt_dlp.networking import Request
from ytdl.child.client import Client
from ytdl.child.frames import Setup
client = Client(Setup(["generic"]))
if sys.argv[3] == "file":
    client.use_cookies(sys.argv[2])
else:
    client.load_cookies("SECRET=of-alice; Domain=127.0.0.1; Path=/")
client.urlopen(Request(sys.argv[1], proxies={"all": None})).read()
"""


@pytest.mark.parametrize("given", ["file", "stream"])
async def test_cve_2023_35934_a_redirect_takes_no_cookie_to_another_host(
    hosts: tuple[Hosts, int], tmp_path: Path, given: str
) -> None:
    (tmp_path / "cookies.txt").write_text(
        COOKIES.replace(".youtube.com\tTRUE", "127.0.0.1\tFALSE").replace("/\tTRUE", "/\tFALSE")
    )
    hosts[0].second = f"http://127.0.0.2:{hosts[1]}/film"
    command = [sys.executable, "-c", ASKING, f"http://127.0.0.1:{hosts[1]}/", str(tmp_path / "cookies.txt"), given]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await process.wait() == 0
    assert hosts[0].cookies == {"127.0.0.1": "SECRET=of-alice", "127.0.0.2": None}


@pytest.mark.parametrize("moved", ["", "https://rr9---sn-elsewhere.googlevideo.com/videoplayback?{query}"])
async def test_cve_2023_35934_only_the_site_gets_the_cookies_of_the_site(
    youtube: YouTube, tmp_path: Path, moved: str
) -> None:
    (tmp_path / "cookies.txt").write_text(COOKIES)
    youtube.misbehave(media_moved=moved)
    youtube.forget()
    fetcher = Fetcher(settings_for(youtube, tmp_path, cookies_file=str(tmp_path / "cookies.txt")))
    await fetcher.start()
    try:
        await fetch(fetcher, order_for(youtube, tmp_path))
    finally:
        await fetcher.stop()
    told = {seen.host for seen in youtube.requests if "cookie" in seen.headers}
    assert told == {"www.youtube.com"} and any("googlevideo" in seen.host for seen in youtube.requests)


# CVE-2023-40581, CVE-2024-22423, CVE-2025-54072, GHSA-69qj-pvh9-c5wg: --exec ran what a title or a file name said.
# CVE-2026-26331 (GHSA-g3gw-q23r-pgqm): --netrc-cmd did so with a host's name.
# CVE-2026-50019, CVE-2026-50574: curl took cookies along, and aria2c ran what a manifest said.
# metube's pull request 950: any option of yt-dlp could be set by a request, and so all of the above.

RUNNING = """
import os, sys
from pathlib import Path
from yt_dlp.downloader import get_suitable_downloader
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.postprocessor.exec import ExecPP
from ytdl.child.client import Client
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Forbidden, Guard
work, tools = Path(sys.argv[1]), sys.argv[2]
os.chdir(work)
os.environ["PATH"] = tools + ":" + os.environ["PATH"]
client = Client(Setup(["generic", "youtube"]))
client.params["retries"] = 0
title = "$(touch made)`touch made`"
info = {"id": "x", "title": title, "filepath": "x;touch made", "url": "http://127.0.0.1:9/", "ext": "mp4"}
def netrc():
    client.params["netrc_cmd"] = "touch made"
    YoutubeIE(client)._get_netrc_login_info("host")
def fetch_by(program):
    client.params["external_downloader"] = {"default": program}
    stream = {**info, "protocol": "https", "format_id": "1", "http_headers": {}}
    client.dl("out.mp4", stream)
tries = {
    "exec": lambda: ExecPP(client, "touch made").run(dict(info)),
    "exec with a field": lambda: ExecPP(client, "touch made %(title)q").run(dict(info)),
    "netrc": netrc,
    "curl": lambda: fetch_by("curl"),
    "aria2c": lambda: fetch_by("aria2c"),
    "wget": lambda: fetch_by("wget"),
    "axel": lambda: fetch_by("axel"),
}
if sys.argv[3] == "guarded":
    Guard(Setup(["youtube"]), Order("1.1", "u", "best", "mp4", str(work))).install()
for name, attempt in tries.items():
    try:
        attempt()
    except Exception:
        pass
    made = work / "made"
    print(name.replace(" ", "-"), made.exists())
    made.unlink(missing_ok=True)
"""
TRIES = ("exec", "exec-with-a-field", "netrc", "curl", "aria2c", "wget", "axel")


def _try_to_run(folder: Path, guarded: str) -> dict[str, str]:
    work, tools = folder / "work", folder / "tools"
    work.mkdir()
    tools.mkdir()
    for name in ("curl", "aria2c", "wget", "axel"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {work}/made\necho {name} 9.9.9\n")
        (tools / name).chmod(0o755)
    command = [sys.executable, "-c", RUNNING, str(work), str(tools), guarded]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in said.splitlines() if line.startswith(TRIES))


def test_cve_2025_54072_2026_26331_2026_50019_nothing_in_a_job_starts_another_program(tmp_path: Path) -> None:
    """Even if an option said so: the same attempts do start something where the rules are not in force."""
    (tmp_path / "a").mkdir()
    assert _try_to_run(tmp_path / "a", "free") == dict.fromkeys(TRIES, "True")
    (tmp_path / "b").mkdir()
    assert _try_to_run(tmp_path / "b", "guarded") == dict.fromkeys(TRIES, "False")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cve_2026_50574_no_protocol_is_left_to_an_external_downloader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    for name in ("curl", "aria2c", "wget", "ffmpeg"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} version 9.9.9\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    params = options.build(Setup(["youtube"], ffmpeg=str(tmp_path / "ffmpeg")), None, lambda status: None)
    info = {"url": f"{protocol}://x.test/", "protocol": protocol, "ext": "mp4", "format_id": "1"}
    chosen = get_suitable_downloader(info, params)
    assert not issubclass(chosen, ExternalFD)


@pytest.mark.parametrize("protocol", ["rtmp", "rtmp_ffmpeg", "rtsp", "mms", "ftp", "file", "ism", "websocket_frag"])
def test_cve_2026_50574_a_stream_of_another_protocol_is_not_chosen(protocol: str) -> None:
    stream = {"url": f"{protocol}://x.test/", "protocol": protocol, "ext": "mp4", "format_id": "1", "height": 360}
    assert choose([stream], "best", "mp4") is None
    assert choose([{**stream, "protocol": "https"}], "best", "mp4")


OPTIONS: list[dict[str, Any]] = [
    {"ytdl_options": {"exec": "touch /tmp/x"}},
    {"ytdl_options_overrides": {"postprocessors": [{"key": "Exec", "exec_cmd": "id"}]}},
    {"postprocessors": [{"key": "Exec", "exec_cmd": "id"}]},
    {"exec": "id"},
    {"exec_cmd": "id"},
    {"netrc_cmd": "id"},
    {"external_downloader": "aria2c"},
    {"external_downloader_args": ["--on-download-complete=id"]},
    {"outtmpl": "/etc/cron.d/x"},
    {"folder": "../../etc"},
    {"custom_name_prefix": "../../"},
    {"paths": {"home": "/etc"}},
    {"cookiefile": "/etc/passwd"},
    {"proxy": "http://127.0.0.1:3128"},
    {"options": {"exec": "id"}},
    {"options": {"outtmpl": "/etc/x"}},
    {"format": "bv*+ba --exec id"},
    {"format": "mp4/../../x"},
    {"quality": "best --exec id"},
]


async def test_metube_pull_950_a_request_sets_no_option_of_yt_dlp(alice: Person) -> None:
    statuses = {str(more): (await alice.post("/downloads", {"url": URL, **more})).status for more in OPTIONS}
    assert statuses == dict.fromkeys(map(str, OPTIONS), 422)


# CVE-2023-46121 (GHSA-3ch3-jhc6-5r8x): what was smuggled in an address set a proxy and headers.


def test_cve_2023_46121_nothing_is_smuggled_in_with_an_address() -> None:
    smuggled = smuggle_url(URL, {"http_headers": {"X-Evil": "1"}, "proxy": "http://127.0.0.1:1", "to_generic": True})
    assert "__youtubedl_smuggle" in smuggled
    assert urls.parse(smuggled).canonical_url == URL


async def test_cve_2023_46121_what_is_fetched_is_the_plain_address(alice: Person) -> None:
    response = await alice.post("/downloads", {"url": smuggle_url(URL, {"to_generic": True})})
    assert (response.status, (await response.json())["canonical_url"]) == (202, URL)


# CVE-2024-38519 (GHSA-79w7-vh3h-8g4j), CVE-2026-50023 (GHSA-c6mh-fpjc-4pr3): a site chose the extension of the file.

KINDS = ["x-desktop", "desktop", "url", "webloc", "py", "svg+xml", ".."]


async def test_cve_2024_38519_cve_2026_50023_a_site_does_not_choose_the_name_of_a_file(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    names: set[str] = set()
    for number, kind in enumerate(KINDS):
        youtube.behave()
        youtube.misbehave(player_mime=kind)
        for wanted in ("any", "mp3"):
            folder = tmp_path / "work" / f"{wanted}{number}"
            order = order_for(youtube, tmp_path, wanted=wanted, job=f"{number}.1", work_dir=str(folder))
            try:
                done, _, _ = await fetch(fetcher, order)
                assert done.ext in CONTENT_TYPES and Path(done.path).name == f"out.{done.ext}"
            except FetchFailed:
                pass  # to want nothing of it is as good
        names |= files_below(tmp_path)
    allowed = {*(f".{ext}" for ext in CONTENT_TYPES), ".bin", ".note", ".part", ""}
    assert names and {Path(name).suffix for name in names} <= allowed
    assert {Path(name).parts[0] for name in names} == {"work"}


# GHSA-vh67-38x4-w8pc of metube: a title led out of the folder. CVE-2026-55404 (GHSA-6v4j-43gg-vj32): a title wrote into
# a shortcut beside the file.

ODD = ["slashes", "dots", "newlines", "template", "dash", "long", "quotes", "right_to_left"]


@pytest.mark.parametrize("wanted", ["mp4", "mp3"])
async def test_metube_ghsa_vh67_cve_2026_55404_a_title_is_no_part_of_a_path_and_of_no_other_file(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, wanted: str
) -> None:
    for name in ODD:
        work = tmp_path / "work" / name
        more: dict[str, Any] = {
            "work_dir": str(work),
            "embed_metadata": True,
            "quality": "360p" if wanted == "mp4" else "best",
        }
        done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path, name, wanted=wanted, **more))
        assert done.path == str(work / f"out.{wanted}")
        left = {path.name for path in work.iterdir()}
        assert {each.rpartition(".")[2] for each in left} <= {wanted, "mp4", "m4a", "webm", "note", "lock"}
    assert {Path(name).parts[:1] for name in files_below(tmp_path)} == {("work",)}


# metube before 0072d34: every site's page could use the API of who was signed in.


async def test_metube_0072d34_pages_of_other_sites_may_not_read_answers(service: Service) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin in ("https://evil.example", "null", f"{service.url}.evil.example"):
        for method in ("OPTIONS", "GET"):
            headers = {"Origin": origin, **asks}
            async with service.client.request(method, "/api/v1/downloads", headers=headers) as response:
                assert not [name for name in response.headers if name.lower().startswith("access-control-allow")]


# reclip's issue 78: an address that begins with dashes was read as an option (--batch-file=/etc/passwd).

DASHES = ["--batch-file=/etc/passwd", "-a/etc/passwd", "--exec=id", f"--config-locations=x {URL}"]


async def test_reclip_78_an_option_is_no_address(alice: Person) -> None:
    for url in DASHES:
        response = await alice.post("/downloads", {"url": url})
        assert response.status == 422 and (await response.json())["errors"][0]["field"] == "url"


# CVE-2026-59881 of aiohttp: its client unpacked frames of a WebSocket although nobody had agreed to packing.


def test_cve_2026_59881_the_service_opens_no_websocket_as_a_client() -> None:
    used = {node.attr for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "WebSocketResponse" in used and "ws_connect" not in used


# The releases that mended what cannot be seen from here. Of aiohttp that is CVE-2026-69244, by which its parser reads
# beyond the end of a broken answer: what is known to lead there gives the same error in releases with and without it.

FLOORS = {"yt-dlp": (2026, 10, 26), "aiohttp": (3, 14, 3), "PyJWT": (2, 15, 1)}


@pytest.mark.parametrize("name", FLOORS)
def test_no_release_with_a_known_hole_is_installed_or_locked(name: str) -> None:
    lock = (ROOT / "requirements.txt").read_text().lower()
    locked = next(line.split("==")[1].split()[0] for line in lock.splitlines() if line.startswith(f"{name.lower()}=="))
    for release in (version(name), locked):
        assert tuple(int(part) for part in release.split(".")[:3]) >= FLOORS[name]
