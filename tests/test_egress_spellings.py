"""No way of writing an inner address reaches it: not in the API's field, not in a job, not in our own client."""

import asyncio
import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.spellings import ADDRESSES, DISGUISED, ELSEWHERE, HOSTS, LOOPBACK, Listener, bare
from ytdl import errors, urls
from ytdl.config import Config
from ytdl.fetcher.forkserver import ROOT
from ytdl.outbound import Outbound, Unreached

ID = "dQw4w9WgXcQ"
# Names that stand for what a host means as a number, for whoever judges names only.
NAMES = {f"n{number}.example.com": host for number, host in enumerate([*LOOPBACK, *ELSEWHERE])}
CLOUDS = {
    "metadata.google.internal": "169.254.169.254",
    "metadata": "169.254.169.254",
    "instance-data": "169.254.169.254",
}


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        yield listening


def test_there_are_many_spellings() -> None:
    assert len(set(HOSTS)) + len(set(ADDRESSES)) > 120


@pytest.mark.parametrize("host", HOSTS)
def test_the_api_takes_no_such_host(host: str) -> None:
    for url in (
        f"https://{host}/watch?v={ID}",
        f"http://{host}:80/watch?v={ID}",
        f"https://www.youtube.com@{host}/{ID}",
    ):
        with pytest.raises(errors.Invalid):
            urls.parse(url)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_api_takes_no_such_address(address: str) -> None:
    for url in (address, f"{address}watch?v={ID}"):
        with pytest.raises(errors.Invalid):
            urls.parse(url.replace("{port}", "80"))


# A job's interpreter. What is asked for by name goes to a resolver of the test's; nothing may leave this machine, not
# even when the rules are broken.
JOB = """
import ipaddress, json, os, socket, ssl, sys, urllib.request
from yt_dlp.networking import Request
from ytdl.child.client import Client
from ytdl.child.frames import Order, Setup
from ytdl.child.guard import Guard
from ytdl.child.origin import Origin
given = json.loads(sys.argv[1])
port, names = given["port"], given["names"]
setup = Setup(["generic"], socket_timeout_seconds=1.0)
client = Client(setup)
real = socket.getaddrinfo
def resolve(host, *args, **kwargs):
    if isinstance(host, str) and host.endswith((".example.com", ".internal")) or host in names:
        host = names[host]
    return real(host, *args, flags=0 if "localhost" in host.lower() or "ip6-" in host else socket.AI_NUMERICHOST)
socket.getaddrinfo = resolve
def stay(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        try:
            address = ipaddress.ip_address(args[1][0].partition("%")[0])
        except ValueError:
            if "localhost" not in args[1][0].lower() and "ip6-" not in args[1][0]:
                raise OSError("not a number")
            return
        if not (address.is_loopback or address.is_unspecified or getattr(address, "ipv4_mapped", None)):
            os._exit(99)
if given["guarded"]:
    Guard(setup, Order("1.1", "u", "best", "mp4", "/nonexistent")).install()
sys.addaudithook(stay)
opener = urllib.request.OpenerDirector()
for kind in ("HTTP", "HTTPS", "FTP", "HTTPRedirect", "HTTPDefaultError"):
    opener.add_handler(getattr(urllib.request, kind + "Handler")())
ways = {
    "a socket": lambda host, url: socket.socket(given["family"](host)).connect((host, port)),
    "a connection": lambda host, url: socket.create_connection((host, port), 1),
    "urllib": lambda host, url: opener.open(url, timeout=1).read(),
    "yt-dlp": lambda host, url: client.urlopen(Request(url, proxies={"all": None})).read(),
    "our transfer": lambda host, url: Origin(client.tls, None, 1.0).ask(url.replace("http:", "https:", 1), {}),
}
given["family"] = lambda host: socket.AF_INET6 if ":" in host else socket.AF_INET
for host, url in given["targets"]:
    said = {}
    for name, way in ways.items():
        try:
            way(host, url)
            said[name] = "reached"
        except Exception as error:
            said[name] = type(error).__name__ + " " + str(error)[:200]
    print(json.dumps(said), flush=True)
"""


