"""One request for a part of a file: the connection, the proxy, redirects, and what a status means.

The standard library's client alone, because a page of memory that is touched is copied from the fork server, and this
touches less of it than yt-dlp's own client does. Whom it may connect to is `guard`'s business.
"""

import base64
import http.client
import ssl
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from ytdl.child.errors import Refused, retry_after

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# What another host than the first may be told; whatever else an extractor sends along may be meant for that alone.
_HARMLESS = ("accept", "accept-encoding", "accept-language", "if-range", "range", "user-agent")
_NOWHERE = "The site's address of the file leads nowhere."


class Retry(Exception):
    """The request failed in a way that another one may not; `code` says how when none does."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Answer:
    """An answer whose body is being read; `left` is what of it should still come, None when that was not said."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.left = answer.length
        self._answer = answer

    def read(self, most: int) -> bytes:
        """What is there of the body, one byte at least; nothing at its end, also at one that comes too early."""
        # Counted here, since not every release of the library does it for this call.
        some = self._answer.read1(most if self.left is None else min(most, self.left))
        if self.left is not None:
            self.left -= len(some)
        return some

    def close(self) -> None:
        """After the whole body the connection is free for another request."""
        self._answer.close()


def can_fetch(url: str, proxy: str | None) -> bool:
    """Whether this client can: TLS, directly or through a proxy that is spoken to in plain HTTP."""
    return urlsplit(url).scheme == "https" and (not proxy or urlsplit(proxy).scheme == "http")


class Origin:
    """Keeps one connection open for as long as requests go to the same host."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None, timeout: float) -> None:
        self._context = context
        self._proxy = urlsplit(proxy) if proxy else None
        self._timeout = timeout
        self._host: tuple[str | None, int] | None = None
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self, url: str, headers: dict[str, str]) -> Answer:
        """The answer with status 200, 206 or 416; Refused for what is final, Retry and OSError for what is not."""
        target = first = self._check(url)
        for _ in range(MAX_REDIRECTS + 1):
            if target.netloc != first.netloc:
                headers = {name: value for name, value in headers.items() if name.lower() in _HARMLESS}
            answer = self._send(target, headers)
            if answer.status not in _REDIRECTS:
                return self._judge(answer)
            self.close()
            target = self._check(target.geturl(), answer.headers.get("Location", ""))
        raise Refused("upstream_error", _NOWHERE)

    def _check(self, url: str, location: str = "") -> SplitResult:
        """The address in its parts, if it is one that this client may ask."""
        try:
            parts = urlsplit(urljoin(url, location))
            usable = parts.scheme == "https" and parts.hostname and (parts.port or 443)
        except ValueError:
            usable = False
        if not usable:
            raise Refused("upstream_error", _NOWHERE)
        return parts

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = self._host = None

    def _send(self, url: SplitResult, headers: dict[str, str]) -> Answer:
        host = (url.hostname, url.port or 443)
        if host != self._host or self._connection is None:
            self.close()
            self._connection, self._host = self._connect(*host), host
        target = quote((url.path or "/") + (f"?{url.query}" if url.query else ""), safe="/%!$&'()*+,;=:@?~[]")
        self._connection.request("GET", target, headers=headers)
        return Answer(self._connection.getresponse())

    def _connect(self, host: str | None, port: int) -> http.client.HTTPSConnection:
        way = self._proxy.hostname if self._proxy else host
        number = (self._proxy.port or 80) if self._proxy else port
        connection = http.client.HTTPSConnection(way or "", number, timeout=self._timeout, context=self._context)
        if self._proxy:
            connection.set_tunnel(host or "", port, _credentials(self._proxy))
            self._open_tunnel(connection)
        return connection

    def _open_tunnel(self, connection: http.client.HTTPSConnection) -> None:
        try:
            connection.connect()
        except (ssl.SSLError, PermissionError):
            raise
        except OSError as error:
            connection.close()
            raise Retry("proxy_error") from error

    def _judge(self, answer: Answer) -> Answer:
        if answer.status in (200, 206, 416):
            return answer
        self.close()
        if answer.status == 429:
            raise Refused("rate_limited", "The site asks for fewer requests.", retry_after(answer.headers))
        if answer.status in (401, 403):
            raise Refused("upstream_forbidden", "The site refused to hand out the file.", retry_after(answer.headers))
        if answer.status in (404, 410):
            # The video is there; only this address of its file has lapsed.
            raise Refused("upstream_forbidden", "The address of the file is no longer valid.")
        if answer.status >= 500:
            raise Retry("upstream_error")
        raise Refused("upstream_error", "The site answered with an error.")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
