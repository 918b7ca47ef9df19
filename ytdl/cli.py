"""The `ytdl` command: serve, and what an operator does beside it.

What a command needs is imported inside it, so that a health check every few seconds does not load the whole
service. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings; each failure is one sentence on stderr.
"""

import argparse
import asyncio
import contextlib
import getpass
import http.client
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ytdl import __version__, config, errors, log
from ytdl.config import Config, ConfigError

if TYPE_CHECKING:
    from ytdl.chain import Head
    from ytdl.db import DB
    from ytdl.sealed import Walk
    from ytdl.vault import Vault

SENTENCE = "Downloads videos for people who have an account, and hands them out by link."
SETTINGS = "Settings come from the environment; `ytdl config` shows them, docs/CONFIGURATION.md explains them."
HEALTH_SECONDS = 5.0


class Failed(Exception):
    """The command cannot do what it was asked to; each argument is a sentence for the operator."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ConfigError as e:
        return _complain(*e.faults, code=2)
    except Failed as e:
        return _complain(*map(str, e.args))
    except errors.Error as e:
        return _complain(*(f"{f.field}: {f.message}" for f in e.faults), *([] if e.faults else [e.message]))
    except (KeyboardInterrupt, BrokenPipeError):
        return 1


def _complain(*sentences: str, code: int = 1) -> int:
    for sentence in sentences:
        print(f"ytdl: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ytdl", description=SENTENCE, epilog=SETTINGS)
    parser.add_argument("--version", action="version", version=f"ytdl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, help: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=f"{help} {more}".strip(), epilog=SETTINGS)
        added.set_defaults(run=run)
        return added

    command("serve", serve, "Run the service.", (
        "With DATABASE_URL or REDIS_URL empty, it starts a PostgreSQL or Redis of its own in DATA_DIR. "
        "Ctrl-C or SIGTERM lets running downloads end first; a second Ctrl-C does not wait."
    ))  # fmt: skip
    command("migrate", migrate, "Bring the database to this version's schema.", "`serve` does this too.")
    admin = command("create-admin", create_admin, "Make an account with the role admin.", (
        "The password is asked for, or read from the first line of standard input where that is no terminal."
    ))  # fmt: skip
    admin.add_argument("username", help="3 to 50 letters, digits, '_', '-' or '.'")
    admin.add_argument("email", help="e-mail address of the account")
    admin.add_argument("--full-name", help="name that is shown; the user name where it is not given")
    admin.add_argument("--password-file", type=Path, metavar="FILE", help="file whose first line is the password")
    settings = command("config", show_config, "Show the settings in force, secrets hidden.")
    way = settings.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="only say what is wrong; exit code 2 if anything is")
    way.add_argument("--markdown", action="store_true", help="print docs/CONFIGURATION.md")
    way.add_argument("--env", action="store_true", help="print .env.example")
    kept = command("secrets", rotate_secrets, "Encrypt kept secrets anew with the newest key.", (
        "The newest key is ENCRYPTION_KEY, or the one that stands in for it; former keys still open what they closed. "
        "Safe while the service runs, and to be broken off: a second run goes on from there."
    ))  # fmt: skip
    kept.add_argument("action", choices=["rotate"], help="what to do with them")
    kept.add_argument(
        "--check", action="store_true", help="only open each and count them by key; exit code 1 if any fails"
    )
    trail = command("audit", verify_audit, "Check that the audit trail is what was written.", (
        "Exit code 0 with the chain's head if it is, 1 with the first thing that is not. A running service logs the "
        "head as audit.sealed; only against heads kept elsewhere does it show that the end was cut off or made anew."
    ))  # fmt: skip
    trail.add_argument("action", choices=["verify"], help="what to do with it")
    trail.add_argument("--head", type=_head, action="append", default=[], metavar="SEQ:HASH", help="a head from before")
    trail.add_argument("--log", type=Path, metavar="FILE", help="the service's log, with the heads that it told")
    trail.add_argument(
        "--at-rest", action="store_true", help="for a backup: events of the last moment may be without their links"
    )
    command("openapi", show_openapi, "Print the OpenAPI document of the API.")
    command("healthcheck", healthcheck, "Ask the service at HOST and PORT whether it is ready.", (
        "Exit code 0 if it is, else 1 with what it lacks."
    ))  # fmt: skip
    return parser


def serve(arguments: argparse.Namespace) -> int:
    # Until the service listens to signals itself nothing has been started, so there is nothing to end in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve()
    except KeyboardInterrupt:
        return _complain("Stopped, with nothing running.", code=0)


def _serve() -> int:
    from ytdl import server

    settings = config.load()
    log.set_up(settings.log_level)
    for name in config.exposed():
        logging.getLogger("ytdl.config").warning("config.readable_by_all", extra={"setting": f"{name}_FILE"})
    for sentence in config.doubtful(settings):
        logging.getLogger("ytdl.config").warning("config.doubtful", extra={"doubt": sentence})
    return asyncio.run(server.serve(settings))


def migrate(arguments: argparse.Namespace) -> int:
    settings = config.load()
    for name in asyncio.run(_migrate(settings)):
        print(f"Applied {name}.")
    print("The database has this version's schema.")
    return 0


async def _migrate(settings: Config) -> list[str]:
    from ytdl import db

    async with _database_url(settings) as url:
        try:
            return await db.migrate(url)
        except db.SchemaMismatch as e:
            raise Failed(str(e)) from None


@asynccontextmanager
async def _database_url(settings: Config) -> AsyncIterator[str]:
    """The database in force: the one that is set, a running service's own, or one started for the moment."""
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


