"""Cookie files for tests, as a browser's extension writes them, and videos that only their user may see."""

import time
from typing import Any

from tests.fakes.youtube import YouTube

YEAR = 365 * 86400
SID = "right-sid-of-an-account"


def line(name: str, value: str, *, domain: str = ".youtube.com", expires: int | str | None = None) -> str:
    """One cookie that lasts for a year unless told otherwise."""
    end = int(time.time()) + YEAR if expires is None else expires
    subdomains = "TRUE" if domain.startswith(".") else "FALSE"
    return f"{domain}\t{subdomains}\t/\tTRUE\t{end}\t{name}\t{value}\n"


def signed_in(sid: str = SID, *more: str, expires: int | str | None = None) -> str:
    """The file of an account that the stand-in knows by its SID."""
    head = "# Netscape HTTP Cookie File\n# https://curl.se/docs/http-cookies.html\n\n"
    pairs = (("SID", sid), ("LOGIN_INFO", f"login:{sid}"), ("SAPISID", f"sap/{sid}"))
    return head + "".join(line(name, value, expires=expires) for name, value in pairs) + "".join(more)


def cookies_of(youtube: YouTube, path: str = "/watch") -> list[str]:
    """Whose SID came with each request to a path, `nobody` where none did."""
    sent = [seen.cookie for seen in youtube.requests if seen.path == path]
    return [cookie.partition("SID=")[2].partition(";")[0] if "SID=" in cookie else "nobody" for cookie in sent]


def lock(youtube: YouTube, video: str = "ordinary", *, how: str = "age_restricted", **more: Any) -> None:
    youtube.misbehave(video, player_locked=how, player_account=SID, **more)
