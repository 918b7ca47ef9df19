"""Our own client: what it may be pointed at, what it follows, and that everything about it has an end."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import ResolveResult

from tests.fakes.hook import DOMAIN, Answers, Hook
from ytdl import errors, outbound
from ytdl.config import Config
from ytdl.outbound import Outbound, Unreached

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
async def hook(tmp_path: Path) -> AsyncIterator[Hook]:
    async with Hook.new(tmp_path) as running:
        yield running


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Hook]:
    """Without TLS."""
    async with Hook.new(tmp_path, tls=False) as running:
        yield running


def config_for(hook: Hook, networks: tuple[str, ...] = LOOPBACK) -> Config:
    return dataclasses.replace(Config(), allowed_private_networks=networks, outbound_ca_file=str(hook.ca_file))


@pytest.fixture
async def client(hook: Hook) -> AsyncIterator[Outbound]:
    """Of an operator who opened loopback, where a name leads."""
    async with Outbound(config_for(hook), Answers("127.0.0.1")) as entered:
        yield entered


async def test_what_is_posted_arrives_under_its_name(client: Outbound, hook: Hook) -> None:
    hook.status, hook.size = 200, 5
    answer = await client.post(hook.url("/a?b=c"), b'{"x": 1}', {"X-Signature": "s"})
    assert (answer.status, answer.body) == (200, b"xxxxx")
    (got,) = hook.got
    assert (got.path, got.body, got.headers["X-Signature"]) == ("/a", b'{"x": 1}', "s")
    assert got.host == f"{DOMAIN}:{hook.port}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_is_not_followed(client: Outbound, hook: Hook, status: int) -> None:
    hook.status, hook.headers = status, {"Location": hook.url("/inside")}
    assert (await client.post(hook.url(), b"x", {})).status == status
    assert [got.path for got in hook.got] == ["/hook"]


async def test_a_name_that_leads_inside_is_not_asked(hook: Hook) -> None:
    resolver = Answers("127.0.0.1")
    async with Outbound(config_for(hook, ()), resolver) as client:
        with pytest.raises(Unreached, match="not public") as caught:
            await client.post(hook.url(), b"x", {})
    assert caught.value.closed and resolver.asked == [DOMAIN] and hook.got == []


async def test_of_several_addresses_none_that_is_closed_is_tried(hook: Hook) -> None:
    async with Outbound(config_for(hook, ()), Answers(["::1", "127.0.0.1", "10.0.0.1"])) as client:
        with pytest.raises(Unreached) as caught:
            await client.post(hook.url(), b"x", {})
    assert caught.value.closed and hook.got == []


async def test_an_opened_network_is_one_and_no_more(hook: Hook) -> None:
    async with Outbound(config_for(hook, ("127.0.0.1/32",)), Answers("127.0.0.2", "127.0.0.1")) as client:
        with pytest.raises(Unreached):
            await client.post(hook.url(), b"x", {})
        assert (await client.post(hook.url(), b"x", {})).status == 204


async def test_without_tls_only_opened_networks_are_reached(plain: Hook) -> None:
    async with Outbound(config_for(plain), Answers("127.0.0.1", "8.8.8.8")) as client:
        assert (await client.post(plain.url(), b"x", {})).status == 204
        assert (await client.post(f"http://127.0.0.1:{plain.port}/", b"x", {})).status == 204
        with pytest.raises(Unreached) as caught:
            await client.post(plain.url(), b"x", {})
        assert caught.value.closed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "characters"),
        ("https://" + "x" * 2048, "characters"),
        ("http://hooks.example/", "https://"),
        ("ftp://hooks.example/", "https://"),
        ("hooks.example", "https://"),
        ("http://8.8.8.8/", "https://"),
        ("https://user:word@hooks.example/", "password"),
        ("https://hooks.example\\@x/", "backslash"),
        ("https://bücher.example/", "ASCII"),
        ("https://hooks.example/ x", "space"),
        ("https://hooks.example:22/", "port"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:99999/", "ort"),
        ("https://hooks.example:x/", "ort"),
        ("https://127.0.0.1/", "public"),
        ("https://[::1]/", "public"),
        ("https://2130706433/", "host"),
        ("https:///x", "host"),
    ],
)
def test_an_address_that_cannot_do_is_refused_where_it_is_set(url: str, says: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        Outbound(Config()).check(url, "webhook_url")
    (fault,) = caught.value.faults
    assert fault.field == "webhook_url" and says in fault.message


@pytest.mark.parametrize("url", ["https://hooks.example/a?b", "https://8.8.8.8:8443/", "https://[2606:4700::1111]/"])
def test_an_ordinary_address_can_do(url: str) -> None:
    assert Outbound(Config()).check(url) == "https"


def test_an_opened_address_can_do_without_tls() -> None:
    client = Outbound(dataclasses.replace(Config(), allowed_private_networks=("10.0.0.0/8",)))
    assert client.check("http://10.1.2.3:9000/") == "http" and client.check("http://ntfy/") == "http"


def opened_to(*networks: str) -> Config:
    return dataclasses.replace(Config(), allowed_private_networks=networks)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("https://hooks.example/", ["127.0.0.1"]),
        ("https://hooks.example/", ["8.8.8.8", "169.254.169.254"]),
        ("https://hooks.example/", ["2606:4700::1111", "::1"]),
        ("https://127.0.0.1.nip.io/", ["127.0.0.1"]),
        ("https://hooks.example/", []),
        # What these mean is nobody's business outside, wherever they lead.
        ("https://localhost:9093/-/reload", ["8.8.8.8"]),
        ("https://alertmanager:9093/api/v2/silences", ["8.8.8.8"]),
        ("https://metadata.google.internal/x", ["8.8.8.8"]),
    ],
)
async def test_a_name_is_refused_by_where_it_leads(url: str, addresses: list[str]) -> None:
    with pytest.raises(errors.Invalid) as caught:
        await Outbound(Config(), Answers(addresses)).check_names({"channels[0].url": url})
    assert [fault.field for fault in caught.value.faults] == ["channels[0].url"]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://ntfy/", "8.8.8.8"),
        ("https://ntfy/", "10.2.0.1"),
        ("http://ntfy/", "8.8.8.8"),
        ("http://hooks.example/", "8.8.8.8"),
    ],
)
async def test_an_opened_network_opens_no_more_to_names(url: str, address: str) -> None:
    with pytest.raises(errors.Invalid):
        await Outbound(opened_to("10.1.0.0/16"), Answers(address)).check_names({"url": url})


@pytest.mark.parametrize("url", ["https://hooks.example/", "https://hooks.example:8443/a?b"])
async def test_a_name_that_leads_to_the_internet_can_do(url: str) -> None:
    await Outbound(Config(), Answers(["8.8.8.8", "2606:4700::1111"])).check_names({"url": url})


@pytest.mark.parametrize("url", ["https://ntfy/", "http://ntfy/", "http://hooks.example/", "https://hooks.example/"])
async def test_a_name_that_leads_to_an_opened_network_can_do(url: str) -> None:
    await Outbound(opened_to("10.1.0.0/16"), Answers("10.1.2.3")).check_names({"url": url})


async def test_names_that_nobody_answers_for_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Answers):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
            await asyncio.sleep(60)
            return await super().resolve(host, port, family)

    monkeypatch.setattr(outbound, "NAMES_SECONDS", 0.1)
    async with asyncio.timeout(20):
        with pytest.raises(errors.Invalid, match="not known"):
            await Outbound(Config(), Silent("8.8.8.8")).check_names({"url": "https://hooks.example/"})


async def test_the_systems_own_resolver_is_asked() -> None:
    """`localhost` is the one name that it knows everywhere."""
    url = {"url": "https://localhost:9093/-/reload"}
    await Outbound(opened_to("127.0.0.0/8", "::1/128")).check_names(url)
    with pytest.raises(errors.Invalid):
        await Outbound(opened_to("10.0.0.0/8")).check_names(url)


async def test_an_answer_without_an_end_is_read_in_part(client: Outbound, hook: Hook) -> None:
    hook.status, hook.size = 200, -1
    assert len((await client.post(hook.url(), b"x", {})).body) == outbound.MAX_ANSWER_BYTES


async def test_an_answer_is_not_unpacked(client: Outbound, hook: Hook) -> None:
    hook.status, hook.size, hook.headers = 200, 4, {"Content-Encoding": "gzip"}
    assert (await client.post(hook.url(), b"x", {})).body == b"xxxx"
    assert hook.got[0].headers["Accept-Encoding"] == "identity"


async def test_who_does_not_answer_is_given_up(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_SECONDS", 0.2)
    hook.delay = 1.0
    async with Outbound(config_for(hook), Answers("127.0.0.1")) as client, asyncio.timeout(20):
        with pytest.raises(Unreached, match=r"within 0\.2 seconds"):
            await client.post(hook.url(), b"x", {})


async def test_no_proxy_is_taken_from_the_environment(
    client: Outbound, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await client.post(hook.url(), b"x", {})).status == 204


async def test_a_cookie_is_not_kept(client: Outbound, hook: Hook) -> None:
    hook.headers = {"Set-Cookie": "a=b; Path=/"}
    for _ in range(2):
        await client.post(hook.url(), b"x", {})
    assert "Cookie" not in hook.got[1].headers


async def test_a_certificate_of_nobody_known_is_not_accepted(hook: Hook) -> None:
    config = dataclasses.replace(config_for(hook), outbound_ca_file="")
    async with Outbound(config, Answers("127.0.0.1")) as client:
        with pytest.raises(Unreached, match="certificate"):
            await client.post(hook.url(), b"x", {})


async def test_a_name_that_nobody_knows_says_so(hook: Hook) -> None:
    async with Outbound(config_for(hook), Answers([])) as client:
        with pytest.raises(Unreached, match="name"):
            await client.post(hook.url(), b"x", {})


async def test_nobody_there_says_so(hook: Hook) -> None:
    async with Outbound(config_for(hook), Answers("127.0.0.1")) as client:
        with socket.socket() as deaf, pytest.raises(Unreached, match="could not be reached") as caught:
            deaf.bind(("127.0.0.1", 0))
            await client.post(f"https://{DOMAIN}:{deaf.getsockname()[1]}/", b"x", {})
    assert not caught.value.closed


@pytest.mark.parametrize("header", ["X-A\r\nX-B", "X-A"])
async def test_a_header_cannot_carry_another(client: Outbound, hook: Hook, header: str) -> None:
    with pytest.raises(Unreached):
        await client.post(hook.url(), b"x", {header: "a\r\nX-Evil: b"})
    assert hook.got == []