def _try_in_a_job(listener: Listener, targets: list[tuple[str, str]], *, guarded: bool = True) -> list[dict[str, str]]:
    names = {name: bare(host) for name, host in (NAMES | CLOUDS).items()}
    given = {"port": listener.port, "names": names, "targets": targets, "guarded": guarded}
    command = [sys.executable, "-W", "ignore", "-c", JOB, json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _url(host: str, port: int) -> tuple[str, str]:
    return bare(host), f"http://{host}:{port}/x"


@pytest.fixture(scope="module")
def said(listener: Listener) -> dict[str, tuple[dict[str, str], int]]:
    """By host, name and address: what each way of asking said, and how many visits there were in all."""
    targets = {host: _url(host, listener.port) for host in [*HOSTS, *NAMES]}
    targets |= {address: ("", address.replace("{port}", str(listener.port))) for address in ADDRESSES}
    before = listener.visits
    answers = _try_in_a_job(listener, list(targets.values()))
    return {name: (answer, listener.visits - before) for name, answer in zip(targets, answers, strict=True)}


@pytest.mark.parametrize("target", [*HOSTS, *NAMES, *ADDRESSES])
def test_a_job_reaches_nothing_by_it(said: dict[str, tuple[dict[str, str], int]], target: str) -> None:
    answers, visits = said[target]
    assert "reached" not in answers.values() and visits == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_rules_that_keep_a_job_from_what_a_name_stands_for(
    said: dict[str, tuple[dict[str, str], int]], name: str
) -> None:
    try:
        socket.getaddrinfo(bare(NAMES[name]), 80, flags=socket.AI_NUMERICHOST)
    except OSError:
        return  # for this system's resolver that is no number
    assert "out of bounds" in said[name][0]["a connection"]
    assert "out of bounds" in said[name][0]["yt-dlp"]


def test_without_the_rules_they_do_reach(listener: Listener) -> None:
    """Else the tests above would show nothing."""
    before = listener.visits
    answers = _try_in_a_job(listener, [_url(host, listener.port) for host in LOOPBACK[:26]], guarded=False)
    # They are heard one after another: once one of our own is answered, none of them is still to come.
    with socket.create_connection(("127.0.0.1", listener.port), 30) as own:
        own.sendall(b"x")
        assert own.recv(1)
    assert listener.visits - before > 60
    assert sum("reached" in answer.values() for answer in answers) >= 20


class Book(AbstractResolver):
    """A resolver with names of the test's."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        meant = bare((NAMES | CLOUDS).get(host.lower(), host))
        flags = 0 if "localhost" in meant.lower() or "ip6-" in meant else socket.AI_NUMERICHOST
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(meant, port, type=socket.SOCK_STREAM, flags=flags)
        return [
            ResolveResult(hostname=host, host=str(entry[4][0]), port=port, family=entry[0], proto=0, flags=0)
            for entry in found
        ]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Outbound]:
    async with Outbound(dataclasses.replace(Config(), data_dir=tmp_path), Book()) as outbound:
        yield outbound


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Outbound]:
    """Of an operator who opened a network, none of those in the table."""
    config = dataclasses.replace(Config(), data_dir=tmp_path, allowed_private_networks=("10.99.0.0/16",))
    async with Outbound(config, Book()) as outbound:
        yield outbound


async def _refuses(outbound: Outbound, url: str) -> bool:
    try:
        await outbound.post(url, b"x", {})
    except (errors.Invalid, Unreached):
        return True
    return False


async def test_our_own_client_reaches_nothing_by_any_of_them(
    client: Outbound, opened: Outbound, listener: Listener
) -> None:
    before = listener.visits
    for outbound, scheme in ((client, "https"), (client, "http"), (opened, "http")):
        urls_ = [f"{scheme}://{host}:{listener.port}/" for host in [*HOSTS, *NAMES]]
        assert not [url for url in urls_ if not await _refuses(outbound, url)]
    assert listener.visits == before


async def test_our_own_client_takes_no_such_address(client: Outbound, listener: Listener) -> None:
    before = listener.visits
    plain = [address.replace("{port}", str(listener.port)) for address in ADDRESSES]
    urls_ = [*plain, *(url.replace("http:", "https:") for url in plain)]
    assert not [url for url in urls_ if not await _refuses(client, url)]
    assert listener.visits == before


@pytest.mark.parametrize("host", [*DISGUISED, *(host for host in HOSTS if host.startswith("["))])
def test_an_address_that_is_none_or_closed_is_refused_before_anything_is_asked(host: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        Outbound(Config()).check(f"https://{host}/", "webhook")
    assert caught.value.faults[0].field == "webhook"
