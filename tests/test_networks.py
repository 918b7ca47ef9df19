"""What is public and what is not, by tables that do not come from the interpreter, and what only looks like a name."""

import ipaddress

import pytest

from ytdl.networks import CLOSED_V4, CLOSED_V6, Reach, is_inner, is_name, is_public, read

CLOSED = """0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.1.2.3 168.63.129.16
169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1
192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::7f00:1 100::1 100:0:0:1::1 2001::1
2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1
2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 2620:4f:8000::1 3ffe::1 3fff::1 3fff:fff:ffff::1 4000::1
5f00::1 fc00::1 fd00:ec2::254 fd12:3456::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 ff0e::1
2a00:1450::5efe:7f00:1 2a00:1450::200:5efe:a00:1 2a00:1450::5efe:8.8.8.8"""
OPEN = """8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
172.15.0.1 172.32.0.1 192.0.1.1 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
::ffff:8.8.8.8 2001:200::1 2001:4860::8888 2001:db9::1 2003::1 2606:4700::1111 2620:4f:8001::1 2a00:1450::1 3ffd::1
2a00:1450::1:5efe:0:1"""
ANSWERS = [*((text, False) for text in CLOSED.split()), *((text, True) for text in OPEN.split())]


@pytest.mark.parametrize(("text", "public"), ANSWERS)
def test_special_addresses_are_closed_and_their_neighbours_are_not(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) is public


@pytest.mark.parametrize("text", [*CLOSED_V4, *CLOSED_V6])
def test_a_closed_network_is_closed_from_its_first_address_to_its_last(text: str) -> None:
    network = ipaddress.ip_network(text)
    assert not is_public(network[0]) and not is_public(network[-1])


def test_what_the_interpreter_takes_for_public_is_judged_by_our_own_table() -> None:
    """Its answers change with its release, so only ours is held to anything here."""
    fooled = ["224.0.0.1", "192.88.99.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fec0::1"]
    assert not [text for text in fooled if is_public(ipaddress.ip_address(text))]


ZONES = [("fe80::1%eth0", "fe80::1"), ("::1%lo", "::1"), ("::ffff:10.0.0.1%1", "10.0.0.1"), ("8.8.8.8", "8.8.8.8")]


@pytest.mark.parametrize(("host", "meant"), ZONES)
def test_an_address_is_read_without_its_zone_and_as_what_it_means(host: str, meant: str) -> None:
    assert read(host) == ipaddress.ip_address(meant)


ODD = "127.1 127.0.1 0177.0.0.1 0x7f.0.0.1 0x7f000001 2130706433 127.0.0.1. 1.2.3.4.5 01.1.1.1 [::1] ::1::"


@pytest.mark.parametrize("host", [*ODD.split(), "", "localhost", "127.0.0.1 ", "127。0。0。1"])
def test_no_other_way_of_writing_is_an_address(host: str) -> None:
    assert read(host) is None and not Reach(["0.0.0.0/0", "::/0"]).allows(host)


NO_NAMES = [*ODD.split(), "", ".", "a..b", "-a.com", "a-.com", "a b.com", "a%2ecom", "x" * 64 + ".com", "a.0x7f"]


@pytest.mark.parametrize("host", [*NO_NAMES, "exa\nmple.com", "bücher.example", "a." * 127 + "com", "user@host.com"])
def test_what_a_resolver_could_read_as_an_address_is_no_name(host: str) -> None:
    assert not is_name(host)


@pytest.mark.parametrize("host", ["www.youtube.com", "rr1---sn-x.googlevideo.com.", "xn--bcher-kva.de", "_a.b", "ntfy"])
def test_a_name_is_one(host: str) -> None:
    assert is_name(host)


INNER = "localhost LOCALHOST localhost. ip6-localhost a.localhost ntfy db.internal metadata.google.internal nas.local"


@pytest.mark.parametrize("host", INNER.split())
def test_a_name_of_the_house_is_not_asked_of_a_proxy(host: str) -> None:
    assert is_inner(host) and not Reach().allows_unresolved(host)


def test_a_name_of_the_internet_is() -> None:
    assert Reach().allows_unresolved("www.youtube.com") and Reach().allows_unresolved("8.8.8.8")
    assert not Reach().allows_unresolved("10.0.0.1") and not Reach().allows("www.youtube.com")


def test_an_admin_opens_networks_and_no_more() -> None:
    reach = Reach(["10.1.0.0/16", "fd00::/8"])
    open_, closed = ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"], ["10.2.0.1", "127.0.0.1", "fc00::1", "::10.1.2.3"]
    assert all(map(reach.allows, open_)) and not any(map(reach.allows, closed))
