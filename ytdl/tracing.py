"""Traces: what a request or an attempt at a download did, and how long each step took, for a collector.

OpenTelemetry is loaded by `start` alone, so a service that has no collector pays one comparison with None. Steps are
only told inside a request or an attempt that is sampled: background rounds make no traces. What is told of a step are
names of ours and numbers, never what a user typed, an address or a secret. Nothing of a trace goes to upstream sites.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ytdl import log, metrics

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span, Tracer

MOST_WAITING = 2048
EXPORT_SECONDS = 5.0
STOP_SECONDS = 3.0
# W3C Trace Context: the bit of a traceparent's flags that says that the trace is told.
SAMPLED = 0x01
INSTALL = "pip install -r requirements-tracing.txt"

Facts = Mapping[str, str | int | float]
tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def start(endpoint: str, ratio: float, version: str) -> None:
    """Tells traces to the collector at `endpoint`, an address without the path `/v1/traces`, from now on.

    `ratio`, 0 to 1, is the share of traces that begin here; of one that began at the caller it is the caller's word
    (W3C Trace Context, the flag `sampled`) that counts. Raises ValueError where the packages for it are not installed.
    """
    global tracer, _provider  # noqa: PLW0603
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError:
        raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT needs further packages: {INSTALL}.") from None

    about = Resource({"service.name": "ytdl", "service.version": version})
    _provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=about, shutdown_on_exit=False)
    _provider.add_span_processor(_processor(endpoint))
    tracer = _provider.get_tracer("ytdl")


def stop() -> None:
    """Tells what is left, for three seconds at most, and forgets the collector. Blocks meanwhile."""
    global tracer, _provider
    provider, tracer, _provider = _provider, None, None
    if provider is not None:
        provider.shutdown()


def _processor(endpoint: str) -> Any:
    """Spans go out in batches from a thread of its own; whoever ends one never waits for the collector."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

    class Counting(OTLPSpanExporter):
        """Says of each batch whether it arrived, and bounds the last one."""

        waiting = 0

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            self.waiting -= len(spans)
            done = super().export(spans)
            outcome = "exported" if done is SpanExportResult.SUCCESS else "dropped"
            metrics.tracing_spans.labels(outcome).inc(len(spans))
            return done

    exporter = Counting(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)

    class Batches(BatchSpanProcessor):
        """Counts what finds the line full: the oldest one then gives way."""

        def on_end(self, span: "ReadableSpan") -> None:
            if span.context and span.context.trace_flags.sampled:
                if exporter.waiting >= MOST_WAITING:
                    metrics.tracing_spans.labels("dropped").inc()
                else:
                    exporter.waiting += 1
            super().on_end(span)

        def shutdown(self) -> None:
            self._batch_processor.shutdown(timeout_millis=int(STOP_SECONDS * 1000))

    return Batches(exporter, max_queue_size=MOST_WAITING, schedule_delay_millis=1000)


# beginning


@contextlib.contextmanager
def request(name: str, traceparent: str | None, facts: Facts) -> Iterator["Span"]:
    """A request, as part of its caller's trace where that named one well-formed. Only while `tracer` is there."""
    from opentelemetry.trace import SpanKind

    with _root(name, SpanKind.SERVER, _context(traceparent), facts) as span:
        yield span


@contextlib.contextmanager
def attempt(traceparent: str | None, waited_seconds: float, facts: Facts) -> Iterator[None]:
    """An attempt at a job, as part of the trace of the request that asked for it, with the time it waited before."""
    if tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    context = _context(traceparent)
    begun = time.time_ns()
    if traceparent:
        waiting = tracer.start_span("queue wait", context, start_time=begun - int(waited_seconds * 1e9))
        waiting.end(begun)
    with _root("attempt", SpanKind.CONSUMER, context, facts):
        yield


@contextlib.contextmanager
def _root(name: str, kind: Any, context: "Context", facts: Facts) -> Iterator["Span"]:
    assert tracer is not None
    with tracer.start_as_current_span(name, context, kind, facts, record_exception=False) as span:
        # Not taken back: the line about a request is written when it is over, and the next one sets its own.
        log.trace_id.set(trace_id())
        yield span


def _context(traceparent: str | None) -> "Context":
    """Empty where there is none, or none as W3C Trace Context has it."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent} if traceparent else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


# steps


@contextlib.contextmanager
def step(server: str, name: str) -> Iterator[None]:
    """What is asked of a server in the request or attempt that is under way; nothing outside of one."""
    if tracer is None or not _recording():
        yield
        return
    with tracer.start_as_current_span(f"{server} {name}", record_exception=False):
        yield


class Stages:
    """The stages of an attempt, one after the other, as they become known."""

    def __init__(self) -> None:
        self._name = ""
        self._span: Span | None = None

    def enter(self, name: str) -> None:
        """Begins the stage and ends the one before; to stay in a stage is nothing."""
        if tracer is None or name == self._name:
            return
        self.end()
        if _recording():
            self._name, self._span = name, tracer.start_span(name)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()
        self._name, self._span = "", None


def _recording() -> bool:
    from opentelemetry import trace

    return trace.get_current_span().is_recording()


# what is kept


def traceparent() -> str | None:
    """Where this is in its trace, to be kept or handed on; None outside of one."""
    if tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def trace_id() -> str | None:
    """Of the trace that is told, as 32 hexadecimal digits; None outside of one."""
    if tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else None


def exemplar() -> dict[str, str] | None:
    """What a histogram can say of where an observation comes from; None where it was not told."""
    id = trace_id()
    return {"trace_id": id} if id else None


def exemplar_of(traceparent: str | None) -> dict[str, str] | None:
    """The same of a trace that was kept."""
    if tracer is None or not traceparent:
        return None
    # Beside the flag `sampled` there may be others, as that the id is random.
    return {"trace_id": traceparent[3:35]} if int(traceparent[-2:], 16) & SAMPLED else None
