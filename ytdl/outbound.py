"""Our own requests to somebody outside, which text messages are; and what is judged of the addresses that admins name
for notifications, which Alertmanager asks later (`check`, `check_names`).

An address of ours is judged where the connection is made, after the name was resolved, so it is the one that is
connected to: neither a spelling nor a name that changes its mind leads inside. Redirects are not followed, no proxy is
taken from the environment, no cookie is kept, and time and what is read have an end. What yt-dlp asks for is
`child/guard`'s.
"""

import asyncio
import functools
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from ytdl import errors
from ytdl.config import Config
from ytdl.networks import Reach, is_inner, is_name, read

MAX_LENGTH = 2048
MAX_ANSWER_BYTES = 64 * 1024
TIMEOUT_SECONDS = 10.0
# For all names of one call together.
NAMES_SECONDS = 10.0
FIRST_FREE_PORT = 1024
_PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]*")
_CLOSED = "The address is not public, and this server may not reach it."


class Unreached(Exception):
    """No answer came, for the reason in the sentence. `closed` when nobody was asked, as the address is not open."""

    def __init__(self, sentence: str, *, closed: bool = False) -> None:
        super().__init__(sentence)
        self.closed = closed


class _Closed(PermissionError):
    """Raised inside the connector; always with the same words, so that several come out as one."""


@dataclass(frozen=True)
class Answer:
    """`body` is as it came, unpacked by nobody, and no more than the first 64 KiB of it."""

    status: int
    body: bytes


class Outbound:
    """A client for as long as it is entered. `resolver` is for names; the system's when none is given."""

    def __init__(self, config: Config, resolver: AbstractResolver | None = None) -> None:
        self._reach = Reach(config.allowed_private_networks)
        self._authority = config.outbound_ca_file
        self._resolver = resolver
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # Reading the authorities takes longer than the loop may stand still.
        tls = await asyncio.to_thread(_trust, self._authority)
        for scheme, allows in (("https", self._reach.allows), ("http", self._reach.opens)):
            self._sessions[scheme] = await self._stack.enter_async_context(self._session(tls, allows))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def check(self, url: str, field: str = "url") -> str:
        """The scheme of an address that may be asked, as far as can be seen; errors.Invalid, naming `field`, if not.

        A name is only judged by what it resolves to when it is asked, or by `check_names`.
        """
        try:
            return self._check(url)
        except ValueError as error:
            raise errors.invalid(field, str(error)) from None

    async def check_names(self, urls: Mapping[str, str]) -> None:
        """For addresses, by their fields, that another program will ask, which judges nothing: as `check`, and refuses
        names that lead nowhere, or to any address that may not be reached. Afterwards they may lead elsewhere.
        """
        field = ""
        try:
            async with asyncio.timeout(NAMES_SECONDS):
                for field, url in urls.items():
                    await self._check_name(self.check(url, field), urlsplit(url).hostname or "")
        except ValueError as error:
            raise errors.invalid(field, str(error)) from None
        except OSError:
            raise errors.invalid(field, "has a host whose name is not known") from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Any status is an answer, a redirect too. Raises errors.Invalid as `check` does, and Unreached."""
        session = self._sessions[self.check(url)]
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return Answer(response.status, await _read(response.content))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _explain(error) from error

    def _check(self, url: str) -> str:
        if not 0 < len(url) <= MAX_LENGTH:
            raise ValueError(f"must have 1 to {MAX_LENGTH} characters")
        if not _PRINTABLE_ASCII.fullmatch(url) or "\\" in url:
            raise ValueError("has a space, a control character, a backslash or a character that is not ASCII")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError("must begin with https://")
        if "@" in parts.netloc:
            raise ValueError("must not carry a user name or password")
        if (port := parts.port) is not None and port not in (80, 443) and port < FIRST_FREE_PORT:
            raise ValueError(f"must have port 443 or one from {FIRST_FREE_PORT} up")
        self._check_host(parts.scheme, parts.hostname or "")
        return parts.scheme

    def _check_host(self, scheme: str, host: str) -> None:
        allows = self._reach.allows if scheme == "https" else self._reach.opens
        if read(host):
            if not allows(host):
                raise ValueError("is not a public address" if scheme == "https" else "must begin with https://")
        elif not is_name(host):
            raise ValueError("has no valid host")
        elif scheme == "http" and not self._reach.opened:
            raise ValueError("must begin with https://")

    async def _check_name(self, scheme: str, host: str) -> None:
        if read(host):
            return
        # A name that means something inside only does not become one of the internet by where it leads from here.
        allows = self._reach.opens if scheme == "http" or is_inner(host) else self._reach.allows
        if not all(map(allows, await self._resolve(host))):
            raise ValueError("has a host whose name leads inside, or to an address that is not public")

    async def _resolve(self, host: str) -> list[str]:
        """All addresses, also of a kind that this machine has none of itself. Raises OSError where there are none."""
        if self._resolver is not None:
            return [entry["host"] for entry in await self._resolver.resolve(host, family=socket.AF_UNSPEC)]
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [str(entry[4][0]) for entry in found]

    def _session(self, tls: ssl.SSLContext, allows: Callable[[str], bool]) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=tls, resolver=self._resolver, use_dns_cache=False, force_close=True, socket_factory=_gate(allows)
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )


@functools.cache
def _trust(authority: str) -> ssl.SSLContext:
    """Read once in a process, as it takes some 50 ms."""
    tls = ssl.create_default_context()
    if authority:
        tls.load_verify_locations(authority)
    return tls


def _gate(allows: Callable[[str], bool]) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes sockets for addresses that may be reached; the same address is connected to right after, a literal too."""

    def make(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if not allows(str(address[0])):
            raise _Closed(_CLOSED)
        return socket.socket(family, kind, protocol)

    return make


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) < MAX_ANSWER_BYTES and (some := await content.read(MAX_ANSWER_BYTES - len(body))):
        body += some
    return body


def _explain(error: Exception) -> Unreached:
    below = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(below, _Closed):
        return Unreached(_CLOSED, closed=True)
    if isinstance(error, TimeoutError):
        return Unreached(f"No answer came within {TIMEOUT_SECONDS:g} seconds.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unreached("The name of the host is not known.")
    if isinstance(error, aiohttp.ClientSSLError):
        return Unreached("The certificate of the host was not accepted.")
    return Unreached("The host could not be reached.")
