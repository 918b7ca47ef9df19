"""The `ytdl` command: its arguments, serve, and the commands that need no database; `commands` has the others.

What a command needs is imported inside it, so that a health check every few seconds does not load the whole
service. Exit codes: 0 done, 1 failed, 2 wrong arguments or settings; each failure is one sentence on stderr.
"""

import argparse
import asyncio
import http.client
import json
import logging
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ytdl import __version__, config, errors, log
from ytdl.commands import Failed, admins, audit, database, grafana, secrets
from ytdl.config import ConfigError

SENTENCE = "Downloads videos for people who have an account, and hands them out by link."
SETTINGS = "Settings come from the environment; `ytdl config` shows them, docs/CONFIGURATION.md explains them."
HEALTH_SECONDS = 5.0


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
    command("migrate", database.migrate, "Bring the database to this version's schema.", "`serve` does this too.")
    admin = command("create-admin", admins.create_admin, "Make an account with the role admin.", (
        "The password is asked for, or read from the first line of standard input where that is no terminal."
    ))  # fmt: skip
    admin.add_argument("username", help="3 to 50 letters, digits, '_', '-' or '.'")
    admin.add_argument("email", help="e-mail address of the account")
    admin.add_argument("--full-name", help="name that is shown; the user name where it is not given")
    admin.add_argument("--password-file", type=Path, metavar="FILE", help="file whose first line is the password")
    settings = command("config", show_config, "Show the settings in force, secrets hidden.")
    way = settings.add_mutually_exclusive_group()
    way.add_argument(
        "--check", action="store_true", help="only say what is wrong or doubtful; exit code 2 if anything is wrong"
    )
    way.add_argument("--markdown", action="store_true", help="print docs/CONFIGURATION.md")
    way.add_argument("--env", action="store_true", help="print .env.example")
    way.add_argument("--prometheus", action="store_true", help="print a prometheus.yml that fits them")
    way.add_argument("--alertmanager", action="store_true", help="print an alertmanager.yml to begin with")
    settings.add_argument(
        "--target", type=_target, action="append", default=[], metavar="HOST:PORT",
        help="with --prometheus: an instance as Prometheus reaches it, more than once for several",
    )  # fmt: skip
    kept = command("secrets", secrets.rotate, "Encrypt kept secrets anew with the newest key.", (
        "The newest key is ENCRYPTION_KEY, or the one that stands in for it; former keys still open what they closed. "
        "Safe while the service runs, and to be broken off: a second run goes on from there."
    ))  # fmt: skip
    kept.add_argument("action", choices=["rotate"], help="what to do with them")
    kept.add_argument(
        "--check", action="store_true", help="only open each and count them by key; exit code 1 if any fails"
    )
    trail = command("audit", audit.verify, "Check that the audit trail is what was written.", (
        "Exit code 0 with the chain's head if it is, 1 with the first thing that is not. A running service logs the "
        "head as audit.sealed; only against heads kept elsewhere does it show that the end was cut off or made anew."
    ))  # fmt: skip
    trail.add_argument("action", choices=["verify"], help="what to do with it")
    trail.add_argument(
        "--head", type=audit.head, action="append", default=[], metavar="SEQ:HASH", help="a head from before"
    )
    trail.add_argument("--log", type=Path, metavar="FILE", help="the service's log, with the heads that it told")
    trail.add_argument(
        "--at-rest", action="store_true", help="for a backup: events of the last moment may be without their links"
    )
    reader = command("grafana-role", grafana.make_role, "Make the PostgreSQL role as which Grafana reads.", (
        "It reads the views for dashboards and nothing else. Another run gives it a new password. The password is "
        "asked for, or read from the first line of standard input where that is no terminal."
    ))  # fmt: skip
    reader.add_argument("--name", default="grafana", help="name of the role")
    reader.add_argument("--password-file", type=Path, metavar="FILE", help="file whose first line is the password")
    catalogue = command("metrics", show_metrics, "Print the catalogue of metrics.")
    catalogue.add_argument("--into", type=Path, metavar="FILE", help="write it into that page, between its marks")
    command("openapi", show_openapi, "Print the OpenAPI document of the API.")
    command("healthcheck", healthcheck, "Ask the service at HOST and PORT whether it is ready.", (
        "Exit code 0 if it is, else 1 with what it lacks."
    ))  # fmt: skip
    return parser


class _Stopped(SystemExit):
    """A SIGTERM. After a KeyboardInterrupt that passed through exec(), which makes dataclasses, `python -m` ends by
    SIGINT whatever is returned; any other exception asyncio might keep to itself."""


def serve(arguments: argparse.Namespace) -> int:
    # Until the service listens to signals itself nothing has been started, so there is nothing to end in order.
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _serve()
    except (KeyboardInterrupt, _Stopped):
        return _complain("Stopped, with nothing running.", code=0)


def _stop(signum: int, frame: object) -> None:
    raise _Stopped


def _serve() -> int:
    from ytdl import server

    settings = config.load()
    log.set_up(settings.log_level)
    for name in config.exposed():
        logging.getLogger("ytdl.config").warning("config.readable_by_all", extra={"setting": f"{name}_FILE"})
    for sentence in config.doubtful(settings):
        logging.getLogger("ytdl.config").warning("config.doubtful", extra={"doubt": sentence})
    return asyncio.run(server.serve(settings))


def _target(text: str) -> str:
    parts = re.fullmatch(r"(?:[\w.-]+|\[[0-9a-f:.]+\]):(\d{1,5})", text, re.ASCII | re.IGNORECASE)
    if parts is None or not 0 < int(parts[1]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def show_config(arguments: argparse.Namespace) -> int:
    if arguments.target and not arguments.prometheus:
        return _complain("--target goes with --prometheus.", code=2)
    if arguments.markdown or arguments.env:
        from ytdl import config_pages

        print(config_pages.markdown() if arguments.markdown else config_pages.env_example(), end="")
        return 0
    if arguments.alertmanager:
        from ytdl import routing

        print(routing.shipped(), end="")
        return 0
    settings = config.load()
    if arguments.prometheus:
        from ytdl import config_pages

        print(config_pages.prometheus(settings, arguments.target), end="")
        return 0
    if arguments.check:
        return _check(settings)
    for name, value in config.show(settings).items():
        print(f"{name}={value}")
    return 0


def _check(settings: config.Config) -> int:
    # Also reads every query file, the route table and the pages.
    from ytdl import app  # noqa: F401

    doubts = [f"{name}_FILE names a file that all users of this machine can read." for name in config.exposed()]
    doubts += config.doubtful(settings)
    for doubt in doubts:
        print(f"ytdl: warning: {doubt}", file=sys.stderr)
    print("The settings can be used; see the warnings." if doubts else "The settings are in order.")
    return 0


def show_metrics(arguments: argparse.Namespace) -> int:
    from ytdl import metrics_pages

    if arguments.into is None:
        print(metrics_pages.markdown())
        return 0
    try:
        arguments.into.write_text(metrics_pages.into(arguments.into.read_text()))
    except (OSError, ValueError) as e:
        raise Failed(str(e)) from None
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
