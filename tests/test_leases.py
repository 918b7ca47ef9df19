"""A Redis whose place somebody else took for a while: the limit is counted here, and by Redis again once it is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.fakes.gate import Gate
from tests.servers import Servers
from ytdl import leases, ratelimit
from ytdl.config import Config
from ytdl.kv import KV
from ytdl.leases import Lender
from ytdl.ratelimit import Limiter


@asynccontextmanager
async def impostor(path: Path, answer: bytes) -> AsyncIterator[None]:
    """Answers whatever is said there with that."""

    open_: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.append(writer)
        while await reader.read(65536):
            writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        for writer in open_:
            writer.transport.abort()
        await server.wait_closed()
        path.unlink(missing_ok=True)


async def until(lender: Lender, where: str) -> None:
    async with asyncio.timeout(20):
        while lender.where != where:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


async def failures(caplog: pytest.LogCaptureFixture, times: int) -> None:
    async with asyncio.timeout(20):
        while [record.message for record in caplog.records].count("ratelimit.failed") < times:  # noqa: ASYNC110 - so
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [b"*0\r\n", b"$-1\r\n"])
async def test_what_answers_in_the_place_of_redis_is_no_reason_to_give_it_up(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """A list without items and nothing at all are answers that Redis gives, but never to this."""
    monkeypatch.setattr(leases, "TELL_SECONDS", 0.0)
    path = tmp_path / "r"
    kv = KV(f"unix://{path}", f"impostor-{uuid4()}")
    limiter = Limiter(ratelimit.policies_of(Config()), kv)
    await limiter.take(limiter.caller("general", "192.0.2.1"))
    assert limiter._lender.where == "process"
    async with impostor(path, answer):
        await failures(caplog, 2)
        assert limiter._lender.where == "process"
    async with Gate(path, Path(urlsplit(str(servers.redis_url)).path)):
        await until(limiter._lender, "redis")
        await limiter.close()
        await kv.close()
