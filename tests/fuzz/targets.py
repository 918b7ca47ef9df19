"""What is thrown at the parsers, and what must hold whatever it is: each target takes bytes and raises when it found
something.

Refusing is always right; what is accepted must be what it was taken for. Where there is a second opinion (another
library's parser) the target asks for it.
"""

import ipaddress
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import UUID

import msgspec
import yarl

from ytdl import apikeys, errors, netscape, networks, urls
from ytdl.api import decoding
from ytdl.api.files import Unsatisfiable, span
from ytdl.crypto import AccessTokens
from ytdl.record import Filter, NewDownload
from ytdl.vault import Unopened, Vault

KEY = b"a-key-that-only-tests-know-0123456789"
USER, SESSION = UUID(int=1), UUID(int=2)
TAG = '"abc"'
HOSTS = (
    *("youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "youtu.be"),
    *("youtube-nocookie.com", "www.youtube-nocookie.com"),
)
NOW = 1_800_000_000.0
tokens = AccessTokens(KEY, "HS256")
genuine = tokens.issue(USER, SESSION, seconds=10**8)
vault = Vault([b"k" * 32])
sealed = vault.seal(b"a secret", "cookies:somebody")
_body = msgspec.json.Decoder(NewDownload)
_query = decoding.Query(Filter)
_reach = networks.Reach()


@dataclass(frozen=True)
class Target:
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def url(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        video = urls.parse(text)
    except errors.Invalid:
        return
    assert urls.parse(video.canonical_url).video_id == video.video_id
    assert video.video_id in text
    # As the library that would make the request reads it.
    assert yarl.URL(text).host in HOSTS


def range_header(data: bytes) -> None:
    size, text = int.from_bytes(data[:2], "big"), data[2:].decode("latin-1")
    for if_range in (None, TAG, text):
        try:
            found = span(text, if_range, TAG, size)
        except Unsatisfiable:
            assert text.startswith("bytes=")
            continue
        if found is not None:
            start, count = found
            assert 0 <= start < size and 0 < count <= size - start


def access_token(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        claims = tokens.verify(text)
    except errors.Unauthorized:
        return
    # Base64 has several spellings of one signature; whatever verifies says what was signed.
    assert text.rpartition(".")[0] == genuine.rpartition(".")[0]
    assert (claims.user_id, claims.session_id) == (USER, SESSION)


def api_key(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if apikeys.is_whole(text):
        assert apikeys.is_key(text) and text.isascii() and text.removeprefix(apikeys.PREFIX).isalnum()


def cookie_file(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        kept = netscape.parse(text, NOW).cookies
    except errors.Invalid as e:
        assert all(fault.message.isprintable() for fault in e.faults)
        return
    assert 0 < len(kept) <= netscape.MOST_COOKIES
    for cookie in kept:
        assert cookie.host == "youtube.com" or cookie.host.endswith(".youtube.com")
        assert not set(cookie.name + cookie.value + cookie.path + cookie.host) & set("\r\n\t\0;")
        assert cookie.expires is None or NOW < cookie.expires < netscape.YEAR_10000


def body(data: bytes) -> None:
    try:
        value = decoding._decode(data, _body)
    except (errors.Invalid, errors.Malformed) as e:
        e.message.encode()
        return
    assert _body.decode(msgspec.json.encode(value)) == value


def query(data: bytes) -> None:
    asked: Any = SimpleNamespace(query=yarl.URL("/?" + quote_from_bytes(data, safe="=&+%[]"), encoded=True).query)
    try:
        value = _query.read(asked)
    except errors.Invalid as e:
        e.message.encode()
        return
    assert 1 <= value.limit <= 200 and "\0" not in (value.q or "")
    (value.q or "").encode()


def address(data: bytes) -> None:
    """Whatever may be reached is public however the system's own reader takes it."""
    text = data.decode("utf-8", "surrogateescape")
    if not _reach.allows(text):
        return
    assert networks.is_public(ipaddress.ip_address(text.partition("%")[0]))
    with suppress(OSError, ValueError):
        assert networks.is_public(ipaddress.ip_address(socket.inet_aton(text)))


def sealed_value(data: bytes) -> None:
    with suppress(Unopened):
        assert vault.open(data, "cookies:somebody") == b"a secret"
        assert data == sealed


def _cookie_file(*names: str) -> bytes:
    end = int(time.time()) + 10**9
    return b"".join(f".youtube.com\tTRUE\t/\tTRUE\t{end}\t{name}\tx\n".encode() for name in names)


TARGETS: dict[str, Target] = {
    "url": Target(
        url,
        (
            b"https://www.youtube.com/watch?v=jNQXAC9IVRw&list=PL123&t=9",
            b"https://youtu.be/jNQXAC9IVRw?si=x",
            b"http://m.youtube.com/shorts/jNQXAC9IVRw#a",
            b"https://user:pw@youtube.com:443/embed/jNQXAC9IVRw/",
        ),
    ),
    "range_header": Target(
        range_header, (b"\x00\x64bytes=0-9", b"\x00\x64bytes=-10", b"\x00\x00bytes=5-", b"\x01\x00bytes=0-1,5-9")
    ),
    "access_token": Target(access_token, (genuine.encode(), b"e30.e30.", genuine.rpartition(".")[0].encode() + b".")),
    "api_key": Target(api_key, (apikeys.mint().encode(), b"ytdl_" + b"0" * 38)),
    "cookie_file": Target(
        cookie_file,
        (
            b"# Netscape HTTP Cookie File\n" + _cookie_file("SID", "LOGIN_INFO", "SAPISID"),
            b"#HttpOnly_" + _cookie_file("LOGIN_INFO", "__Secure-3PAPISID").replace(b"\n", b"\r\n"),
            b'[{"domain": ".youtube.com"}]',
        ),
    ),
    "body": Target(
        body,
        (
            b'{"url": "https://youtu.be/jNQXAC9IVRw", "quality": "best", "format": "mp4", "priority": 5}',
            b'{"url": "\\ud83d\\ude00", "embed_metadata": true, "x": [[[[1e400, -0, null]]]]}',
        ),
    ),
    "query": Target(
        query, (b"limit=50&status=queued&status=failed&q=a%20b", b"from=2026-01-31T12:00:00Z&to=1e9&cursor=00&q=%00")
    ),
    "address": Target(
        address, (b"192.0.2.1", b"0x7f.1", b"::ffff:127.0.0.1", b"8.8.8.8", b"2606:4700::1111%eth0", b"0177.0.0.1")
    ),
    "sealed_value": Target(sealed_value, (sealed, b"\x01" + bytes(40))),
}
