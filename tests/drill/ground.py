"""What a drill stands on: Postgres, Redis, the stand-in, the service, Prometheus, Alertmanager and an inbox.

All of it is the drill's own, lies in one folder and can be broken by itself. The service reaches Postgres through a
gate, so that its answers can be late. Prometheus and Alertmanager read faster copies of what ships; see `scaling`.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import psutil
import psycopg
import redis.asyncio as redis
import yaml
from psycopg.rows import dict_row

from tests import watching
from tests.chaos.apart import MARK
from tests.chaos.ground import copy_source
from tests.drill import scaling
from tests.drill.inbox import Inbox
from tests.drill.scaling import Scale
from tests.fakes.chat import Chat
from tests.fakes.gate import Gate
from tests.fakes.mail import Post
from tests.instance import ROOT, Instance, StandIn, free_port, serving, standing_in
from tests.watching import Watcher
from ytdl import embedded, routing
from ytdl.channels import Settings
from ytdl.embedded import Claim, Server, start_postgres, start_redis

DISK_BYTES = 400 * 2**20
PASSWORD = "Drill-horse-9-battery"
SECRET = "only-this-drill-knows-this-key-0123456789"
SOCKET = ".s.PGSQL.5432"
# What ships is meant for a scrape every 15 seconds and an evaluation every 30.
SCRAPE_SECONDS, EVALUATION_SECONDS = 15.0, 30.0
SEEN_SECONDS = 60.0
POLL_SECONDS = 0.1


class Skipped(Exception):
    """This machine does not let that be broken; the message says why."""


@dataclass
class Ground:
    folder: Path
    scale: Scale
    claim: Claim
    postgres: Server
    memory: Server
    gate: Gate
    youtube: StandIn
    inbox: Inbox
    alertmanager: Watcher
    client: aiohttp.ClientSession
    settings: dict[str, str]
    disk: Path | None
    prometheus: Watcher = field(init=False)
    instance: Instance = field(init=False)
    _service: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['PORT']}"

    # the service

    async def start_service(self, **more: str) -> None:
        """On the same port each time; `more` are settings that differ from the usual ones."""
        self.instance = await self._service.enter_async_context(serving(self.folder, **self.settings | more))

    async def stop_service(self) -> None:
        await self._service.aclose()

    async def kill_service(self) -> None:
        os.kill(self.instance.pid, signal.SIGKILL)
        await self._service.aclose()

    async def running(self, jobs: int) -> None:
        """Waits until so many downloads are under way."""
        async with asyncio.timeout(SEEN_SECONDS), self.database() as db:
            while await _count(db, "jobs WHERE state = 'running'") < jobs:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)

    # the disk

    def fill_disk(self, leave: int = 0) -> None:
        """Takes all room but so many bytes. Raises `Skipped` where the disk is everybody's."""
        if not self.disk:
            raise Skipped("a disk of its own needs root and a mount namespace")
        with (self.disk / "ballast").open("wb") as file:
            # What others write meanwhile must not make it fail.
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.disk).free - leave - 2**20))

    def add_to_disk(self, size: int) -> None:
        assert self.disk
        with (self.disk / "ballast").open("ab") as file:
            file.write(bytes(size))

    def free_disk(self) -> None:
        assert self.disk
        (self.disk / "ballast").unlink()

    # the servers

    async def stop_postgres(self) -> None:
        await self.postgres.stop()

    async def start_postgres(self) -> None:
        self.postgres = await start_postgres(self.claim)

    async def stop_redis(self) -> None:
        await self.memory.stop()

    async def start_redis(self) -> None:
        self.memory = await start_redis(self.claim)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        """A connection that goes round the gate."""
        connecting = psycopg.AsyncConnection.connect(
            self.postgres.url, autocommit=True, row_factory=dict_row, application_name="drill"
        )
        async with await connecting as connection:
            yield connection

    @asynccontextmanager
    async def index(self) -> AsyncIterator["redis.Redis"]:
        client = redis.Redis.from_url(self.memory.url, socket_timeout=10)
        try:
            yield client
        finally:
            await client.aclose()

    # the stand-in

    async def misbehave(self, **fault: Any) -> None:
        async with self.client.post(f"{self.youtube.control_url}/control", json=fault) as answer:
            answer.raise_for_status()

    async def behave(self) -> None:
        async with self.client.delete(f"{self.youtube.control_url}/control"):
            pass

    # what watches

    def prometheus_config(self, own: str) -> dict[str, Any]:
        """What ships, with the addresses of here and the times of the scale."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
        config["global"]["scrape_interval"] = scaling.text_of(self.scale.seconds(SCRAPE_SECONDS))
        config["global"]["evaluation_interval"] = scaling.text_of(self.scale.seconds(EVALUATION_SECONDS))
        config["rule_files"] = [f"{self.folder}/rules/*.yml"]
        alertmanager, service = self.alertmanager.url.removeprefix("http://"), f"127.0.0.1:{self.settings['PORT']}"
        targets = {"ytdl": service, "prometheus": own, "alertmanager": alertmanager}
        for place in config["alerting"]["alertmanagers"]:
            place["static_configs"] = [{"targets": [alertmanager]}]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        return config

    async def configure_prometheus(self, *without: str) -> None:
        """Writes the configuration anew, without jobs of these names, and has it read."""
        config = self.prometheus_config(self.prometheus.url.removeprefix("http://"))
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] not in without]
        (self.folder / "prometheus" / "prometheus.yml").write_text(yaml.safe_dump(config))
        await self.prometheus.reload()

    async def seen(self) -> None:
        """Waits until the service as it runs now was scraped twice: what it counts before that, nobody sees grow."""
        asked = 'changes(process_start_time_seconds{job="ytdl"}[2s]) == 0 and process_start_time_seconds{job="ytdl"}'
        born = psutil.Process(self.instance.pid).create_time() - 1
        async with asyncio.timeout(SEEN_SECONDS):
            while not await self.prometheus.ask(f"{asked} > {born}"):  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(POLL_SECONDS)

    async def firing(self, alert: str) -> bool:
        """As Prometheus sees it, whether or not anybody is told."""
        return bool(await self.prometheus.ask(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))

    async def alerts(self) -> list[dict[str, Any]]:
        """Those that Alertmanager has and that are not over; an empty list while it does not answer."""
        with contextlib.suppress(aiohttp.ClientError):
            found: list[dict[str, Any]] = await self.alertmanager.get("/api/v2/alerts")
            return found
        return []


@asynccontextmanager
async def prepared(folder: Path, scale: Scale, **settings: str) -> AsyncIterator[Ground]:
    """Everything runs, and every alert goes to every channel; some may still be about to end."""
    async with AsyncExitStack() as stack:
        disk = own_disk(folder, stack)
        youtube = await stack.enter_async_context(standing_in(folder))
        inbox = Inbox(
            await stack.enter_async_context(Chat()), await stack.enter_async_context(Post.new(folder / "mail"))
        )
        claim = await embedded.claim(folder / "servers")
        stack.callback(claim.release)
        postgres, memory = await embedded.start_both(claim)
        gate = await stack.enter_async_context(_gate(claim, postgres))
        file = _alertmanager_file(folder)
        alertmanager = await stack.enter_async_context(watching.alertmanager(folder / "alertmanager", file))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        own = _settings(gate, memory, scale) | youtube.settings | {"PYTHONPATH": str(_source(folder))}
        own |= inbox.settings(alertmanager.url, str(file), f"http://127.0.0.1:{own['PORT']}") | settings
        ground = Ground(folder, scale, claim, postgres, memory, gate, youtube, inbox, alertmanager, client, own, disk)
        stack.push_async_callback(_stop_servers, ground)
        stack.push_async_callback(ground.stop_service)
        await _watch(ground, stack)
        await ground.start_service()
        await ground.seen()
        yield ground


async def _watch(ground: Ground, stack: AsyncExitStack) -> None:
    """Starts Prometheus, which then learns its own address, to scrape itself."""
    scaling.copy_rules(ROOT / "prometheus/rules", ground.folder / "rules", ground.scale)
    running = watching.prometheus(ground.folder / "prometheus", ground.prometheus_config("127.0.0.1:1"))
    ground.prometheus = await stack.enter_async_context(running)
    ground.settings["PROMETHEUS_URL"] = ground.prometheus.url
    await ground.configure_prometheus()


def _source(folder: Path) -> Path:
    """The service as it is now, so that what is edited meanwhile does not reach one that starts again."""
    source = copy_source(folder / "source")
    shutil.copytree(ROOT / "alertmanager", source / "alertmanager")
    return source


async def _stop_servers(ground: Ground) -> None:
    await asyncio.gather(ground.postgres.stop(), ground.memory.stop())


def own_disk(folder: Path, stack: AsyncExitStack) -> Path | None:
    """A small file system, where mounts are this process' own; else none."""
    disk = folder / "data"
    disk.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(disk)]
    if not os.environ.get(MARK) or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        return None
    stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
    return disk


