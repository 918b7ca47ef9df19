"""The application: everything that is made at start, in order of need, with its end right beside its
beginning.

Straight-line on purpose: a step uses what earlier ones made, and `cleanup_ctx` undoes them in reverse.
"""

from aiohttp import web

from ytdl.api import http
from ytdl.api.keys import CONFIG
from ytdl.config import Config
from ytdl.routes import ROUTES


async def new(config: Config) -> web.Application:
    app = http.application()
    app[CONFIG] = config
    http.register(app, ROUTES)
    return app
