"""The server around an application: aiohttp's own runner with our observer, and problems for what no route
ever sees.

Requests that cannot be parsed never reach a middleware; they get their problem document here.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web

from ytdl import errors, loops, metrics
from ytdl.api import blocking, middleware, problems
from ytdl.api.keys import HEADERS

log = logging.getLogger("ytdl.http")
KEEPALIVE_SECONDS = 75.0
HEAD_SECONDS = 15.0
ANSWER_SECONDS = 60.0
LINGERING_SECONDS = 2.0
SHORT_BYTES = 32 * 1024
# Handlers that are still busy when the sites are closed get this long; streams are ended before, in
# on_shutdown.
SHUTDOWN_SECONDS = 5.0
# Connections that clients or a proxy keep open get this long for another request, whose answer tells them to close. A
# proxy on a busy machine may have connected and sent nothing yet.
LAST_REQUESTS_SECONDS = 1.5


class Connection(web.RequestHandler):
    """One client's connection, with limits to how slow it may be that aiohttp has none for."""

    _head_due: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """The head of a request may take HEAD_SECONDS from its first byte on, however it is dealt out."""
        super().data_received(data)
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and self._head_due is None:
            self._head_due = self._loop.call_later(HEAD_SECONDS, self._end_slow_head)
        elif not waiting and self._head_due is not None:
            self._forget_head()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(self._manager, Server) and self._task_handler is not None:
            self._manager.keep(self._task_handler)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _forget_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _end_slow_head(self) -> None:
        metrics.http_too_slow.labels("head").inc()
        self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer; a long one must be taken within ANSWER_SECONDS. Short ones fit into the socket's buffers."""
        if not _is_long(resp):
            return await super().finish_response(request, resp, start_time)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            metrics.http_too_slow.labels("answer").inc()
            if self.transport is not None:
                self.transport.abort()
            self.log_access(request, resp, start_time)
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp calls this for what it could not parse, and for what escaped every handler."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("The answer had begun and cannot be completed.")
        id = middleware.name(request)
        if status >= 500:
            log.error("http.failed", exc_info=exc)
        sentence = problems.SENTENCES["malformed" if status < 500 else "internal"]
        error = errors.Malformed(sentence) if status < 500 else errors.Error(sentence)
        app: Mapping[Any, Any] = getattr(self._manager, "app", {})
        blocking.unparsed(app, request.remote, status)
        response = problems.answer(error, id, status=status)
        response.headers.update({**app.get(HEADERS, middleware.HEADERS), "X-Request-Id": id, "Server": "ytdl"})
        response.force_close()
        return response


def _is_long(response: web.StreamResponse) -> bool:
    body = getattr(response, "body", None)
    return len(body) > SHORT_BYTES if isinstance(body, bytes) else isinstance(response, web.FileResponse)


class Server(web.Server):
    app: web.Application
    # What answers each connection. aiohttp forgets it with the connection, though the handler of a client that hung up
    # goes on.
    answering: set[asyncio.Task[None]]

    def keep(self, task: asyncio.Task[None]) -> None:
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Use it wherever the application is served, in tests too: metrics and access log depend on it."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(
            app,
            access_log_class=middleware.Observer,
            access_log=middleware.access_log,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=SHUTDOWN_SECONDS,
            # What is left of a body that nobody reads is thrown away for this long, so that its answer is seen.
            lingering_time=LINGERING_SECONDS,
            # Encoded bodies are refused; taking them apart first would be work for whoever sends a bomb.
            auto_decompress=False,
        )

    async def stop_listening(self) -> None:
        """The last step before `cleanup` where nobody may be turned away: new connections are refused from here on,
        so that a proxy tries elsewhere, and those that were made before are still served, for LAST_REQUESTS_SECONDS
        at most."""
        for site in list(self.sites):
            for listening in await self._close(site):
                await self._accept_last(listening)
        await self._until_nobody_is_connected()

    async def _close(self, site: web.BaseSite) -> list[socket.socket]:
        """The sockets of a site that accepts nobody any more. aiohttp keeps its own to itself; a duplicate still yields
        the connections that wait to be accepted, which the kernel would reset."""
        sockets = cast("asyncio.Server", site._server).sockets
        listening = [each.dup() for each in sockets]
        for each in sockets:
            asyncio.get_running_loop().remove_reader(each.fileno())
        # Whom the loop has accepted in this round it takes up in the next, and would drop without a word if the server
        # were closed by then.
        await asyncio.sleep(0)
        await site.stop()
        return listening

    async def _until_nobody_is_connected(self) -> None:
        """Or for LAST_REQUESTS_SECONDS. Whom the loop has just accepted counts after its next round."""
        deadline = time.monotonic() + LAST_REQUESTS_SECONDS
        await asyncio.sleep(0.02)
        while self.server and self.server.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)

    async def _accept_last(self, listening: socket.socket) -> None:
        accepted = []
        with listening, contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listening.accept()[0])
        for connection in accepted:
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(cast("Any", self.server), connection)

    async def _cleanup_server(self) -> None:
        """No handler is left when what they use goes: those who are not ready in time are ended."""
        if isinstance(self.server, Server) and self.server.answering:
            await asyncio.wait(self.server.answering, timeout=SHUTDOWN_SECONDS)
            await loops.stop(list(self.server.answering))
        await super()._cleanup_server()

    async def _make_server(self) -> web.Server:
        # aiohttp has no option for the connection's class, nor one for what it refuses before the first
        # middleware.
        server = await super()._make_server()
        server.__class__ = Server
        cast(Server, server).app = self._app
        cast(Server, server).answering = set()
        server.request_handler = _refusing(server.request_handler)
        return server


def _refusing(handler: Any) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return cast("web.StreamResponse", await handler(request))
        except web.HTTPException as refusal:
            if refusal.status < 400:
                raise
            middleware.name(request)
            return problems.of_aiohttp(request, refusal)

    return handle


async def listen(runner: Runner, host: str, port: int) -> str:
    """Opens the site and returns its address; raises `OSError` where it cannot."""
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    address = runner.addresses[0]
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"
