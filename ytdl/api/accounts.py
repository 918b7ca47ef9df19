"""Accounts over HTTP, for admins."""

from aiohttp import web

from ytdl.accounts import Account, AccountChange, AccountFilter, AccountPage
from ytdl.api.http import path_uuid
from ytdl.api.keys import ACCOUNTS


async def page(request: web.Request, query: AccountFilter) -> AccountPage:
    """List the accounts, newest first."""
    return await request.app[ACCOUNTS].page(query)


async def get(request: web.Request) -> Account:
    """Look at an account."""
    return await request.app[ACCOUNTS].get(path_uuid(request, "id"))


async def change(request: web.Request, body: AccountChange) -> Account:
    """Change an account, its role or its limits, or unlock it.

    With another role, or deactivated, it is signed out everywhere and its API keys end, at once; downloads that it has
    asked for go on. The last active admin stays one: 409.
    """
    return await request.app[ACCOUNTS].change(path_uuid(request, "id"), body)


async def delete(request: web.Request) -> None:
    """Remove an account with all that is its own.

    Its downloads are cancelled and removed with their files; statistics and what is on record stay. The last active
    admin stays: 409.
    """
    await request.app[ACCOUNTS].delete(path_uuid(request, "id"))