async def _count(db: psycopg.AsyncConnection[dict[str, Any]], rows: str) -> int:
    found = await (await db.execute(f"SELECT count(*) AS count FROM {rows}".encode())).fetchone()
    return int(found["count"]) if found else 0


@asynccontextmanager
async def _gate(claim: Claim, postgres: Server) -> AsyncIterator[Gate]:
    folder = claim.sockets / "gate"
    folder.mkdir()
    try:
        async with Gate(folder / SOCKET, _socket_of(postgres)) as gate:
            yield gate
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _socket_of(postgres: Server) -> Path:
    return Path(unquote(postgres.url.partition("host=")[2])) / SOCKET


def _settings(gate: Gate, memory: Server, scale: Scale) -> dict[str, str]:
    return {
        "PORT": str(free_port()),
        "DATABASE_URL": f"postgresql://postgres@/ytdl?host={quote(str(gate.path.parent), safe='')}",
        "REDIS_URL": memory.url,
        "JWT_SECRET_KEY": SECRET,
        "ADMIN_PASSWORD": PASSWORD,
        "TRUSTED_PROXIES": "127.0.0.0/8",
        "ALERT_CHECK_INTERVAL": f"{scale.seconds(EVALUATION_SECONDS):g}",
        "METRICS_COLLECTION_INTERVAL": f"{scale.seconds(SCRAPE_SECONDS):g}",
        "DOWNLOAD_CONCURRENCY": "6",
        "DOWNLOAD_MIN_FREE_BYTES": str(32 * 2**20),
        "DOWNLOAD_STALL_SECONDS": "3",
        "DOWNLOAD_LEASE_SECONDS": "6",
        "DOWNLOAD_BACKOFF_SECONDS": "0.2",
        "EGRESS_PAUSE_SECONDS": "0.5",
    }


def _alertmanager_file(folder: Path) -> Path:
    """As an operator begins: nobody is told of anything. What follows is written by the service."""
    file = folder / "watched" / "alertmanager.yml"
    file.parent.mkdir()
    file.write_text(routing.render(Settings(), {}, routing.Surroundings()))
    return file
