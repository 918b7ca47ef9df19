"""Traces: what a collector is told of requests and downloads, and what it costs when there is none."""

import asyncio
import dataclasses
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Person, Service, running
from tests.dashboards import DASHBOARDS, panels, prom
from tests.fakes.otlp import Collector, collecting
from tests.fakes.youtube import YouTube
from tests.watching import Watcher, needs_prometheus, prometheus
from ytdl import log, metrics, tracing
from ytdl.config import Config

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@pytest.fixture
async def traced(config: Config, collector: Collector) -> AsyncIterator[Service]:
    async with running(dataclasses.replace(config, otel_exporter_otlp_endpoint=collector.url)) as service:
        yield service


async def test_a_request_is_told_with_its_queries_as_part_of_its_callers_trace(
    traced: Service, collector: Collector
) -> None:
    async with traced.person("carl") as carl:
        await (await carl.get("/downloads?q=private-words", headers=SAMPLED)).read()
        await collector.until("GET /api/v1/downloads")
    request = collector.one("GET /api/v1/downloads")
    assert (request.trace, request.parent) == (TRACE, PARENT)
    assert list(request.facts.values()) == ["GET", "/api/v1/downloads", "200"]
    query = collector.one("sql downloads.page")
    assert query.parent == request.id and 0 < query.seconds < request.seconds
    assert "private-words" not in str(collector.spans)


OTHERS = f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE.upper()}-{PARENT}-01"
MALFORMED = ["", "x", f"00-{'0' * 32}-{PARENT}-01", *OTHERS]


@pytest.mark.parametrize("given", MALFORMED)
async def test_what_is_no_traceparent_begins_a_trace_of_its_own(
    traced: Service, collector: Collector, given: str
) -> None:
    async with traced.client.get("/healthz", headers={"traceparent": given}) as answer:
        assert answer.status == 200
    await collector.until("GET /healthz")
    assert collector.one("GET /healthz").parent == "" and collector.one("GET /healthz").trace != TRACE


async def test_who_does_not_sample_is_not_told(traced: Service, collector: Collector) -> None:
    async with traced.client.get("/healthz", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}):
        pass
    async with traced.client.get("/readyz"):
        pass
    await collector.until("GET /readyz")
    assert "GET /healthz" not in {span.name for span in collector.spans}


@pytest.fixture
async def fetching(downloading_config: Config, collector: Collector) -> AsyncIterator[Service]:
    config = dataclasses.replace(
        downloading_config, otel_exporter_otlp_endpoint=collector.url, egress_pause_seconds=0.2
    )
    async with running(config) as service:
        yield service


async def ask(person: Person, youtube: YouTube, video: str, status: str, headers: Mapping[str, str] = SAMPLED) -> str:
    asked = await person.post("/downloads", {"url": youtube.url(video), "quality": "360p"}, headers=headers)
    id = str((await asked.json())["id"])
    async with asyncio.timeout(30):
        while (await (await person.get(f"/downloads/{id}")).json())["status"] != status:  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.1)
    return id


async def test_a_download_is_one_trace_from_its_request_to_its_file(
    fetching: Service, youtube: YouTube, collector: Collector
) -> None:
    async with fetching.person("dora") as dora:
        await ask(dora, youtube, "ordinary", "completed")
    await collector.until("attempt")
    ours = [span for span in collector.spans if span.trace == TRACE]
    request, attempt = collector.one("POST /api/v1/downloads"), collector.one("attempt")
    assert {request.parent} == {PARENT} and attempt.parent == collector.one("queue wait").parent == request.id
    stages = [span.name for span in ours if span.parent == attempt.id and " " not in span.name]
    assert sorted(stages) == ["downloading", "extracting", "processing", "verifying"]
    assert youtube.url("ordinary") not in str(collector.spans) and "dora" not in str(collector.spans)


async def test_each_try_of_a_download_is_told(fetching: Service, youtube: YouTube, collector: Collector) -> None:
    async with fetching.person("dora") as dora:
        youtube.misbehave(player_status=429, times=1)
        await ask(dora, youtube, "ordinary", "completed")
        async with asyncio.timeout(30):
            while len([s for s in collector.spans if s.name == "attempt"]) < 2:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.1)
    tries = [span for span in collector.spans if span.name == "attempt"]
    assert [span.facts["ytdl.fence"] for span in tries] == ["1", "2"]
    assert {(span.trace, span.parent) for span in tries} == {(TRACE, collector.one("POST /api/v1/downloads").id)}


async def test_a_download_that_another_life_of_the_service_fetches_is_in_the_same_trace(
    downloading_config: Config, youtube: YouTube, collector: Collector
) -> None:
    config = dataclasses.replace(downloading_config, otel_exporter_otlp_endpoint=collector.url)
    async with running(dataclasses.replace(config, download_concurrency=0)) as service, service.person("eve") as eve:
        asked = await eve.post("/downloads", {"url": youtube.url("ordinary")}, headers=SAMPLED)
        assert asked.status == 202
    async with running(config):
        await collector.until("attempt", seconds=30)
    assert collector.one("attempt").trace == TRACE


