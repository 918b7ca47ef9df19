"""Gauges are refreshed as often as asked, each source by itself, and say what is there."""

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import Counter

from tests.conftest import Person, Service, running
from tests.fakes.youtube import YouTube
from tests.following import fetched
from tests.redises import OwnRedis
from tests.test_system import Card
from ytdl import errors, metrics
from ytdl.api.keys import DB as DB_KEY
from ytdl.api.keys import WORKER
from ytdl.collectors import (
    Follower,
    MachineCollector,
    PostgresCollector,
    RedisCollector,
    persists,
    released,
    tell_version,
)
from ytdl.config import Config
from ytdl.db import DB
from ytdl.kv import KV
from ytdl.sampler import Sampler
from ytdl.sql import Query
from ytdl.system import Machine


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"ytdl_{name}", labels) or 0.0


def succeeded(name: str) -> float:
    return value("worker_loop_last_success_timestamp_seconds", loop=name)


def failures(name: str) -> float:
    return value("worker_loop_errors_total", loop=name)


async def seen(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the gauges have no event
            await asyncio.sleep(0.02)


async def nothing() -> None:
    pass


async def failing() -> None:
    raise errors.Unavailable("It is away.")


async def hanging() -> None:
    await asyncio.Event().wait()


# rounds


async def test_a_collector_that_fails_is_counted_and_keeps_none_of_the_others() -> None:
    before, begun = failures("redis"), time.time()
    await Sampler({"redis": failing, "host": nothing}, seconds=9).sample()
    assert failures("redis") == before + 1
    assert succeeded("redis") < begun <= succeeded("host")


async def test_a_round_in_which_everything_still_hangs_is_none_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ytdl.sampler.ROUND_SECONDS", 0.2)
    sampler, before = Sampler({"redis": hanging}, seconds=9), failures("redis")
    await sampler.sample()
    monkeypatch.setattr("ytdl.sampler.ROUND_SECONDS", 30.0)
    await sampler.sample()
    await sampler.stop()
    assert (failures("redis"), value("worker_collection_seconds") < 20) == (before + 1, True)


async def test_a_collector_that_hangs_holds_up_one_round_and_is_not_begun_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ytdl.sampler.ROUND_SECONDS", 0.5)
    sampler, before, begun = Sampler({"redis": hanging, "host": nothing}, seconds=9), failures("redis"), time.time()
    await sampler.sample()
    assert value("worker_collection_seconds") >= 0.5
    monkeypatch.setattr("ytdl.sampler.ROUND_SECONDS", 30.0)
    await sampler.sample()
    assert value("worker_collection_seconds") < 20
    await sampler.stop()
    assert (failures("redis"), succeeded("host") >= begun) == (before + 1, True)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "collect redis"]


async def test_gauges_are_refreshed_as_often_as_asked(config: Config) -> None:
    """Asked for nothing they would be some fifteen seconds later."""
    async with running(dataclasses.replace(config, metrics_collection_interval=0.2)) as service:
        async with service.person("ann"):
            people = {"role": "user", "active": "yes"}
            await seen(lambda: (value("users_accounts", **people), value("auth_sessions_open")) == (1, 1), 10.0)
        first = succeeded("sample")
        await seen(lambda: succeeded("sample") > first, 10.0)


async def test_gauges_are_not_refreshed_in_a_scrape(config: Config) -> None:
    begun = time.time()
    async with running(dataclasses.replace(config, metrics_collection_interval=120)) as service:
        await seen(lambda: succeeded("contents") >= begun)
        async with service.person("ann"), service.client.get("/metrics") as answer:
            assert 'ytdl_users_accounts{active="yes",role="user"} 0.0' in await answer.text()


