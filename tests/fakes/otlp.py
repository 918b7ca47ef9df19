"""A stand-in for a collector of traces: OTLP over HTTP, as protobuf. It can refuse, and it can be silent."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """Ids as hexadecimal digits; `parent` is empty for one that begins a trace."""

    trace: str
    id: str
    parent: str
    name: str
    seconds: float
    facts: dict[str, str]


@dataclass
class Collector:
    """`answer` is the status that exporters get; `silent` lets them wait for it until the end."""

    url: str = ""
    answer: int = 200
    silent: bool = False
    spans: list[Span] = field(default_factory=list)

    async def until(self, *names: str, seconds: float = 30.0) -> list[Span]:
        """All spans, once there is one of each name."""
        async with asyncio.timeout(seconds):
            while not set(names) <= {span.name for span in self.spans}:  # noqa: ASYNC110 - they come over HTTP
                await asyncio.sleep(0.05)
        return self.spans

    def one(self, name: str) -> Span:
        [found] = [span for span in self.spans if span.name == name]
        return found

    async def _take(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.sleep(3600)
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.answer == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.answer)


def _spans(told: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            {fact.key: fact.value.string_value or str(fact.value.int_value) for fact in span.attributes},
        )
        for resource in told.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]  # fmt: skip


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector._take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()
