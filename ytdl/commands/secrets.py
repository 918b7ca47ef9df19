"""`ytdl secrets rotate`: kept secrets encrypted anew with the newest key, or only counted by key."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from ytdl import config
from ytdl.commands import Failed, database
from ytdl.config import Config

if TYPE_CHECKING:
    from ytdl.db import DB
    from ytdl.sealed import Walk
    from ytdl.vault import Vault


def rotate(arguments: argparse.Namespace) -> int:
    return asyncio.run(_rotate_or_check(config.load(), only_check=arguments.check))


async def _rotate_or_check(settings: Config, *, only_check: bool) -> int:
    from ytdl import db, sealed, vault

    async with database.found(settings) as url:
        await database.migrated(url)
        pool, keys = db.DB(url, size=2), vault.of(settings)
        await pool.open()
        try:
            walk = await sealed.check(pool, keys) if only_check else await _rotate(pool, keys)
            by_key = await sealed.by_key(pool)
        finally:
            await pool.close()
    for key_id, count in by_key.items():
        held = "newest" if key_id == keys.newest else "former" if key_id in keys.key_ids else "missing"
        print(f"{count} under the {held} key {key_id}.")
    if walk.unopened:
        raise Failed(*(f"{count} cannot be opened, key {id or 'unknown'}." for id, count in walk.unopened.items()))
    return 0


async def _rotate(pool: "DB", keys: "Vault") -> "Walk":
    from ytdl import sealed

    total, walk = sum((await sealed.by_key(pool)).values()), sealed.Walk()
    async for walk in sealed.rotate(pool, keys):
        if sys.stderr.isatty():
            print(f"\r{walk.seen} of {total}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"Encrypted {walk.resealed} anew.")
    return walk
