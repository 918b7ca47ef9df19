"""Tokens over HTTP: the OAuth 2 password grant, which the docs page uses, and refreshing."""

from aiohttp import web

from ytdl.api import auth
from ytdl.api.http import client_ip
from ytdl.api.keys import AUTH
from ytdl.auth import Grant, RefreshToken, Tokens


async def token(request: web.Request, body: Grant) -> Tokens:
    return await auth.login(request, body)


async def refresh(request: web.Request, body: RefreshToken) -> Tokens:
    return await request.app[AUTH].refresh(body.refresh_token, ip=client_ip(request) or None)
