"""The service in this process with a real Prometheus that watches it, for what is asked about the past."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Person, Service, running
from tests.instance import free_port
from tests.watching import Watcher, prometheus
from ytdl.config import Config


@dataclass
class Watched:
    """`root` is an admin of the service."""

    service: Service
    root: Person
    prometheus: Watcher


@asynccontextmanager
async def watching(config: Config, folder: Path, rules: Sequence[Path] = ()) -> AsyncIterator[Watched]:
    """Scraped every second: on a busy machine that takes longer than a fifth of one."""
    port = free_port()
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "200ms"}
    targets = [{"targets": [f"127.0.0.1:{port}"]}]
    scraping = {
        "global": intervals,
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "ytdl", "static_configs": targets}],
    }
    async with prometheus(folder, scraping) as watcher:
        config = dataclasses.replace(
            config, port=port, prometheus_url=watcher.url, metrics_collection_interval=0.2, grafana_url="http://g.test/"
        )
        async with running(config) as service, service.person("root", role="admin") as root:
            await until(watcher, 'sum_over_time(up{job="ytdl"}[1h]) > 3')
            yield Watched(service, root, watcher)
            # A scrape that begins while the service stops would leave a connection behind that nobody closes.
            await watcher.kill()


async def until(watcher: Watcher, expression: str, *, seconds: float = 60.0) -> None:
    """Until Prometheus has an answer to it."""
    async with asyncio.timeout(seconds):
        while not await watcher.ask(expression):  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.1)
