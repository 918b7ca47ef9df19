"""How much of an answer is read: pages are read whole and into memory, files are not."""

import asyncio
import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from ytdl.child import errors
from ytdl.child.client import Client
from ytdl.child.frames import Setup
from ytdl.child.pages import MAX_PAGE_BYTES


class Large(BaseHTTPRequestHandler):
    """A body of a byte more than a page may have."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(MAX_PAGE_BYTES + 1))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(bytes(MAX_PAGE_BYTES + 1))

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.mark.parametrize("pages", [True, False])
async def test_pages_have_an_end_and_files_that_yt_dlp_fetches_do_not(pages: bool) -> None:
    client = Client(Setup(allowed_extractors=["youtube"]))
    client.reads_pages = pages
    with ThreadingHTTPServer(("127.0.0.1", 0), Large) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answer = await asyncio.to_thread(client.urlopen, f"http://127.0.0.1:{server.server_port}/")
        with pytest.raises(errors.Refused) if pages else contextlib.nullcontext():
            assert len(await asyncio.to_thread(answer.read)) == MAX_PAGE_BYTES + 1
        server.shutdown()
