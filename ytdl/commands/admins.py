"""`ytdl create-admin`: another account with the role admin, with a password that can be typed at a sign-in."""

import argparse
import asyncio
import getpass
import sys
from pathlib import Path

from ytdl import config, errors, passwords
from ytdl.commands import Failed, database
from ytdl.config import Config


def create_admin(arguments: argparse.Namespace) -> int:
    settings = config.load()
    password = _password(arguments.password_file)
    asyncio.run(_create_admin(settings, arguments, password))
    print(f"{arguments.username} is an admin now, in {database.place(settings)}.")
    return 0


def _password(file: Path | None) -> str:
    password = given(file)
    if fault := passwords.unusable(password):
        raise errors.invalid("password", fault)
    return password


def given(file: Path | None) -> str:
    """A password from that file, from standard input, or as it is typed. Raises `Failed` where there is none."""
    try:
        return _first_line(file) if file or not sys.stdin.isatty() else _asked_for()
    except UnicodeDecodeError:
        raise Failed("The password is not text in UTF-8.") from None
    except EOFError:
        raise Failed("No password was given.") from None


def _first_line(file: Path | None) -> str:
    """Of the file, else of standard input: in UTF-8, whatever the terminal's language is."""
    try:
        raw = file.read_bytes() if file else sys.stdin.buffer.readline()
    except OSError as e:
        raise Failed(f"The password file {file} cannot be read: {e.strerror}.") from None
    return raw.partition(b"\n")[0].removesuffix(b"\r").decode()


def _asked_for() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise Failed("The two passwords differ.")
    return password


async def _create_admin(settings: Config, arguments: argparse.Namespace, password: str) -> None:
    from ytdl import db, users
    from ytdl.crypto import Hasher

    async with database.found(settings, or_new=True) as url:
        await database.migrated(url)
        pool, hasher = db.DB(url, size=1), Hasher()
        await pool.open()
        try:
            await users.create(
                pool,
                hasher,
                username=arguments.username,
                email=arguments.email,
                password=password,
                full_name=arguments.full_name or arguments.username,
                role="admin",
            )
        finally:
            hasher.close()
            await pool.close()
