"""One address for several processes: a real nginx, or a client that goes round them itself.

nginx comes as a Debian package (tests/install.sh). Where it may not be installed, the same tests run with a client
that asks the next process when one does not answer; the tests' names say which of the two it was.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.instance import free_port, last_words

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
KIND = "nginx" if NGINX else "client"
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is missing: tests/install.sh installs it")
NOBODY = 65534
START_SECONDS = 30.0
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# What is installed is what is tested: only places and addresses differ.
SOURCE = Path(__file__).parent.parent / "nginx" / "nginx.conf"


def config_for(folder: Path, port: int, urls: Sequence[str], before: str = "", connections: int = 2000) -> str:
    """The project's nginx.conf for that port and those services, without root's folders.

    `before` is the address of what ends TLS in front of it, if anything does.
    """
    servers = "\n".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in urls)
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    changed = {
        "worker_processes auto;": "daemon off;\nworker_processes 1;",
        "pid /tmp/nginx.pid;": f"pid {folder}/nginx.pid;",
        "access_log off;": f"access_log off;\n{temporary}",
        "server ytdl:8000 max_fails=0;": servers,
        "listen 8080;": f"listen 127.0.0.1:{port};\nadd_header X-Answered-By $upstream_addr always;",
        "limit_conn addresses 256;": f"limit_conn addresses {connections};",
    }
    if before:
        changed |= {
            "# set_real_ip_from 192.0.2.10;": f"set_real_ip_from {before};",
            "# real_ip_header X-Forwarded-For;": "real_ip_header X-Forwarded-For;",
        }
    text = SOURCE.read_text()
    for old, new in changed.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@dataclass
class Front:
    """Where clients go: one address that is nginx, or those of the processes themselves, in turn.

    `log` is the file of all that nginx has written.
    """

    addresses: Sequence[str]
    log: Path = Path(os.devnull)
    _turn: "itertools.count[int]" = field(default_factory=itertools.count)

    async def ask(self, session: aiohttp.ClientSession, method: str, path: str, **more: Any) -> aiohttp.ClientResponse:
        """Asks once more elsewhere where that is safe; with nginx there is nowhere else, as nginx does it."""
        first = next(self._turn)
        for attempt in range(len(self.addresses)):
            address = self.addresses[(first + attempt) % len(self.addresses)]
            try:
                return await session.request(method, f"{address}/api/v1{path}", **more)
            except aiohttp.ClientConnectorError:
                last = attempt == len(self.addresses) - 1
            except aiohttp.ClientConnectionError:
                last = method != "GET" or attempt == len(self.addresses) - 1
            if last:
                break
        raise aiohttp.ClientConnectionError("Nobody answered.")


def answered_by(answer: aiohttp.ClientResponse) -> str:
    """The address of the process that answered, through nginx or not; the last one where nginx asked several."""
    given = answer.headers.get("X-Answered-By", "").rpartition(", ")[2]
    return f"http://{given}" if given else str(answer.url.origin())


@asynccontextmanager
async def fronting(urls: Sequence[str], before: str = "", connections: int = 2000) -> AsyncIterator[Front]:
    """What stands before the processes at `urls`, until the end of the block; `before` as in `config_for`."""
    if NGINX is None:
        yield Front(list(urls))
        return
    with tempfile.TemporaryDirectory(prefix="ytdl-nginx-") as name:
        folder, port = Path(name), free_port()
        (folder / "nginx.conf").write_text(config_for(folder, port, urls, before, connections))
        async with _nginx(NGINX, folder, port) as log:
            yield Front([f"http://127.0.0.1:{port}"], log)


@asynccontextmanager
async def _nginx(program: str, folder: Path, port: int) -> AsyncIterator[Path]:
    """nginx without any privilege, even where the tests have all of them; it ends with the tests."""
    log = folder / "nginx.log"
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *_leash(), program, "-p", str(folder), "-c", str(folder / "nginx.conf"),
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        await _listening(process, port, log)
        yield log
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _leash() -> list[str]:
    """Drops root, and ends the program with this process; both are done by util-linux's setpriv."""
    if shutil.which("setpriv") is None:
        return []
    drop = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *drop, "--pdeathsig", "TERM", "--"]


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    for _ in range(int(START_SECONDS / 0.02)):
        assert process.returncode is None, last_words(log) or "nginx did not start"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise AssertionError(f"nginx did not listen within {START_SECONDS:g} s")
