"""Sweeping: what nobody needs goes, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ytdl import janitor
from ytdl.db import DB
from ytdl.janitor import Janitor
from ytdl.storage import Storage

JOB: dict[str, dict[str, Any]] = {
    "queued": {},
    "retry_wait": {},
    "running": {"lease_owner": uuid4(), "lease_until": "infinity"},
    "completed": {"finished_at": "now"},
    "failed": {"finished_at": "now"},
    "cancelled": {"finished_at": "now"},
}


class House:
    def __init__(
        self, connection: "psycopg.AsyncConnection[Any]", storage: Storage, janitor: Janitor, user: UUID
    ) -> None:
        self.connection = connection
        self.storage = storage
        self.janitor = janitor
        self.user = user

    async def insert(self, table: str, **values: Any) -> Any:
        names = ", ".join(values)
        marks = ", ".join(["%s"] * len(values))
        text = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id".encode()
        return (await (await self.connection.execute(text, list(values.values()))).fetchone())[0]  # type: ignore[index]

    async def job(self, state: str, subject: UUID) -> int:
        return int(
            await self.insert(
                "jobs", kind="download", subject=subject, user_id=self.user, state=state, fence=1, **JOB[state]
            )
        )

    async def download(self, status: str, state: str, *, file: bool = False, ended: str = "now") -> tuple[UUID, str]:
        """A download with a work folder and, if asked for, a file; its id and the file's name."""
        id = uuid4()
        job = await self.job(state, id)
        name = f"{job}.1.mp4"
        await self.insert(
            "downloads", id=id, user_id=self.user, job_id=job, url="u", canonical_url="u", extractor="youtube",
            video_id="v", quality="best", format="mp4", status=status, error="{}", finished_at=ended,
            file_name=name if file else None,
        )  # fmt: skip
        self.storage.attempt_dir(id, job, 1).mkdir(parents=True)
        if file:
            self.storage.path(name).write_bytes(b"x")
        return id, name

    def works(self) -> set[str]:
        return {folder.name for folder in self.storage.work.iterdir()}


@pytest.fixture
async def house(db: DB, tmp_path: Path) -> AsyncIterator[House]:
    storage = Storage(tmp_path)
    storage.open()
    async with await psycopg.AsyncConnection.connect(db.url, autocommit=True) as connection:
        house = House(connection, storage, Janitor(db, storage), uuid4())
        await house.insert("users", id=house.user, username="a", email="a", full_name="A", password_hash="x")
        yield house


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once."""
    monkeypatch.setattr(janitor, "ORPHAN_SECONDS", -1.0)


async def test_work_that_may_go_on_is_kept_and_the_rest_goes(house: House) -> None:
    kept = {
        str((await house.download("queued", "queued"))[0]),
        str((await house.download("queued", "retry_wait"))[0]),
        str((await house.download("downloading", "running"))[0]),
        str((await house.download("failed", "failed"))[0]),
    }
    await house.download("completed", "completed", file=True)
    await house.download("cancelled", "cancelled")
    await house.download("failed", "failed", ended="yesterday")
    (house.storage.work / str(uuid4())).mkdir()
    removed = await house.janitor.sweep()
    assert house.works() == kept
    assert removed["work"] == 4


async def test_what_is_named_like_no_attempt_is_swept_with_its_folder(house: House) -> None:
    id, _ = await house.download("completed", "completed", file=True)
    (house.storage.work / str(id) / "notes.txt").write_bytes(b"x")
    assert (await house.janitor.sweep())["work"] == 1
    assert house.works() == set()


async def test_work_of_one_that_waits_for_the_disk_is_kept(house: House) -> None:
    id, _ = await house.download("queued", "queued")
    await house.connection.execute("UPDATE jobs SET waiting = 'disk', run_at = now() + interval '2 hours'")
    await house.janitor.sweep()
    assert house.works() == {str(id)}


async def test_promises_of_ended_jobs_are_forgotten(house: House) -> None:
    jobs = [await house.job(state, uuid4()) for state in ("running", "completed", "queued")]
    for job in jobs:
        await house.connection.execute(
            "INSERT INTO reservations (job_id, fence, wanted_bytes) VALUES (%s, 1, 5)", (job,)
        )
    assert (await house.janitor.sweep())["reservations"] == 1


async def test_work_of_a_deleted_download_is_kept_while_it_runs(house: House) -> None:
    id, _ = await house.download("downloading", "running")
    await house.connection.execute("DELETE FROM downloads")
    await house.janitor.sweep()
    assert house.works() == {str(id)}
    await house.connection.execute(
        "UPDATE jobs SET state = 'cancelled', finished_at = now(), lease_owner = NULL, lease_until = NULL"
    )
    await house.janitor.sweep()
    assert house.works() == set()


async def test_a_file_that_a_download_names_is_kept(house: House, no_grace: None) -> None:
    _, name = await house.download("completed", "completed", file=True)
    assert (await house.janitor.sweep())["media"] == 0
    assert house.storage.path(name).exists()


async def test_a_file_that_nobody_names_goes_after_an_hour(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.storage.path("999.1.mp4").write_bytes(b"x")
    assert (await house.janitor.sweep())["media"] == 0
    monkeypatch.setattr(janitor, "ORPHAN_SECONDS", -1.0)
    assert (await house.janitor.sweep())["media"] == 1
    assert list(house.storage.media.iterdir()) == []


async def test_a_file_whose_attempt_still_runs_is_kept_however_old(house: House, no_grace: None) -> None:
    """PostgreSQL may have been away for hours between the file's arrival and its record."""
    job = await house.job("running", uuid4())
    for fence in (0, 1):
        house.storage.path(f"{job}.{fence}.mp4").write_bytes(b"x")
    await house.janitor.sweep()
    assert [path.name for path in house.storage.media.iterdir()] == [f"{job}.1.mp4"]


async def test_what_is_not_ours_is_left_alone(house: House, no_grace: None) -> None:
    (house.storage.media / "notes.txt").write_bytes(b"x")
    (house.storage.work / "lost+found").mkdir()
    await house.janitor.sweep()
    assert (house.storage.media / "notes.txt").exists()
    assert house.works() == {"lost+found"}


async def test_idempotency_keys_are_forgotten_after_a_day(house: House) -> None:
    for key, at in {"old": "yesterday", "new": "now"}.items():
        await house.connection.execute(
            "INSERT INTO idempotency_keys VALUES (%s, %s, '', '', %s::timestamptz - interval '1 minute')",
            (house.user, key, at),
        )
    await house.connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'"
    )
    await house.janitor.sweep()
    found = await (await house.connection.execute("SELECT key FROM idempotency_keys")).fetchall()
    assert found == [("new",)]


async def test_it_sweeps_by_itself_and_stops(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "FIRST_SECONDS", 0.01)
    (house.storage.work / str(uuid4())).mkdir()
    await house.janitor.start()
    async with asyncio.timeout(20):
        while house.works():  # noqa: ASYNC110 - what it waits for is on the disk
            await asyncio.sleep(0.01)
    await house.janitor.stop()