def create_admin(arguments: argparse.Namespace) -> int:
    password = _password(arguments.password_file)
    asyncio.run(_create_admin(config.load(), arguments, password))
    print(f"{arguments.username} is an admin now.")
    return 0


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as e:
            raise Failed(f"The password file {file} cannot be read: {e}.") from None
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise Failed("The two passwords differ.")
    return password


async def _create_admin(settings: Config, arguments: argparse.Namespace, password: str) -> None:
    from ytdl import db, users
    from ytdl.crypto import Hasher

    async with _database_url(settings) as url:
        await db.migrate(url)
        database, hasher = db.DB(url, size=1), Hasher()
        await database.open()
        try:
            await users.create(
                database,
                hasher,
                username=arguments.username,
                email=arguments.email,
                password=password,
                full_name=arguments.full_name or arguments.username,
                role="admin",
            )
        finally:
            hasher.close()
            await database.close()


def rotate_secrets(arguments: argparse.Namespace) -> int:
    return asyncio.run(_rotate_secrets(config.load(), only_check=arguments.check))


async def _rotate_secrets(settings: Config, *, only_check: bool) -> int:
    from ytdl import db, sealed, vault

    async with _database_url(settings) as url:
        await db.migrate(url)
        database, keys = db.DB(url, size=2), vault.of(settings)
        await database.open()
        try:
            walk = await sealed.check(database, keys) if only_check else await _rotate(database, keys)
            by_key = await sealed.by_key(database)
        finally:
            await database.close()
    for key_id, count in by_key.items():
        held = "newest" if key_id == keys.newest else "former" if key_id in keys.key_ids else "missing"
        print(f"{count} under the {held} key {key_id}.")
    if walk.unopened:
        raise Failed(*(f"{count} cannot be opened, key {id or 'unknown'}." for id, count in walk.unopened.items()))
    return 0


async def _rotate(database: "DB", keys: "Vault") -> "Walk":
    from ytdl import sealed

    total, walk = sum((await sealed.by_key(database)).values()), sealed.Walk()
    async for walk in sealed.rotate(database, keys):
        if sys.stderr.isatty():
            print(f"\r{walk.seen} of {total}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"Encrypted {walk.resealed} anew.")
    return walk


def verify_audit(arguments: argparse.Namespace) -> int:
    heads = _heads(arguments.head, arguments.log)
    print(asyncio.run(_verify_audit(config.load(), heads, at_rest=arguments.at_rest)))
    return 0


def _head(text: str) -> "Head":
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


async def _verify_audit(settings: Config, heads: dict[int, bytes], *, at_rest: bool) -> str:
    """A sentence for a trail that is whole."""
    from ytdl import chain, db

    async with _database_url(settings) as url:
        database = db.DB(url, size=1)
        await database.open()
        try:
            head = await chain.verify(database, heads, at_rest=at_rest)
        except (chain.Broken, chain.Absent) as e:
            raise Failed(str(e)) from None
        finally:
            await database.close()
    return f"{head.seq} events, chain whole, head {head}"


def show_config(arguments: argparse.Namespace) -> int:
    if arguments.markdown or arguments.env:
        from ytdl import config_pages

        print(config_pages.markdown() if arguments.markdown else config_pages.env_example(), end="")
        return 0
    settings = config.load()
    if arguments.check:
        # Also reads every query file, the route table and the pages.
        from ytdl import app  # noqa: F401

        print("The settings are in order.")
        return 0
    for name, value in config.show(settings).items():
        print(f"{name}={value}")
    return 0


def show_openapi(arguments: argparse.Namespace) -> int:
    from ytdl.api import openapi
    from ytdl.routes import ROUTES

    print(json.dumps(openapi.document(ROUTES), indent=2))
    return 0


def healthcheck(arguments: argparse.Namespace) -> int:
    settings = config.load()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        readiness = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise Failed(f"No answer from {host}:{settings.port}: {e}.") from None
    finally:
        connection.close()
    lacking = [f"{check['name']}: {check['detail']}" for check in readiness["checks"] if not check["ok"]]
    if answer.status != 200:
        raise Failed(*(lacking or [f"The service is {readiness['status'].replace('_', ' ')}."]))
    print("The service is ready.")
    return 0
