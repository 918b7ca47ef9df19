"""Cookies for the site over HTTP: what comes in goes no way back out, what is answered is their state."""

from aiohttp import web

from ytdl.api.http import who
from ytdl.api.keys import COOKIES
from ytdl.cookies import CookieState, KeptCookies, NewCookies


async def put(request: web.Request, body: NewCookies) -> KeptCookies:
    """Upload the cookies of an account of yours, for videos that are shown to signed-in users only.

    They are the text of a cookies.txt file, as extensions of browsers make it, and take the place of earlier ones. Only
    those of youtube.com are kept, encrypted, and never shown again. They are used for your own downloads alone, and
    only where the site shows the video to nobody who is not signed in. What the site changes of them meanwhile is not
    kept, so export them from a private window and close that afterwards.
    """
    return await request.app[COOKIES].put(who(request).user_id, body)


async def state(request: web.Request) -> CookieState:
    """Look at the state of your cookies: whether the site takes them, and until when they may last."""
    return await request.app[COOKIES].state(who(request).user_id)


async def delete(request: web.Request) -> None:
    """Remove your cookies.

    Downloads that still wait go on without them.
    """
    await request.app[COOKIES].remove(who(request).user_id)
