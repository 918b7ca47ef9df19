"""API keys over HTTP: their owner's own, from a signed-in session only, so that no key can make another."""

from aiohttp import web

from ytdl.api.http import path_uuid, who
from ytdl.api.keys import API_KEYS
from ytdl.apikeys import Keys, MadeKey, NewKey


async def create(request: web.Request, body: NewKey) -> MadeKey:
    """Make an API key for a script.

    It is shown this once. Send it as `Authorization: Bearer <key>`. A `read` key may look at things, watch streams and
    fetch files; a `write` key may do what its user may, but for what concerns the account itself: password, profile,
    sessions and API keys. No key changes or removes accounts, not even an admin's.
    """
    return await request.app[API_KEYS].create(who(request), body)


async def page(request: web.Request) -> Keys:
    """List your API keys, newest first; the keys themselves are not kept."""
    return await request.app[API_KEYS].of(who(request).user_id)


async def delete(request: web.Request) -> None:
    """End an API key: it stops working at once, its streams too."""
    await request.app[API_KEYS].delete(who(request), path_uuid(request, "id"))
