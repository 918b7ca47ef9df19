"""Pages for people: the landing page and the two views of the OpenAPI document, with everything they load.

Swagger UI and ReDoc come out of an installed package; nothing is fetched from elsewhere, which the pages' own
Content-Security-Policy holds.
"""

import importlib.util
from pathlib import Path

from aiohttp import hdrs, web

from ytdl import errors
from ytdl.api.keys import OPENAPI

STATIC = Path(__file__).parent.parent / "static"
PAGE_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
# Both viewers write style elements; Swagger UI has its icons in data URLs, ReDoc searches in a worker.
VIEWER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _packaged() -> dict[str, Path]:
    """The package is looked up and not imported: its `__init__` is made for Django."""
    spec = importlib.util.find_spec("drf_spectacular_sidecar")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / "static" / "drf_spectacular_sidecar"
    return {
        "swagger-ui-bundle.js": folder / "swagger-ui-dist" / "swagger-ui-bundle.js",
        "swagger-ui.css": folder / "swagger-ui-dist" / "swagger-ui.css",
        "redoc.standalone.js": folder / "redoc" / "bundles" / "redoc.standalone.js",
    }


# Said outright, because what the system thinks of a suffix differs.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A closed list: a name that a client sends never becomes a path.
ASSETS = {path.name: path for path in STATIC.iterdir() if path.suffix in (".css", ".js", ".svg")} | _packaged()


def _file(path: Path, caching: str, **headers: str) -> web.FileResponse:
    known = {hdrs.CONTENT_TYPE: TYPES[path.suffix], hdrs.CACHE_CONTROL: caching}
    return web.FileResponse(path, headers=known | headers)


def _page(name: str, policy: str) -> web.FileResponse:
    return _file(STATIC / name, "no-cache", **{"Content-Security-Policy": policy})


async def index(request: web.Request) -> web.FileResponse:
    """Says what this is and where to go on."""
    return _page("index.html", PAGE_POLICY)


async def swagger(request: web.Request) -> web.FileResponse:
    """Shows the API in Swagger UI, where calls can be tried."""
    return _page("swagger.html", VIEWER_POLICY)


async def api_docs(request: web.Request) -> web.FileResponse:
    """Shows the API in Swagger UI, under the address where many look for it."""
    return await swagger(request)


async def redoc(request: web.Request) -> web.FileResponse:
    """Shows the API in ReDoc, for reading."""
    return _page("redoc.html", VIEWER_POLICY)


async def asset(request: web.Request) -> web.FileResponse:
    """Sends a script, style or picture of these pages."""
    path = ASSETS.get(request.match_info["name"])
    if path is None:
        raise errors.NotFound("There is no file by that name.")
    return _file(path, "public, max-age=3600")


async def document(request: web.Request) -> web.Response:
    """The OpenAPI 3.1 document of this API."""
    headers = {hdrs.CACHE_CONTROL: "no-cache"}
    return web.Response(body=request.app[OPENAPI], content_type="application/json", headers=headers)
