"""Cookie files in Netscape's form, as browsers' extensions and yt-dlp write them: our own strict parser.

Only cookies of sites that downloads go to are kept. What is wrong is told by the number of the line and never by what
stands there: a line that is out of form may be a cookie all the same.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ytdl import errors
from ytdl.child.frames import Cookie
from ytdl.errors import Fault

LARGEST = 256 * 1024
"""Characters of a whole file: a browser's cookies of all sites."""
MOST_COOKIES = 200
MOST_CHARACTERS = 32 * 1024
"""Of the names and values that are kept, together; the site's servers take less in one request."""
LONGEST = 4096
"""Characters of one name and its value, as browsers allow."""
LONGEST_PATH = 255
# Not google.com, although such files have it too: those cookies open mail and more, and no download needs them.
SITE = "youtube.com"
# What the site knows a signed-in user by; with one of each yt-dlp takes an account to be there.
LOGIN = "LOGIN_INFO"
SIGNATURES = frozenset({"SAPISID", "__Secure-1PAPISID", "__Secure-3PAPISID"})
SESSIONS = frozenset({"SID", "__Secure-1PSID", "__Secure-3PSID"})
MOST_FAULTS = 10
YEAR_10000 = 253_402_300_800

_FIELDS = 7
_HTTP_ONLY = "#HttpOnly_"
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# No semicolon, which would begin another cookie, and nothing that ends a header.
_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")
_SECONDS = re.compile(r"(?:([0-9]{1,15})(?:\.[0-9]+)?)?")


@dataclass(frozen=True)
class CookieFile:
    """What was kept of a file, and how many cookies of it were not: those of other sites, and expired ones.

    `expires` is when the first of those that make a signed-in user ends, in seconds since 1970.
    """

    cookies: list[Cookie] = field(default_factory=list)
    expires: int | None = None
    other_sites: int = 0
    expired: int = 0


def parse(text: str, now: float, name: str = "cookies") -> CookieFile:
    """The signed-in user of a file; `name` is what faults call it. Blocks for moments with the largest of files.

    Raises `errors.Invalid` for a file out of form, of nobody, or of a user whose sign-in has ended.
    """
    if text.lstrip()[:1] in ("[", "{"):
        raise errors.invalid(name, "must be in Netscape's form (cookies.txt), not JSON")
    faults: list[Fault] = []
    found: dict[tuple[str, str, str], Cookie] = {}
    others = expired = 0
    for number, fields in _lines(text):
        try:
            cookie = _cookie(fields)
        except ValueError as e:
            faults.append(Fault(name, f"line {number} {e}"))
            if len(faults) == MOST_FAULTS:
                break
            continue
        if cookie is None:
            others += 1
        elif cookie.expires is not None and cookie.expires <= now:
            expired += 1
        else:
            found[cookie.host, cookie.path, cookie.name] = cookie
    if faults:
        raise errors.Invalid(f"{name}: {faults[0].message}", faults=tuple(faults))
    cookies = list(found.values())
    _refuse_strangers(name, cookies, expired)
    return CookieFile(cookies, _first_end(cookies), others, expired)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are cookies, numbered from 1, in their fields; a comment's hash may also mark a cookie."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r").removeprefix(_HTTP_ONLY)
        if line.strip() and not line.startswith("#"):
            yield number, line.split("\t")


def _cookie(fields: list[str]) -> Cookie | None:
    """`None` for one of another site, of which nothing else is looked at; ValueError says what is wrong."""
    if len(fields) != _FIELDS:
        raise ValueError(f"has {len(fields)} fields instead of {_FIELDS}; tabs must stand between them")
    domain, subdomains, path, secure, expires, name, value = fields
    host = domain.lower().removeprefix(".")
    if host != SITE and not host.endswith(f".{SITE}"):
        return None
    if not _HOST.fullmatch(host):
        raise ValueError("has no host name in its first field")
    if _flag(subdomains, "second") != domain.startswith("."):
        raise ValueError("must have TRUE in its second field where the first begins with a dot, else FALSE")
    if not path.startswith("/") or not _VALUE.fullmatch(path) or len(path) > LONGEST_PATH:
        raise ValueError("has no path in its third field")
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(name) + len(value) > LONGEST:
        raise ValueError("has a name or a value that no cookie can have")
    return Cookie(host, domain.startswith("."), path, _flag(secure, "fourth"), _end(expires), name, value)


def _flag(text: str, place: str) -> bool:
    if text not in ("TRUE", "FALSE"):
        raise ValueError(f"must have TRUE or FALSE in its {place} field")
    return text == "TRUE"


def _end(text: str) -> int | None:
    """None for one that ends with the browser, which is written as nothing or as 0."""
    seconds = _SECONDS.fullmatch(text)
    if seconds is None or (end := int(seconds[1] or 0)) >= YEAR_10000:
        raise ValueError("has no time in seconds in its fifth field")
    return end or None


def _refuse_strangers(name: str, cookies: list[Cookie], expired: int) -> None:
    """Cookies of nobody would be kept, shown to the site and refused; their user should know at once."""
    names = {cookie.name for cookie in cookies if cookie.subdomains or cookie.host == f"www.{SITE}"}
    if not cookies and not expired:
        raise errors.invalid(name, f"has no cookies of {SITE}")
    if LOGIN not in names or not names & SIGNATURES:
        why = "; they have expired" if expired else ""
        raise errors.invalid(name, f"has not the cookies of a signed-in user of {SITE}: {LOGIN} and SAPISID{why}")
    if len(cookies) > MOST_COOKIES or sum(len(c.name) + len(c.value) for c in cookies) > MOST_CHARACTERS:
        raise errors.invalid(name, f"has more than {MOST_COOKIES} cookies of {SITE}, or more than fits a request")


def _first_end(cookies: list[Cookie]) -> int | None:
    needed = {LOGIN} | SIGNATURES | SESSIONS
    return min((cookie.expires for cookie in cookies if cookie.name in needed and cookie.expires), default=None)
