"""Tokens over HTTP: the OAuth 2 password grant, which the docs page uses, and refreshing."""

from aiohttp import web

from ytdl.api import auth
from ytdl.api.keys import AUTH
from ytdl.auth import Grant, RefreshToken, Tokens


async def token(request: web.Request, body: Grant) -> Tokens:
    """Sign in by the OAuth 2 password grant, as a form or as JSON.

    The same as signing in at `/auth/login`; the documentation page's Authorize uses it. In a form, parameters that are
    not known are passed over, and one that comes twice is refused.
    """
    return await auth.login(request, body)


async def refresh(request: web.Request, body: RefreshToken) -> Tokens:
    """Exchange a refresh token for a new pair of tokens.

    The old refresh token is spent with it. Asking again within ten seconds, as when the answer was lost, gets the same
    new one while that is unspent. Any other that was spent before ends its session, for somebody stole it.
    """
    return await request.app[AUTH].refresh(body.refresh_token)
