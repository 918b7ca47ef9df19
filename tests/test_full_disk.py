"""The service on a small disk: what does not fit waits for its turn, and a full one costs nobody a try."""

import asyncio
import contextlib
import dataclasses
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests import fetching, instance
from tests.conftest import Person, Service, running
from tests.disks import MIB, fill, free, small_disk
from tests.fakes.youtube import YouTube
from tests.following import Download, ask, ended, look, until
from tests.queueing import count, sql
from ytdl import disk, health, janitor, metrics
from ytdl.api.keys import DB
from ytdl.config import Config
from ytdl.fetcher import find_ffmpeg

WATERMARK = 4 * MIB
SLOW = 4_000_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is called without delay. Nobody tidies up while a test looks at what was promised."""
    monkeypatch.setattr(disk, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(janitor, "FIRST_SECONDS", 3600.0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 60) as folder:
        yield folder


@pytest.fixture
def small(downloading_config: Config, folder: Path) -> Config:
    return dataclasses.replace(downloading_config, data_dir=folder, download_min_free_bytes=WATERMARK)


@pytest.fixture
async def service(small: Config) -> AsyncIterator[Service]:
    async with running(small) as service:
        yield service


@pytest.fixture
async def carl(service: Service) -> AsyncIterator[Person]:
    async with service.person("carl") as person:
        yield person


def waits(download: Download) -> bool:
    return bool(download["waiting"] and download["waiting"]["code"] == "disk_full")


async def logs(person: Person, id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await (await person.get(f"/downloads/{id}/logs")).json()
    return rows


async def costs(service: Service, id: str) -> tuple[int, ...]:
    """The tries and crashes that a download's job has used up."""
    text = "SELECT tries, crashes FROM jobs WHERE subject = %s"
    return (await sql(service.app[DB], text, id))[0]


@asynccontextmanager
async def least_free(folder: Path) -> AsyncIterator[list[int]]:
    """Watches how little was ever free."""
    seen = [free(folder)]

    async def watch() -> None:
        while True:
            seen[0] = min(seen[0], free(folder))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    yield seen
    watching.cancel()


async def test_two_that_fit_only_in_turn_come_one_after_the_other(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=2 * SLOW)
    written = count(metrics.disk_deferred, when="write")
    async with least_free(folder) as least:
        ids = [(await ask(carl, youtube.url(f"big020_{n:04}"), quality="720p"))["id"] for n in range(2)]
        await asyncio.gather(*(until(carl, id, lambda d: waits(d) or d["status"] == "completed", 40) for id in ids))
        youtube.behave()
        done = [await ended(carl, id, 60) for id in ids]
    assert [d["status"] for d in done] == ["completed", "completed"]
    assert least[0] >= WATERMARK and count(metrics.disk_deferred, when="write") == written
    told = [[row["status"] for row in await logs(carl, id)] for id in ids]
    assert sorted(told) == [["completed"], ["yielded", "completed"]]
    assert [await costs(service, id) for id in ids] == [(0, 0), (0, 0)]


async def half_way(carl: Person, folder: Path, youtube: YouTube) -> str:
    """A download in the middle of its transfer, which has more than 4 MiB. The disk says so sooner than the service."""
    youtube.misbehave("*", media_throttle=SLOW)
    before = free(folder)
    id: str = (await ask(carl, youtube.url("big020_0001"), quality="720p"))["id"]
    await fetching.until(lambda: before - free(folder) > 5 * MIB, 40)
    return id


def take_all(folder: Path, but: float = 0.0) -> Path:
    """Something else fills the disk, faster than anybody writes."""
    others = folder / "others"
    with others.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (left := free(folder) - int(but * MIB)) > 0:
            file.write(bytes(min(left, MIB)))
    return others


