"""Where files live: names that are ours, whole files or none, and what is left alone."""

import asyncio
import os
import stat
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from ytdl.storage import Storage, file_name


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "data")
    storage.open()
    return storage


def written(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


BAD_NAMES = [
    "", "..", "1.1", "1.1.", "1.1.m", "1.1.MP4", "1.1.mp4\n", "1.1.mp4/", "../1.1.mp4", "/1.1.mp4", "1.1.mp4.part",
    "a.1.mp4", "1.1.tar.gz", "\u0661.1.mp4", "-1.1.mp4", f"{10**18}.1.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_ours_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="no stored file's name"):
        storage.path(name)


@pytest.mark.parametrize("ext", ["", "mp4/..", "MP4", "toolong", "mp4\n", "m p"])
def test_an_extension_that_is_not_plain_is_refused(ext: str) -> None:
    with pytest.raises(ValueError, match="no extension"):
        file_name(1, 1, ext)


def test_what_is_made_is_for_the_service_only(storage: Storage) -> None:
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (storage.work, storage.media)} == {0o700}


async def test_a_published_file_is_moved_and_private(storage: Storage) -> None:
    source = written(storage.attempt_dir(uuid4(), 7, 2) / "out.mp4", b"film")
    await storage.publish(source, file_name(7, 2, "mp4"))
    target = storage.path("7.2.mp4")
    assert not source.exists()
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"film", 0o600)


async def test_publishing_is_one_step_after_the_content_is_on_the_disk(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(storage.work / "out", b"film")
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_sync(handle: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def noted_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    await storage.publish(source, "1.1.mp4")
    assert steps == ["sync out", "rename", "sync media"]


async def test_publishing_what_is_not_there_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        await storage.publish(storage.work / "none", "1.1.mp4")
    assert list(storage.media.iterdir()) == []


async def test_removing_twice_is_well(storage: Storage) -> None:
    written(storage.path("1.1.mp4"))
    await storage.remove("1.1.mp4")
    await storage.remove("1.1.mp4")
    assert not storage.path("1.1.mp4").exists()


async def test_earlier_attempts_are_listed_newest_first(storage: Storage) -> None:
    id = uuid4()
    for name in ("9.1", "10.1", "10.2", "10.3", "11.1", "notes", "10.x"):
        (storage.work / str(id) / name).mkdir(parents=True)
    assert [folder.name for folder in await storage.earlier_dirs(id, 10, 3)] == ["10.2", "10.1", "9.1"]
    assert await storage.earlier_dirs(uuid4(), 1, 1) == []


async def test_clearing_a_downloads_work_leaves_anothers(storage: Storage) -> None:
    mine, other = uuid4(), uuid4()
    written(storage.attempt_dir(mine, 1, 1) / "part")
    kept = written(storage.attempt_dir(other, 2, 1) / "part")
    await storage.clear_work(mine, (9, 9))
    await storage.clear_work(mine, (9, 9))
    assert kept.exists()
    assert list(await storage.at_work()) == [other]


async def test_what_is_named_like_no_attempt_goes_with_the_attempts(storage: Storage) -> None:
    id = uuid4()
    for name in ("1.1/part", "notes/x", "3.1/part", "1.x"):
        written(storage.work / str(id) / name)
    (storage.work / str(id) / "link").symlink_to(storage.media)
    await storage.clear_work(id, (2, 1))
    assert [path.name for path in (storage.work / str(id)).iterdir()] == ["3.1"]
    assert storage.media.is_dir()


async def test_a_survey_tells_what_each_folder_takes_and_what_is_free(storage: Storage) -> None:
    one, two, three = uuid4(), uuid4(), uuid4()
    part = written(storage.attempt_dir(one, 1, 1) / "part", bytes(100_000))
    part.with_name("out.mp4").hardlink_to(part)
    written(storage.attempt_dir(two, 2, 1) / "part", bytes(10))
    written(storage.attempt_dir(two, 2, 2) / "part", bytes(300_000))
    sizes, space = await storage.survey([(one, 1, 1), (two, 2, 1), (three, 3, 1)])
    assert [round(size / 100_000) for size in sizes] == [1, 0, 0] and 0 < sizes[1] < 10_000
    assert [round(size / 100_000) for size in await storage.work_sizes([two, three])] == [3, 0]
    assert 0 < space.free <= space.total


async def test_folders_that_are_not_named_like_downloads_are_not_listed(storage: Storage) -> None:
    id = UUID("01900000-0000-7000-8000-00000000000a")
    for name in ("lost+found", id.hex, str(id).upper(), f"{{{id}}}"):
        (storage.work / name).mkdir()
    assert await storage.at_work() == {}


async def test_a_files_age_is_the_time_in_the_store_and_not_of_its_content(storage: Storage) -> None:
    source = written(storage.work / "out")
    os.utime(source, (0, 0))
    await storage.publish(source, "1.1.mp4")
    written(storage.media / "notes.txt")
    assert await storage.media_names(older_than_seconds=60) == []
    await asyncio.sleep(0.05)
    assert await storage.media_names(older_than_seconds=0) == ["1.1.mp4"]


async def test_free_space_is_a_number_of_bytes(storage: Storage) -> None:
    assert await storage.free_bytes() > 0