async def test_histograms_name_a_trace_for_who_asks_for_openmetrics(traced: Service) -> None:
    async with traced.person("carl") as carl:
        await carl.get("/auth/profile", headers=SAMPLED)
    async with asyncio.timeout(15):
        while not any(  # noqa: ASYNC110 - it is counted after the answer
            line.startswith("ytdl_http_request_seconds_bucket{") and "/auth/profile" in line
            for line in await naming(traced, TRACE)
        ):
            await asyncio.sleep(0.05)


async def naming(service: Service, trace: str) -> list[str]:
    """What a scrape has with that trace beside it."""
    async with service.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as answer:
        return [line for line in (await answer.text()).splitlines() if f'# {{trace_id="{trace}"}}' in line]


async def test_a_wait_names_a_trace_that_began_here(fetching: Service, youtube: YouTube, collector: Collector) -> None:
    """Its flags say more than that it is sampled, as its id is random."""
    async with fetching.person("dora") as dora:
        await ask(dora, youtube, "ordinary", "completed", {})
    await collector.until("POST /api/v1/downloads", "attempt")
    trace = collector.one("POST /api/v1/downloads").trace
    assert any(line.startswith("ytdl_queue_wait_seconds_bucket{") for line in await naming(fetching, trace))


@pytest.mark.parametrize(("flags", "told"), [("00", False), ("01", True), ("02", False), ("03", True), ("10", False)])
async def test_of_what_a_trace_is_flagged_with_one_bit_says_that_it_is_told(
    traced: Service, flags: str, told: bool
) -> None:
    assert tracing.exemplar_of(f"00-{TRACE}-{PARENT}-{flags}") == ({"trace_id": TRACE} if told else None)


@needs_prometheus
async def test_a_line_on_a_dashboard_has_traces_beside_it(traced: Service, tmp_path: Path) -> None:
    """Each of its queries that asks for them, from a Prometheus with the flag that docs/MONITORING.md names."""
    [latency] = [panel for panel in panels(DASHBOARDS["overview"]) if panel["title"] == "Latency"]
    asked = [prom(target["expr"]) for target in latency["targets"] if target.get("exemplar")]
    assert len(asked) == len(latency["targets"])
    address = traced.url.removeprefix("http://").rstrip("/")
    # No scrape may take longer than that.
    scraped = [{"job_name": "ytdl", "scrape_interval": "3s", "static_configs": [{"targets": [address]}]}]
    async with traced.person("carl") as carl, prometheus(tmp_path, {"scrape_configs": scraped}) as server:
        await carl.get("/auth/profile", headers=SAMPLED)
        async with asyncio.timeout(90):
            while not all([await _beside(server, one) for one in asked]):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.2)


async def _beside(server: Watcher, expression: str) -> bool:
    now = time.time()
    found = await server.get("/api/v1/query_exemplars", query=expression, start=f"{now - 60}", end=f"{now + 60}")
    return TRACE in {one["labels"]["trace_id"] for series in found["data"] for one in series["exemplars"]}


async def test_lines_of_the_log_name_the_trace(traced: Service, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(log._head(0, "info", "x", "y").get("trace_id"))
            return True

    caplog.set_level("INFO", "ytdl.access")
    caplog.handler.addFilter(Keep())
    async with traced.client.get("/healthz", headers=SAMPLED):
        pass
    async with asyncio.timeout(20):
        while TRACE not in seen:  # noqa: ASYNC110 - it is written after the answer
            await asyncio.sleep(0.02)


def dropped() -> float:
    return float(metrics.tracing_spans.labels("dropped")._value.get())


async def test_a_collector_that_refuses_is_counted_and_costs_requests_nothing(
    traced: Service, collector: Collector
) -> None:
    collector.answer, before = 400, dropped()
    async with traced.client.get("/healthz") as answer:
        assert answer.status == 200
    async with asyncio.timeout(30):
        while dropped() == before:  # noqa: ASYNC110 - another thread counts
            await asyncio.sleep(0.05)


async def test_a_silent_collector_keeps_neither_requests_nor_the_end_of_the_service(
    config: Config, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.silent = True
    monkeypatch.setattr(tracing, "MOST_WAITING", 512)
    # To wait for what is left then would take longer than is allowed for the end.
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 30.0)
    async with running(dataclasses.replace(config, otel_exporter_otlp_endpoint=collector.url)) as service:
        before = dropped()
        for _ in range(tracing.MOST_WAITING + 700):
            async with service.client.get("/healthz") as answer:
                assert answer.status == 200
        assert dropped() > before, "more than may wait"
        ending = time.monotonic()
    assert time.monotonic() - ending < tracing.STOP_SECONDS + 15
    assert tracing.tracer is None


# The Redis client loads what it finds of these packages, so they are not there as in an installation without them.
WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import ytdl.app
print([name for name in sys.modules if name.startswith("opentelemetry.")])
from ytdl import tracing
try:
    tracing.start("http://127.0.0.1:9", 1, "1")
except ValueError as e:
    print(e)
"""


def test_the_service_runs_without_the_packages_and_says_when_it_needs_them() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    needs = f"OTEL_EXPORTER_OTLP_ENDPOINT needs further packages: {tracing.INSTALL}."
    assert done.stdout.splitlines() == ["[]", needs]


async def test_a_service_without_a_collector_makes_no_trace(service: Service, alice: Person) -> None:
    assert tracing.tracer is None and tracing.traceparent() is None and tracing.exemplar() is None
    answer = await alice.get("/downloads", headers=SAMPLED)
    assert answer.status == 200