async def test_a_disk_that_others_fill_in_the_middle_costs_no_try(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    id = await half_way(carl, folder, youtube)
    others = take_all(folder, but=0.5)
    waiting = await until(carl, id, waits)
    assert (waiting["status"], waiting["error"], waiting["waiting"]["until"] is not None) == ("queued", None, True)
    assert await costs(service, id) == (0, 0)
    # What it had is gone, so that those that need less can go on.
    await fetching.until(lambda: free(folder) > 4 * MIB, 20)
    await asyncio.sleep(0.6)
    assert len(await logs(carl, id)) == 1
    youtube.behave()
    others.unlink()
    assert (await ended(carl, id, 30))["status"] == "completed"
    assert [(row["status"], row["error_code"]) for row in await logs(carl, id)] == [
        ("yielded", "disk_full"), ("completed", None)
    ]  # fmt: skip


@pytest.mark.slow
async def test_a_disk_that_fills_again_and_again_fails_nothing(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    id = await half_way(carl, folder, youtube)
    for n in range(6):
        others = take_all(folder, but=0.5)
        await until(carl, id, lambda d, n=n: waits(d) and d["attempts"] == n + 1, 40)  # type: ignore[misc]
        others.unlink()
        await until(carl, id, lambda d: d["progress"]["stage"] == "downloading" and not waits(d), 40)
    youtube.behave()
    assert (await ended(carl, id, 30))["status"] == "completed"


def fetched_bytes(folder: Path) -> int:
    """What attempts have of streams that are still being fetched."""
    return sum(part.stat().st_size for part in (folder / "work").glob("*/*/*.part"))


@pytest.fixture
def greedy_ffmpeg(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ffmpeg before which something fills the disk, the first time; the path of what fills it."""
    others, script = folder / "others", tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    fill_once = f"[ $1 = -version ] || [ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; cat /dev/zero >{others}; }}"
    script.write_text(f'#!/bin/sh\n{fill_once} 2>/dev/null\nexec {find_ffmpeg()} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    return others


async def test_a_disk_that_is_full_for_ffmpeg_costs_no_try(
    greedy_ffmpeg: Path, service: Service, carl: Person, youtube: YouTube
) -> None:
    id = (await ask(carl, youtube.url("ordinary"), format="mp3"))["id"]
    await until(carl, id, waits)
    greedy_ffmpeg.unlink()
    assert (await ended(carl, id))["status"] == "completed"
    assert await costs(service, id) == (0, 0)


async def test_a_disk_that_has_room_for_the_streams_but_not_for_their_union_costs_no_try(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=200_000)
    total = sum(youtube.media("ordinary", itag).size for itag in (137, 140))
    id = (await ask(carl, youtube.url("ordinary"), quality="1080p"))["id"]
    await fetching.until(lambda: fetched_bytes(folder) > 0, 40)
    others = take_all(folder, but=(total - fetched_bytes(folder)) / MIB + 0.05)
    await until(carl, id, waits)
    assert (await logs(carl, id))[0]["downloaded_bytes"] == total
    others.unlink()
    assert (await ended(carl, id))["status"] == "completed"
    assert await costs(service, id) == (0, 0)


async def test_a_disk_that_is_full_when_the_file_is_stored_costs_no_try(
    service: Service, carl: Person, folder: Path, youtube: YouTube, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, refusals = os.fsync, iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])

    def refuse_once(handle: int) -> None:
        for error in refusals:
            raise error
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_once)
    id = (await ask(carl, youtube.url("ordinary"), quality="144p"))["id"]
    assert (await ended(carl, id))["status"] == "completed"
    assert [row["status"] for row in await logs(carl, id)] == ["yielded", "completed"]
    assert await costs(service, id) == (0, 0)
    assert len(list((folder / "media").iterdir())) == 1


async def test_what_does_not_fit_waits_and_what_fits_goes_past(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    others = fill(folder / "others", 20)
    large = (await ask(carl, youtube.url("big020_0003"), quality="360p"))["id"]
    waiting = await until(carl, large, waits)
    assert waiting["title"] and waiting["progress"]["downloaded_bytes"] == 0
    assert (await ended(carl, (await ask(carl, youtube.url("ordinary"), quality="144p"))["id"]))[
        "status"
    ] == "completed"
    assert await costs(service, large) == (0, 0)
    others.unlink()
    assert (await ended(carl, large, 30))["status"] == "completed"


async def test_one_that_waits_asks_the_site_once(carl: Person, folder: Path, youtube: YouTube) -> None:
    fill(folder / "others", 20)
    id = (await ask(carl, youtube.url("big020_0003"), quality="360p"))["id"]
    await until(carl, id, waits)
    asked = len(youtube.requests)
    await asyncio.sleep(1.0)
    assert len(youtube.requests) == asked


@asynccontextmanager
async def unable_to_put_off(service: Service, times: int) -> AsyncIterator[None]:
    """PostgreSQL fails so often to write that a job waits for the disk, as one does that is going down."""
    db = service.app[DB]
    try:
        await sql(db, "CREATE SEQUENCE failures")
        await sql(
            db, "CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'going down' USING ERRCODE = '57P03'; END IF;"
            " RETURN NEW; END $$",
        )  # fmt: skip
        await sql(
            db, "CREATE TRIGGER fail_first BEFORE UPDATE ON jobs FOR EACH ROW"
            " WHEN (NEW.waiting = 'disk' AND OLD.waiting IS NULL) EXECUTE FUNCTION fail_first()",
        )  # fmt: skip
        yield
        assert await sql(db, "SELECT last_value > %s FROM failures", times) == [(True,)]
    finally:
        await sql(db, "DROP FUNCTION IF EXISTS fail_first CASCADE")
        await sql(db, "DROP SEQUENCE IF EXISTS failures")


async def test_one_that_is_put_off_is_counted_once_however_often_that_has_to_be_written(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    fill(folder / "others", 20)
    before = count(metrics.disk_deferred, when="admit")
    async with unable_to_put_off(service, times=2):
        id = (await ask(carl, youtube.url("big020_0003"), quality="360p"))["id"]
        await until(carl, id, waits)
        assert len(await logs(carl, id)) == 1
    assert count(metrics.disk_deferred, when="admit") == before + 1


async def test_one_that_waits_can_be_cancelled(carl: Person, folder: Path, youtube: YouTube) -> None:
    fill(folder / "others", 20)
    id = (await ask(carl, youtube.url("big020_0003"), quality="360p"))["id"]
    await until(carl, id, waits)
    assert (await carl.post(f"/downloads/{id}/cancel")).status == 202
    assert ((await look(carl, id))["status"], (await look(carl, id))["waiting"]) == ("cancelled", None)


async def test_one_that_never_fits_fails_at_once_and_says_so(carl: Person, youtube: YouTube) -> None:
    done = await ended(carl, (await ask(carl, youtube.url("big064_0001"), quality="360p"))["id"])
    assert (done["status"], done["error"]["code"], done["attempts"]) == ("failed", "file_too_large", 1)
    assert done["error"]["message"] == disk.NEVER


async def test_below_the_watermark_nothing_is_leased_and_the_reason_is_said(
    carl: Person, folder: Path, youtube: YouTube
) -> None:
    others = take_all(folder, but=3)
    await asyncio.sleep(0.5)
    id = (await ask(carl, youtube.url("ordinary"), quality="144p"))["id"]
    await asyncio.sleep(1.5)
    waiting = await until(carl, id, waits)
    assert (waiting["status"], waiting["attempts"], waiting["waiting"]["until"]) == ("queued", 0, None)
    others.unlink()
    assert (await ended(carl, id))["status"] == "completed"


@pytest.mark.parametrize("wanted", ["mp4", "mp3", "m4a", "opus", "flac", "wav"])
async def test_an_attempt_asks_for_no_less_than_it_writes(
    downloading: Service, ann: Person, youtube: YouTube, wanted: str
) -> None:
    done = await ended(ann, (await ask(ann, youtube.url("ordinary"), format=wanted, embed_metadata=True))["id"])
    (row,) = await logs(ann, done["id"])
    text = "SELECT r.wanted_bytes FROM reservations r JOIN jobs j ON j.id = r.job_id WHERE j.subject = %s"
    ((asked,),) = await sql(downloading.app[DB], text, done["id"])
    # Each file ends in a block that is not full.
    assert done["file"]["size_bytes"] < row["disk_bytes"] <= asked - disk.MARGIN_BYTES + 10 * 4096
    assert asked < 8 * row["disk_bytes"] + disk.MARGIN_BYTES


async def test_readiness_says_that_the_disk_is_full(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it saw as it began is not believed.
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)
    take_all(folder, but=3)
    checks = (await (await service.client.get("/readyz")).json())["checks"]
    assert [check["ok"] for check in checks if check["name"] == "disk"] == [False]


async def test_a_file_that_is_deleted_while_it_is_read_is_read_to_its_end(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    done = await ended(carl, (await ask(carl, youtube.url("big020_0002"), quality="360p"))["id"])
    async with carl.session.get(done["file"]["url"]) as response:
        first = await response.content.read(1)
        assert (await carl.delete(f"/downloads/{done['id']}")).status == 204
        assert list((folder / "media").iterdir()) == []
        assert len(first + await response.read()) == done["file"]["size_bytes"]


async def test_what_is_no_fault_of_the_disk_is_not_blamed_on_it(
    service: Service, carl: Person, folder: Path, youtube: YouTube
) -> None:
    take_all(folder, but=5)
    youtube.misbehave("*", player_garbage=True)
    id = (await ask(carl, youtube.url("ordinary"), quality="144p"))["id"]
    failed = await until(carl, id, lambda d: d["error"] is not None)
    assert failed["error"]["code"] != "disk_full" and not waits(failed)


@pytest.mark.slow
async def test_a_disk_that_is_full_for_the_embedded_servers_loses_nothing(tmp_path: Path) -> None:
    """PostgreSQL goes down when it cannot write its log, and comes back by itself when it can."""
    with small_disk(tmp_path / "data", 200) as data:
        settings = {"DOWNLOAD_CONCURRENCY": "0", "DOWNLOAD_MIN_FREE_BYTES": str(WATERMARK)}
        async with instance.serving(tmp_path, **settings) as server, instance.signed_in(server) as client:
            admin = Person(UUID(int=0), "", "", client)
            client._raise_for_status = False
            accepted = [await accept(admin, 0)]
            others = take_all(data)
            await write_more_than_there_is(data)
            for n in range(1, 4):
                response = await admin.post("/downloads", {"url": url_of(n)})
                assert response.status in (202, 503)
                if response.status == 202:
                    accepted.append((await response.json())["id"])
            assert response.status == 503 and int(response.headers["Retry-After"]) > 0
            others.unlink()
            await until_ready(admin)
            accepted.append(await until_accepted(admin, 1000))
            assert [(await look(admin, id))["status"] for id in accepted] == ["queued"] * len(accepted)


def url_of(n: int) -> str:
    return f"https://www.youtube.com/watch?v=many_{n:06}"


async def accept(person: Person, n: int) -> str:
    return str((await ask(person, url_of(n)))["id"])


async def until_accepted(person: Person, n: int) -> str:
    """What answered a moment ago may have died since, with the server's other connections; whoever is told so asks
    again."""
    for _ in range(5):
        response = await person.post("/downloads", {"url": url_of(n)})
        if response.status != 503:
            break
        await asyncio.sleep(int(response.headers["Retry-After"]))
    assert response.status == 202, await response.text()
    return str((await response.json())["id"])


async def write_more_than_there_is(data: Path) -> None:
    """So much into PostgreSQL's log that it needs a new file."""
    text = "SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000000)) FROM generate_series(1, 40)"
    with pytest.raises(psycopg.Error):
        async with await psycopg.AsyncConnection.connect(
            host=str(data / "run" / "pg"), user="postgres", dbname="ytdl", autocommit=True
        ) as connection:
            await connection.execute(text)


async def until_ready(person: Person) -> None:
    for _ in range(300):
        if (await person.get("//readyz")).status == 200:
            return
        await asyncio.sleep(0.1)
    pytest.fail("The service did not come back within 30 s.")