async def test_without_a_database_everything_else_is_still_told(config: Config) -> None:
    begun = time.time()
    async with running(dataclasses.replace(config, metrics_collection_interval=0.2)) as service:
        await seen(lambda: succeeded("contents") >= begun)
        await service.app[DB_KEY].close()
        before = {name: failures(name) for name in ("contents", "postgres")}
        await seen(lambda: all(failures(name) > count for name, count in before.items()))
        stood, ran = succeeded("contents"), succeeded("host")
        await seen(lambda: min(map(succeeded, ("host", "instance", "redis", "needs"))) > ran)
        assert succeeded("contents") == stood
        async with service.client.get("/metrics") as answer:
            assert answer.status == 200


# figures


@pytest.fixture
async def sampled(downloading_config: Config) -> AsyncIterator[Service]:
    async with running(dataclasses.replace(downloading_config, metrics_collection_interval=0.2)) as service:
        yield service


@pytest.fixture
async def sam(sampled: Service) -> AsyncIterator[Person]:
    async with sampled.person("sam") as person:
        yield person


def stages_counted() -> list[float]:
    return [value("fetcher_stage_seconds_count", stage=stage) for stage in metrics.STAGES]


async def test_a_download_shows_in_all_that_it_is_made_of(sam: Person, youtube: YouTube) -> None:
    waited = value("queue_wait_seconds_count")
    before = stages_counted()
    used = value("instance_cpu_seconds_total", part="jobs")
    download = await fetched(sam, youtube.url("ordinary"))
    assert value("queue_wait_seconds_count") == waited + 1
    assert [after - n for after, n in zip(stages_counted(), before, strict=True)] == [1, 1, 1, 1]
    kept = 1, download["file"]["size_bytes"]
    await seen(lambda: (value("storage_kept_files"), value("storage_kept_bytes")) == kept)
    await seen(lambda: value("instance_cpu_seconds_total", part="jobs") > used)


async def test_the_instance_and_the_machine_are_told(sampled: Service) -> None:
    begun = time.time()
    await seen(lambda: min(succeeded("host"), succeeded("instance")) > begun)
    assert value("instance_processes", part="fork_server") == 1
    assert value("instance_memory_bytes", part="service") > value("instance_memory_bytes", part="fork_server") > 1e6
    assert value("instance_memory_limit_bytes") <= 512 * 2**20
    assert value("system_memory_total_bytes") > value("system_memory_available_bytes") > 0
    assert 0 <= value("system_cpu_usage_ratio") <= 1
    assert value("disk_total_bytes") > value("disk_free_bytes") > 0
    assert value("system_load_average") == pytest.approx(psutil.getloadavg()[0], abs=5)


async def test_yt_dlp_says_when_it_was_released_and_javascript_is_ready(sampled: Service) -> None:
    await seen(lambda: value("fetcher_javascript_ready") == 1)
    assert time.time() - value("fetcher_ytdlp_released_timestamp_seconds") < 5 * 366 * 86_400


def versions() -> list[str]:
    """Of yt-dlp, one a series."""
    return [sample.labels["ytdlp"] for family in metrics.build_info.collect() for sample in family.samples]


async def test_another_yt_dlp_takes_the_place_of_the_former_and_the_same_one_is_no_other(sampled: Service) -> None:
    fetcher = sampled.app[WORKER]._fetcher
    assert fetcher._server and fetcher.zygote_pid
    own = fetcher._server.tools["yt_dlp"]
    await seen(lambda: versions() == [own])
    assert time.time() > released(own) > 0
    fetcher._server.tools["yt_dlp"] = "2099.01.02"
    await seen(lambda: versions() == ["2099.01.02"])
    os.kill(fetcher.zygote_pid, signal.SIGKILL)
    told = ["2099.01.02"]
    async with asyncio.timeout(60):
        while told[-1] != own:
            await asyncio.sleep(0.02)
            told += versions()
    assert set(told) == {"2099.01.02", own}


async def test_a_fork_server_that_is_warm_late_is_named_then() -> None:
    metrics.build_info.clear()
    for tools, version in (({}, "none"), ({"yt_dlp": "2098.01.02"}, "2098.01.02"), ({}, "2098.01.02")):
        tell_version(tools)
        assert versions() == [version]


