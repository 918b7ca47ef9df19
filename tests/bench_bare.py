"""What a signed-in read is compared with: an aiohttp server with one route that encodes JSON, and nothing else.

`python -m tests.bench_bare PORT FILE` answers what is in the JSON file at `/bare`, encoded anew for each request.
"""

import sys
from pathlib import Path

import msgspec
from aiohttp import web


def main(port: str, file: str) -> None:
    value = msgspec.json.decode(Path(file).read_bytes())

    async def bare(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(value), content_type="application/json")

    app = web.Application()
    app.router.add_get("/bare", bare)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:3])
