"""The log of the YouTube stand-in: one `Seen` for each request, filled in while it is answered."""

import time
from dataclasses import dataclass

from aiohttp import web


@dataclass
class Seen:
    """One request. `range` is as asked, `sent` counts bytes of media so far, `at` is Unix time.

    `headers` are the names, in lower case; `cookie` is that header's text. `seconds` is how long it took,
    0 while it is open. `status` is 0 until there is one.
    """

    host: str
    method: str
    path: str
    video: str
    itag: int
    range: str
    agent: str
    headers: tuple[str, ...]
    cookie: str
    at: float
    status: int = 0
    sent: int = 0
    seconds: float = 0


def note(request: web.BaseRequest) -> Seen:
    """What a request's head says. The video of a page or API request is added when it is known."""
    itag = request.query.get("itag", "0")
    return Seen(
        host=request.host,
        method=request.method,
        path=request.path,
        video=request.query.get("id", ""),
        itag=int(itag) if itag.isdecimal() else 0,
        range=request.headers.get("Range", request.query.get("range", "")),
        agent=request.headers.get("User-Agent", ""),
        headers=tuple(sorted({name.lower() for name in request.headers})),
        cookie=request.headers.get("Cookie", ""),
        at=time.time(),
    )
