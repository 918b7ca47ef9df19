"""A stand-in for whoever gets webhooks: over TLS, as misbehaved as a test wants, with a log of what came.

Also the resolver that leads to it, whose answer to each question for a name is the next in a list.
"""

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.fakes.youtube_proxy import make_authority

DOMAIN = "hooks.example"


@dataclass
class Got:
    """One request."""

    path: str
    host: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Hook:
    """`status` and `headers` are those of the next answers; `size` is of the body, endless when negative."""

    ca_file: Path
    context: Any
    tls: bool = True
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0
    delay: float = 0.0
    got: list[Got] = field(default_factory=list)
    port: int = 0

    @classmethod
    def new(cls, folder: Path, *, tls: bool = True) -> Self:
        return cls(*make_authority(folder, (DOMAIN,)), tls=tls)

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.context if self.tls else None).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "/hook") -> str:
        return f"{'https' if self.tls else 'http'}://{DOMAIN}:{self.port}{path}"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.got.append(Got(request.path, request.host, dict(request.headers), await request.read()))
        await asyncio.sleep(self.delay)
        answer = web.StreamResponse(status=self.status, headers=self.headers)
        await answer.prepare(request)
        sent = 0
        while self.size < 0 or sent < self.size:
            await answer.write(b"x" * 16_384 if self.size < 0 else b"x" * self.size)
            sent += 16_384
        return answer


class Answers(AbstractResolver):
    """Addresses by turn for every name; the last stays. `asked` are the names."""

    def __init__(self, *addresses: str | list[str]) -> None:
        self._left = [[each] if isinstance(each, str) else each for each in addresses]
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        found = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        if not found:
            raise OSError("no such name")
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)
            for address, kind in zip(found, kinds, strict=True)
        ]

    async def close(self) -> None:
        """Nothing is open."""
