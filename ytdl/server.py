"""A whole life of the service in one process: start, words on the terminal, signals, a stop in order."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys

from aiohttp import web

from ytdl import app, db, errors
from ytdl.api import serving
from ytdl.api.keys import FIRST_PASSWORD
from ytdl.config import Config

log = logging.getLogger("ytdl.server")
STOPPED_AT_ONCE = 130


async def serve(config: Config) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code. A second signal ends the process on the spot;
    what it started ends with it, for the kernel tells them of their parent's death."""
    stop = _on_signals()
    try:
        _try_port(config)
        application = await app.new(config)
        runner = serving.Runner(application)
        if not await _started(runner, stop):
            return 0
        await _serve(config, application, runner, stop)
    except (errors.Error, db.SchemaMismatch, ValueError, OSError) as e:
        print(f"ytdl: {e}", file=sys.stderr)
        return 1
    return 0


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def heard() -> None:
        if stop.is_set():
            os._exit(STOPPED_AT_ONCE)
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, heard)
    return stop


def _try_port(config: Config) -> None:
    """Raises `errors.Unavailable` now, and not after a start that takes seconds and changes things."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as e:
        raise _refused(config, e) from None


async def _started(runner: serving.Runner, stop: asyncio.Event) -> bool:
    """False where a signal came first; what had been started is then ended again."""
    starting = asyncio.create_task(runner.setup())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    starting.result()
    return True


async def _serve(config: Config, application: web.Application, runner: serving.Runner, stop: asyncio.Event) -> None:
    try:
        url = await _listen(runner, config)
        log.info("serve.listening", extra={"url": url})
        _greet(config.public_url.rstrip("/") or url, application[FIRST_PASSWORD], config)
        await stop.wait()
        log.info("serve.stopping", extra={"drain_seconds": config.drain_seconds})
        await app.drain(application)
        await runner.stop_listening()
    finally:
        await runner.cleanup()
    log.info("serve.stopped")


async def _listen(runner: serving.Runner, config: Config) -> str:
    try:
        return await serving.listen(runner, config.host, config.port)
    except OSError as e:
        raise _refused(config, e) from None


def _greet(url: str, password: str | None, config: Config) -> None:
    """To people; the password even without a terminal, as it is told only this once."""
    lines = []
    if sys.stdout.isatty():
        lines += [f"ytdl is ready:  {url}", f"documentation:  {url}/docs"]
    if password is not None:
        lines += [
            f"admin account:  {config.admin_username}",
            f"its password:   {password}   (shown only this once)",
        ]
    if sys.stdout.isatty():
        lines.append("Ctrl-C stops it; a second Ctrl-C does not wait for running downloads.")
    if lines:
        print("", *lines, "", sep="\n", flush=True)


def _refused(config: Config, e: OSError) -> errors.Unavailable:
    where = f"Port {config.port} on {config.host}"
    if e.errno == errno.EADDRINUSE:
        return errors.Unavailable(f"{where} is in use; stop the other program, or set PORT to another number.")
    return errors.Unavailable(f"{where} cannot be listened on: {e.strerror or e}. Look at HOST and PORT.")
