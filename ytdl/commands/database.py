"""Which database a command works on: named to the operator, and never made by a command that only looks at one.

`found(settings)` opens one that a service has used, `found(settings, or_new=True)` makes it where there is none.
`migrate` is the command.
"""

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from ytdl import config, errors, sql
from ytdl.commands import Failed
from ytdl.config import Config

q = sql.load("schema")


def migrate(arguments: argparse.Namespace) -> int:
    settings = config.load()
    for name in asyncio.run(_migrate(settings)):
        print(f"Applied {name}.")
    where = place(settings)
    print(f"{where[0].upper()}{where[1:]} has this version's schema.")
    return 0


async def _migrate(settings: Config) -> list[str]:
    async with found(settings, or_new=True) as url:
        return await migrated(url)


async def migrated(url: str) -> list[str]:
    """The names of what was applied. Raises `Failed` for a database of another version."""
    from ytdl import db

    try:
        return await db.migrate(url)
    except db.SchemaMismatch as e:
        raise Failed(str(e)) from None


def place(settings: Config) -> str:
    """Words that tell one database from another, and no password of it."""
    if not settings.database_url:
        return f"the database in the data folder {_shown(settings.data_dir)}"
    parts = conninfo_to_dict(settings.database_url)
    name = parts.get("dbname") or parts.get("user") or ""
    host = ":".join(str(parts[part]) for part in ("host", "port") if parts.get(part))
    return " ".join(filter(None, ("the database", str(name), host and f"on {host}")))


def _shown(folder: Path) -> str:
    """The whole path, also where its name is no text."""
    return os.fsencode(folder.resolve()).decode(errors="replace")


@asynccontextmanager
async def found(settings: Config, *, or_new: bool = False) -> AsyncIterator[str]:
    """The address of the database in force: the one that is set, a running service's own, or one started for the
    moment. Raises `Failed` where there is none of the service, unless it may be new."""
    if not settings.database_url and not _is_made(settings.data_dir):
        folder = f"the data folder {_shown(settings.data_dir)}"
        if not or_new:
            raise Failed(f"There is no database in {folder}; set DATA_DIR to that of the service.")
        print(f"Making a new database in {folder}.", flush=True)
    async with _running(settings) as url:
        if not or_new:
            await _refuse_foreign(url, settings)
        yield url


def _is_made(data_dir: Path) -> bool:
    try:
        return (data_dir / "postgres").exists()
    except PermissionError:
        # Whoever wants to write there will be told.
        return True


@asynccontextmanager
async def _running(settings: Config) -> AsyncIterator[str]:
    from ytdl import embedded
    from ytdl.embedded.running import running_database_url

    if settings.database_url:
        yield settings.database_url
        return
    try:
        claim = await embedded.claim(settings.data_dir, patience_s=0.5)
    except errors.Locked:
        yield running_database_url(settings.data_dir)
        return
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(claim.release)
        postgres = await embedded.start_postgres(claim)
        stack.push_async_callback(postgres.stop)
        yield postgres.url


async def _refuse_foreign(url: str, settings: Config) -> None:
    from ytdl import db

    database = db.DB(url, size=1)
    await database.open()
    try:
        if not await database.value(q.is_there):
            setting = "DATABASE_URL" if settings.database_url else "DATA_DIR"
            raise Failed(f"There are no tables of the service in {place(settings)}; look at {setting}.")
    finally:
        await database.close()
