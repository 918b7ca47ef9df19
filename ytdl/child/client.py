"""yt-dlp's object as a job uses it: built once in the fork server, since building one touches every extractor.

Each fork has its own copy, so what a job sets on it (progress, cookies, notes) is its own.
"""

import contextlib
import io
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Sequence
from http.cookiejar import Cookie as JarCookie
from typing import Any

import certifi
import yt_dlp
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.socks import sockssocket

from ytdl.child import options
from ytdl.child.errors import Refused, retry_after
from ytdl.child.frames import Cookie, Setup
from ytdl.child.pages import bound

# What yt-dlp adds when there are no streams; the reason stands before it.
_OWN_WORDS = ("No video formats found!", "Requested format is not available")


class Notes:
    """yt-dlp's logger: keeps its last words for classification, and passes them to the log."""

    def __init__(self) -> None:
        self.warnings: deque[str] = deque(maxlen=20)

    def debug(self, message: str) -> None:
        """yt-dlp sends its ordinary output here too; nobody reads it."""

    info = debug

    def warning(self, message: str) -> None:
        """Kept: with `ignore_no_formats_error` a refusal of the site arrives as a warning."""
        if message not in _OWN_WORDS:
            self.warnings.append(message)
        print(message[:1000], file=sys.stderr)

    error = warning


class Client(yt_dlp.YoutubeDL):  # type: ignore[misc]  # published without types
    """yt-dlp that shows what it reads in answers and does not pass on: `Retry-After`."""

    def __init__(self, setup: Setup, logger: Any = None) -> None:
        self.notes = Notes()
        self.on_progress: Callable[[dict[str, Any]], None] | None = None
        self.asked_to_wait: float | None = None
        # Whether a page was made for a signed-in user; None while none has said.
        self.greeted: bool | None = None
        # Pages have an end; a file that yt-dlp's own downloader fetches may be any size.
        self.reads_pages = True
        # yt-dlp's own list of authorities, or with one given to the fork server the system's.
        self.tls = ssl.create_default_context(cafile=None if setup.trust_system_certificates else certifi.where())
        super().__init__(options.build(setup, logger or self.notes, self._pass_progress))

    def use_cookies(self, path: str | None) -> None:
        """Read the operator's cookies into this process; Refused when they cannot be used."""
        if not path:
            return
        try:
            given = YoutubeDLCookieJar(options.copy_cookies(path))
            # It writes the lines that it does not understand, with what is secret in them.
            with contextlib.redirect_stderr(io.StringIO()):
                given.load()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("cookies_invalid", "The server's cookie file cannot be read.") from error
        for cookie in given:
            self.cookiejar.set_cookie(cookie)

    def forget_cookies(self) -> None:
        """Be nobody again: a job goes on as another user, and no request may mix the two."""
        self.cookiejar.clear()

    def sign_in(self, cookies: Sequence[Cookie]) -> None:
        """Be the user whose cookies these are, and nobody else."""
        self.forget_cookies()
        for cookie in cookies:
            self.cookiejar.set_cookie(_for_jar(cookie))
        self._listen_for_greeting()

    def _listen_for_greeting(self) -> None:
        """The site's pages say whether they were made for a signed-in user. Some never are, so one that is decides."""
        extractor = self.get_info_extractor("Youtube")
        read = extractor.extract_ytcfg

        def extract_ytcfg(video_id: str, webpage: str) -> Any:
            said = read(video_id, webpage)
            if isinstance(said, dict) and isinstance(said.get("LOGGED_IN"), bool):
                self.greeted = bool(self.greeted) or said["LOGGED_IN"]
            return said

        extractor.extract_ytcfg = extract_ytcfg

    def use_proxy(self, proxy: str) -> None:
        """All that this process asks for goes out there; what the first request had made for another way is dropped."""
        self.params["proxy"] = proxy
        for made in ("proxies", "_request_director"):
            self.__dict__.pop(made, None)

    def judge_proxied(self, check: Callable[[str], None]) -> None:
        """Have `check` see each host that a SOCKS proxy is asked for; requests to other proxies show in `guard`."""
        real = sockssocket._resolve_address

        def resolve(self: Any, host: str, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
            family, packed = real(self, host, *args, **kwargs)
            check(socket.inet_ntop(family, packed) if family else host)
            return family, packed

        sockssocket._resolve_address = resolve

    def load_cookies(self, cookies: str) -> None:
        """Take over what the extraction, in another process, was given for a stream."""
        self._load_cookies(cookies, autoscope=False)

    def warm_up(self, refusing: str) -> None:
        """Make what every first request makes, certificates included, by one to an address that refuses at once."""
        with contextlib.suppress(RequestError):
            self.urlopen(Request(refusing, proxies={"all": None}))

    def urlopen(self, req: Any) -> Any:
        try:
            answer = super().urlopen(req)
        except HTTPError as error:
            self.asked_to_wait = retry_after(error.response.headers)
            bound(error.response)
            raise
        return bound(answer) if self.reads_pages else answer

    def _pass_progress(self, status: dict[str, Any]) -> None:
        if self.on_progress:
            self.on_progress(status)


def _for_jar(cookie: Cookie) -> JarCookie:
    """Bound to its host: the jar adds it to requests for that alone, whatever a redirect leads to."""
    domain = f".{cookie.host}" if cookie.subdomains else cookie.host
    return JarCookie(
        version=0, name=cookie.name, value=cookie.value, port=None, port_specified=False, domain=domain,
        domain_specified=cookie.subdomains, domain_initial_dot=cookie.subdomains, path=cookie.path,
        path_specified=True, secure=cookie.secure, expires=cookie.expires, discard=cookie.expires is None,
        comment=None, comment_url=None, rest={},
    )  # fmt: skip
