"""`ytdl audit verify`: whether the audit trail is what was written, as far as heads kept elsewhere show."""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ytdl import config
from ytdl.commands import Failed, database
from ytdl.config import Config

if TYPE_CHECKING:
    from ytdl.chain import Head


def verify(arguments: argparse.Namespace) -> int:
    heads = _heads(arguments.head, arguments.log)
    print(asyncio.run(_verify(config.load(), heads, at_rest=arguments.at_rest)))
    return 0


def head(text: str) -> "Head":
    """An argument `SEQ:HASH`."""
    from ytdl import chain

    try:
        return chain.read_head(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number, a colon and 64 hexadecimal digits") from None


def _heads(given: list["Head"], file: Path | None) -> dict[int, bytes]:
    """What links are known to have been, hash by place."""
    from ytdl import chain

    told: list[Head] = []
    try:
        if file:
            with file.open(errors="replace") as lines:
                told = chain.told_heads(lines)
    except OSError as e:
        raise Failed(f"The log {file} cannot be read: {e.strerror}.") from None
    heads = [*given, *told]
    if len(dict(heads)) < len(set(heads)):
        raise Failed("Two of the heads are of one place and differ: one of them is not of this chain.")
    return dict(heads)


async def _verify(settings: Config, heads: dict[int, bytes], *, at_rest: bool) -> str:
    """A sentence for a trail that is whole."""
    from ytdl import chain, db

    async with database.found(settings) as url:
        pool = db.DB(url, size=1)
        await pool.open()
        try:
            last = await chain.verify(pool, heads, at_rest=at_rest)
        except (chain.Broken, chain.Absent) as e:
            raise Failed(str(e)) from None
        finally:
            await pool.close()
    return f"{last.seq} events in {database.place(settings)}, chain whole, head {last}"
