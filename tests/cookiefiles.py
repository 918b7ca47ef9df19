"""Cookie files for tests: what a browser's extension writes of somebody who is signed in."""

import time

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
