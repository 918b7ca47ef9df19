"""A load generator for where `wrk` is not installed: connections that each ask again as soon as they are answered.

`python -m tests.bench_client URL TOKEN CONNECTIONS SECONDS` prints `{"requests_per_second": …, "p99_ms": …}`.
"""

import asyncio
import json
import statistics
import sys
import time
from urllib.parse import urlsplit


class Asker(asyncio.Protocol):
    """One connection. Answers must have a Content-Length and status 200, else the run is void."""

    def __init__(self, request: bytes, until: float, seconds: list[float]) -> None:
        self._request = request
        self._until = until
        self._seconds = seconds
        self._got = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, separator, body = self._got.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self._end(RuntimeError(head[:60].decode(errors="replace")))
            return
        self._got = b""
        self._seconds.append(time.perf_counter() - self._began)
        if time.perf_counter() < self._until:
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionResetError("The server closed the connection."))

    def _end(self, error: Exception | None) -> None:
        if error:
            self.over.set_exception(error)
        else:
            self.over.set_result(None)
        self._transport.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def load(url: str, token: str, connections: int, seconds: float) -> dict[str, float]:
    """Requests a second and the 99th percentile in milliseconds; raises for any answer but 200."""
    address = urlsplit(url)
    assert address.hostname
    request = f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n"
    taken: list[float] = []
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    askers = []
    for _ in range(connections):
        asker = Asker(request.encode(), until, taken)
        await loop.create_connection(lambda asker=asker: asker, address.hostname, address.port or 80)  # type: ignore[misc]
        askers.append(asker)
    await asyncio.gather(*(asker.over for asker in askers))
    return {"requests_per_second": len(taken) / seconds, "p99_ms": statistics.quantiles(taken, n=100)[98] * 1000}


def main(url: str, token: str, connections: str, seconds: str) -> None:
    print(json.dumps(asyncio.run(load(url, token, int(connections), float(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:5])
