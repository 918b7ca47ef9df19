"""The parsers against bytes that nobody thought of, and the targets against a parser that is broken."""

import random
import re
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from ytdl import apikeys, netscape, networks, urls
from ytdl.api import decoding, files
from ytdl.crypto import AccessTokens, Claims
from ytdl.vault import Vault


def _mutated(seed: bytes, number: int) -> bytes:
    """A seed with some of its bytes changed, doubled or taken out: closer to what is accepted than random bytes."""
    dice, data = random.Random(number), bytearray(seed)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(data) + 1)
        data[place : place + dice.randint(0, 3)] = dice.choice(
            (
                b"",
                dice.randbytes(1),
                data[place : place + 8],
                b"\0",
                b"\t",
                b"\r\n",
                b"%00",
                b"@",
                b"\\",
                b"-",
                b"9" * 20,
            )
        )
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
@example(data=b"")
def test_no_bytes_are_taken_for_what_they_are_not(name: str, data: bytes) -> None:
    TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_close_to_what_is_accepted_breaks_it(name: str) -> None:
    target = TARGETS[name]
    for number in range(1500):
        target.check(_mutated(target.seeds[number % len(target.seeds)], number))


EVIL_COOKIES = b"".join(b".evil.com\tTRUE\t/\tTRUE\t0\t%s\tx\n" % name for name in (b"LOGIN_INFO", b"SAPISID"))
# What is broken in a parser, and bytes that show it.
BROKEN: dict[str, tuple[object, str, Any, bytes]] = {
    "url": (urls, "HOSTS", {"www.youtube.com", "evil.example"}, b"https://evil.example/watch?v=jNQXAC9IVRw"),
    "range_header": (files, "min", lambda a, b: a, b"\x00\x64bytes=0-1000"),
    "access_token": (AccessTokens, "verify", lambda self, token: Claims(UUID(int=1), UUID(int=2), 0), b"x"),
    "api_key": (apikeys, "_checksum", lambda body: "-" * 6, b"ytdl_" + b"0" * 32 + b"-" * 6),
    "cookie_file": (netscape, "SITE", "com", EVIL_COOKIES),
    "body": (decoding, "_sentence", lambda what: what + "\ud800", b'{"url": 1}'),
    "query": (decoding, "_sentence", lambda what: what + "\ud800", b"limit=x"),
    "address": (networks, "read", lambda host: ip_address("8.8.8.8"), b"127.1"),
    "sealed_value": (Vault, "open", lambda self, sealed, about: b"a secret", b"x"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_would_see_a_broken_parser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead, data = BROKEN[name]
    TARGETS[name].check(data)
    monkeypatch.setattr(where, what, instead, raising=False)
    if name == "api_key":
        monkeypatch.setattr(apikeys, "_FORM", re.compile(".*"))
    with pytest.raises((AssertionError, UnicodeEncodeError, ValueError)):
        TARGETS[name].check(data)
