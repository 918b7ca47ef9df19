"""A name whose answer changes between two questions, and a site that sends its visitor inside: neither leads there."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from tests.fakes.hook import Answers, Hook
from tests.fetching import fail
from tests.spellings import Listener
from tests.test_outbound import config_for
from ytdl.child.frames import Order
from ytdl.fetcher import Fetcher, Settings, find_ffmpeg
from ytdl.fetcher.forkserver import ROOT
from ytdl.outbound import Outbound, Unreached


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        yield listening


# The resolver is outside our code, so here it is the test's: it gives another answer each time.
JOB = """
import json, socket, sys, urllib.request
from yt_dlp.networking import Request
from ytdl.child.client import Client
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Guard
port, answers, way = json.loads(sys.argv[1])
asked = []
def resolve(host, number, *args, **kwargs):
    asked.append(host)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[min(len(asked), len(answers)) - 1], number))]
socket.getaddrinfo = resolve
setup = Setup(["generic"], socket_timeout_seconds=20.0, allowed_networks=["127.0.0.2/32"])
client = Client(setup)
guard = Guard(setup, Order("1.1", "u", "best", "mp4", "/nonexistent"))
guard.install()
url = f"http://rebinding.example.com:{port}/"
for _ in answers:
    try:
        client.urlopen(Request(url, proxies={"all": None})).read()
        print("reached", flush=True)
    except Exception as error:
        print(guard.refused_address and "refused" or repr(error), flush=True)
"""


def test_a_job_is_let_to_the_address_that_it_was_given_and_not_to_the_name(listener: Listener) -> None:
    """The first answer is one that may be reached, the later ones are not; a name that was good once is not trusted."""
    given = json.dumps([listener.port, ["127.0.0.2", "127.0.0.1", "0.0.0.0"], ""])
    done = subprocess.run([sys.executable, "-c", JOB, given], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["reached", "refused", "refused"]
    assert listener.visits == 1


async def test_our_client_connects_to_the_address_that_it_judged(tmp_path: Path) -> None:
    """One question a request, so there is no second answer to be had."""
    resolver = Answers("127.0.0.1", "127.0.0.2", "127.0.0.1")
    async with Hook.new(tmp_path) as hook, Outbound(config_for(hook, ("127.0.0.1/32",)), resolver) as client:
        assert (await client.post(hook.url(), b"1", {})).status == 204
        with pytest.raises(Unreached):
            await client.post(hook.url(), b"2", {})
        assert (await client.post(hook.url(), b"3", {})).status == 204
    assert len(resolver.asked) == 3 and [got.body for got in hook.got] == [b"1", b"3"]


class Site:
    """A site on loopback, which the job may reach, and what it answers to everything."""

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.asked = 200, dict[str, str](), "", list[str]()
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        return web.Response(status=self.status, headers=self.headers, text=self.body, content_type="text/html")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.9", 0).start()
    host, port = runner.addresses[0][:2]
    site.url = f"http://{host}:{port}/film"
    yield site
    await runner.cleanup()


@pytest.fixture
async def fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    """For any site, with the site's own address opened and nothing else of loopback."""
    settings = Settings(tmp_path / "runtime", allowed_extractors=("generic",), socket_timeout_seconds=20.0)
    fetcher = Fetcher(replace(settings, allowed_networks=("127.0.0.9/32",)))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