@pytest.mark.parametrize(
    ("version", "seconds"),
    [("2026.10.26", 1_792_972_800), ("2026.10.26.231500.dev0", 1_792_972_800), ("None", 0), ("", 0), ("2026.13.1", 0)],
)
def test_a_version_of_yt_dlp_is_a_day(version: str, seconds: float) -> None:
    assert released(version) == seconds


async def test_postgres_tells_of_itself(db: DB) -> None:
    collector = PostgresCollector(db)
    await collector.collect()
    before = value("db_server_transactions_total", outcome="committed")
    assert value("db_server_max_connections") >= value("db_server_connections") >= 1
    assert value("db_server_size_bytes") > 1e6

    # PostgreSQL writes down what a session did when that pauses.
    async with asyncio.timeout(30):
        while value("db_server_transactions_total", outcome="committed") == before:
            await asyncio.sleep(0.1)
            await collector.collect()


async def test_a_transaction_that_is_left_open_shows(db: DB) -> None:
    asked = Query("test.now", "value", "Begins.", b"SELECT now()")
    async with db.transaction() as tx:
        await tx.value(asked)
        await asyncio.sleep(0.3)
        await PostgresCollector(db).collect()
        assert 0.3 <= value("db_server_longest_transaction_seconds") < 60


async def test_redis_tells_of_itself(own_redis: OwnRedis) -> None:
    kv = KV(own_redis.url, "t")
    collector = RedisCollector(kv)
    await collector.collect()
    ran = value("kv_server_commands_total")
    await kv.client.set("a", "b")
    await collector.collect()
    assert value("kv_server_commands_total") > ran
    assert (value("kv_server_keys"), value("kv_server_persistence_ok")) == (1, 1)
    assert value("kv_server_memory_bytes") > 1e5 and value("kv_server_clients") >= 1
    assert kv.stats() == {"in_use": 0, "idle": 1}
    await kv.close()


@pytest.mark.parametrize(
    ("info", "well"),
    [
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "ok", "aof_last_write_status": "err"}, True),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "ok", "aof_last_write_status": "err"}, False),
        ({"aof_enabled": 1, "rdb_last_bgsave_status": "ok", "aof_last_bgrewrite_status": "err"}, False),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, False),
    ],
)
def test_redis_persists_unless_a_way_that_is_in_use_failed(info: dict[str, Any], well: bool) -> None:
    assert persists(info) is well


@pytest.mark.parametrize(
    ("seen_before", "totals", "counted"),
    [(None, [100, 103], 3), (None, [100, 103, 2], 5), (0.0, [4, 9], 9), (None, [100], 0)],
)
def test_a_counter_follows_another_from_when_it_was_first_seen(
    seen_before: float | None, totals: list[float], counted: float
) -> None:
    counter = Counter("followed", "For this test.", registry=None)
    follower = Follower(counter, seen_before)
    for total in totals:
        follower.see(total)
    assert counter._value.get() == counted


def test_a_card_that_goes_takes_nothing_along_and_one_that_comes_counts_from_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = (
        {"eth0": Card(1_000, 10), "eth1": Card(900_000, 90)},
        {"eth0": Card(1_001, 12)},
        {"eth0": Card(1_003, 12), "eth2": Card(5_000_000, 7)},
        {"eth0": Card(1_003, 12), "eth2": Card(5_000_010, 8), "eth1": Card(900_500, 95)},
        # eth0 began anew.
        {"eth0": Card(5, 0), "eth2": Card(5_000_010, 8), "eth1": Card(900_500, 95)},
    )
    cards = iter(looks)
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: next(cards))
    asked_for_nothing: Any = None
    collector = MachineCollector(Config(data_dir=tmp_path), asked_for_nothing)
    collector._machine = Machine(tmp_path)
    before = [value("system_network_bytes_total", direction=way) for way in ("received", "sent")]
    for _ in looks:
        collector._look()
    after = [value("system_network_bytes_total", direction=way) for way in ("received", "sent")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1 + 2 + 10 + 5, 2 + 1]
