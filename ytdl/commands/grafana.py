"""`ytdl grafana-role`: the role as which Grafana reads PostgreSQL, with a password that is typed or in a file."""

import argparse
import asyncio
import re

from ytdl import config
from ytdl.commands import Failed, admins, database
from ytdl.config import Config

SHORTEST = 12


def make_role(arguments: argparse.Namespace) -> int:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", arguments.name):
        raise Failed("The name of a role is made of small letters, digits and '_', and does not begin with a digit.")
    settings, password = config.load(), admins.given(arguments.password_file)
    if len(password) < SHORTEST:
        raise Failed(f"The password must have at least {SHORTEST} characters.")
    new = asyncio.run(_make(settings, arguments.name, password))
    done = "was made" if new else "has this password now"
    print(f"The role {arguments.name} {done}, in {database.place(settings)}.")
    return 0


async def _make(settings: Config, name: str, password: str) -> bool:
    from ytdl import readers

    async with database.found(settings) as url:
        await database.migrated(url)
        return await readers.make(url, name, password)