INSIDE = ["http://127.0.0.1:{port}/x.mp4", "https://127.0.0.1:{port}/x.mp4", "http://[::1]:{port}/x.mp4"]
INSIDE += ["http://localhost:{port}/x.mp4", "http://2130706433:{port}/x.mp4", "http://0x7f.1:{port}/x.mp4"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_does_not_lead_inside(
    fetcher: Fetcher, site: Site, listener: Listener, tmp_path: Path, status: int
) -> None:
    for place in INSIDE:
        site.status, site.headers = status, {"Location": place.replace("{port}", str(listener.port))}
        failure = await fail(fetcher, Order("1.1", site.url, "best", "any", str(tmp_path / "work")))
        assert (place, failure.failure.code) == (place, "address_forbidden")
    assert len(site.asked) >= len(INSIDE) and listener.visits == 0


PAGES = {
    "a refresh": '<meta http-equiv="refresh" content="0; url={place}">',
    "a film": '<video src="{place}"></video>',
    "a list of films": '<video><source src="{place}" type="video/mp4"></video>',
    "an HLS list": '<video><source src="{place}.m3u8" type="application/x-mpegURL"></video>',
    "a card": '<meta property="og:video" content="{place}"><meta property="og:title" content="x">',
    "a player": '<iframe src="{place}"></iframe>',
    "data for machines": '<script type="application/ld+json">{"@context": "https://schema.org", "@type":'
    ' "VideoObject", "name": "x", "contentUrl": "{place}", "thumbnailUrl": "{place}.jpg"}</script>',
}


async def test_no_page_leads_inside(fetcher: Fetcher, site: Site, listener: Listener, tmp_path: Path) -> None:
    for number, page in enumerate(PAGES.values()):
        site.body = page.replace("{place}", f"http://127.0.0.1:{listener.port}/x.mp4")
        await fail(fetcher, Order(f"1.{number}", site.url, "best", "any", str(tmp_path / f"work{number}")))
    assert len(site.asked) >= len(PAGES) and listener.visits == 0


class Forwarder:
    """A proxy that notes what it is asked for and answers plain requests with a page of the test's."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.page = ""
        self.place = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(" ".join(head.split(" ")[:2]))
            status = f"302 Found\r\nLocation: {self.place}" if self.place else "200 OK"
            kind = f"Content-Type: application/vnd.apple.mpegurl\r\nContent-Length: {len(self.page)}"
            writer.write(f"HTTP/1.1 {status}\r\n{kind}\r\nConnection: close\r\n\r\n{self.page}".encode())
            await writer.drain()
        writer.close()


@pytest.fixture
async def forwarder() -> AsyncIterator[tuple[Forwarder, str]]:
    forwarder = Forwarder()
    server = await asyncio.start_server(forwarder.handle, "127.0.0.1", 0)
    yield forwarder, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


BEHIND = ["http://169.254.169.254/latest/meta-data/x.ts", "https://10.0.0.1/x.ts", "http://[::1]/x.ts"]
BEHIND += [
    "http://localhost/x.ts",
    "http://2130706433/x.ts",
    "http://0x7f.1/x.ts",
    "https://127.1/x.ts",
    "http://router/x.ts",
]
BEHIND += ["http://metadata.google.internal/computeMetadata/v1/x.ts"]
LIST = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.0,\n{place}\n#EXT-X-ENDLIST\n"


@pytest.fixture
async def behind(forwarder: tuple[Forwarder, str], tmp_path: Path) -> AsyncIterator[Fetcher]:
    """For any site, by way of the proxy."""
    settings = Settings(tmp_path / "runtime", allowed_extractors=("generic",), socket_timeout_seconds=20.0)
    fetcher = Fetcher(replace(settings, proxy=forwarder[1], ffmpeg=find_ffmpeg()))
    await fetcher.start()
    yield fetcher
    await fetcher.stop()


@pytest.mark.parametrize("way", ["list", "redirect"])
async def test_a_proxy_is_not_asked_for_what_is_inside(
    behind: Fetcher, forwarder: tuple[Forwarder, str], tmp_path: Path, way: str
) -> None:
    """Nobody but the proxy sees the address that it connects to, and it may stand in the same house."""
    proxy, first = forwarder[0], "http://www.example.com/film.m3u8"
    # What yt-dlp fetches in pieces it tries again for seconds.
    places = BEHIND[:1] if way == "list" else BEHIND
    for number, place in enumerate(places):
        proxy.page, proxy.place = LIST.replace("{place}", place), place if way == "redirect" else ""
        failure = await fail(behind, Order(f"1.{number}", first, "best", "any", str(tmp_path / f"work{number}")))
        assert (place, failure.failure.code) == (place, "address_forbidden")
    assert len(proxy.asked) >= len(places) and {each.split(" ")[1] for each in proxy.asked} == {first}


SOCKS = """
import socket, sys, threading
from yt_dlp.networking import Request
from ytdl.child.client import Client
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Guard
door = socket.create_server(("127.0.0.1", 0))
heard = []
def hear():
    while True:
        visitor, _ = door.accept()
        visitor.settimeout(20)
        heard.append(visitor.recv(100))
        visitor.close()
threading.Thread(target=hear, daemon=True).start()
kind, host = sys.argv[1:]
setup = Setup(["generic"], socket_timeout_seconds=20.0, proxy=f"{kind}://127.0.0.1:{door.getsockname()[1]}")
client = Client(setup)
guard = Guard(setup, Order("1.1", "u", "best", "mp4", "/nonexistent"))
client.judge_proxied(guard.check_host)
guard.install()
try:
    client.urlopen(Request(f"http://{host}/"))
except Exception:
    print(guard.refused_address, any(heard))
"""
THROUGH = [("socks5h", "127.0.0.1"), ("socks5", "localhost"), ("socks5h", "127.1"), ("socks4", "10.0.0.1")]
THROUGH += [("socks4a", "2130706433")]


@pytest.mark.parametrize(("kind", "host"), [*THROUGH, ("socks5h", "www.example.com")])
def test_a_socks_proxy_too_is_asked_for_public_hosts_only(kind: str, host: str) -> None:
    command = [sys.executable, "-c", SOCKS, kind, host]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert said[1] == str(host == "www.example.com") and (said[0] == "None") == (host == "www.example.com")
