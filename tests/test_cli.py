"""The `ytdl` command as an operator runs it: real processes, their exit codes and what they print."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import PASSWORD, SECRET
from tests.instance import free_port
from ytdl import cli, config, metrics_pages

COMMANDS = (
    *("serve", "migrate", "create-admin", "config", "secrets", "audit", "grafana-role", "metrics", "openapi"),
    "healthcheck",
)
ROOT = Path(__file__).parent.parent


def settings(folder: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of the tester's own in it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), "DOWNLOAD_CONCURRENCY": "0"} | more


def ytdl(*arguments: str, env: dict[str, str], input: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ytdl", *arguments]
    return subprocess.run(command, check=False, env=env, input=input, capture_output=True, text=True, timeout=60)


@pytest.fixture
def given(tmp_path: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """Settings of a service whose servers are there already."""
    port = str(free_port())
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "REDIS_PREFIX": port}
    return settings(tmp_path, JWT_SECRET_KEY=SECRET, PORT=port, **servers)


@contextmanager
def serving(env: dict[str, str], until: str = '"serve.listening"') -> Iterator[subprocess.Popen[str]]:
    """`ytdl serve`, as far as that line of its log; killed where the test did not end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ytdl", "serve"],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr
        for line in process.stderr:
            if until in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def stopped(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output after SIGTERM."""
    process.terminate()
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def ask(env: dict[str, str], path: str, body: dict[str, Any] | None = None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{env['PORT']}{path}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return e.code


def test_help_names_every_command_and_each_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ytdl("--help", env=settings(tmp_path)).stdout
    for command in COMMANDS:
        assert command in shown
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: ytdl {command}")


def test_a_command_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    assert ytdl("dance", env=settings(tmp_path)).returncode == 2
    assert ytdl(env=settings(tmp_path)).returncode == 2


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("config",), ("config", "--check"), ("healthcheck",)])
def test_bad_settings_stop_it_with_a_sentence_each(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = ytdl(*command, env=settings(tmp_path, PORT="x", LOG_LEVEL="LOUD"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "ytdl: PORT must be a whole number, not 'x'.",
        "ytdl: LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR.",
    ]


def test_config_shows_what_is_in_force_and_no_secret(tmp_path: Path) -> None:
    done = ytdl("config", env=settings(tmp_path, JWT_SECRET_KEY=SECRET, PORT="81"))
    assert {f"JWT_SECRET_KEY={config.HIDDEN}", "PORT=81"} <= set(done.stdout.splitlines())
    assert SECRET not in done.stdout


def test_a_secrets_file_that_all_may_read_is_told_at_the_start(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text(given.pop("JWT_SECRET_KEY"))
    (tmp_path / "key").chmod(0o644)
    with serving(given | {"JWT_SECRET_KEY_FILE": str(tmp_path / "key")}, until="readable_by_all") as process:
        process.terminate()
        assert process.wait(timeout=60) == 0


def until_read(fifo: Path, process: subprocess.Popen[str]) -> int:
    """A writer's end of the FIFO, once the process waits for what will be written to it."""
    for _ in range(3000):
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as e:
            assert e.errno == errno.ENXIO and process.poll() is None
            time.sleep(0.01)
    process.kill()
    raise AssertionError("nobody reads it")


def terminated(process: subprocess.Popen[str]) -> str:
    """What it said to its end. A signal that comes just before a call that blocks has no effect until the next."""
    for _ in range(12):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=5)[1]
    process.kill()
    raise AssertionError("it does not end")


def test_a_stop_before_the_start_is_a_stop_in_order(given: dict[str, str], tmp_path: Path) -> None:
    secret = tmp_path / "key"
    os.mkfifo(secret)
    given.pop("JWT_SECRET_KEY")
    process = subprocess.Popen(
        [sys.executable, "-m", "ytdl", "serve"], env=given | {"JWT_SECRET_KEY_FILE": str(secret)},
        text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process, os.fdopen(until_read(secret, process), "w"):
        said = terminated(process)
    assert (process.returncode, said) == (0, "ytdl: Stopped, with nothing running.\n")


def test_a_stop_while_a_dataclass_is_made_is_one_in_order_too(tmp_path: Path) -> None:
    """Of a module that it runs Python remembers a KeyboardInterrupt that left exec(), and ends by SIGINT for it, though
    it was caught."""
    making = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)"
    program = f"import sys; from ytdl import cli; cli._serve = lambda: exec({making!r}); sys.exit(cli.main(['serve']))"
    (tmp_path / "starting.py").write_text(program)
    environment = settings(tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    command = [sys.executable, "-m", "starting"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "ytdl: Stopped, with nothing running.\n")


def test_config_check_says_that_all_is_well(tmp_path: Path) -> None:
    assert ytdl("config", "--check", env=settings(tmp_path)).stdout == "The settings are in order.\n"


def test_config_check_warns_of_what_is_doubtful(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    doubtful = {"TRUSTED_PROXIES": "0.0.0.0/0", "JWT_SECRET_KEY_FILE": str(secret)}
    done = ytdl("config", "--check", env=settings(tmp_path) | doubtful)
    assert (done.returncode, done.stdout) == (0, "The settings can be used; see the warnings.\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("ytdl: warning: JWT_SECRET_KEY_FILE names")
    assert second.startswith("ytdl: warning: TRUSTED_PROXIES has 0.0.0.0/0")


def test_openapi_prints_the_document(tmp_path: Path) -> None:
    assert "/healthz" in json.loads(ytdl("openapi", env=settings(tmp_path)).stdout)["paths"]


def test_metrics_prints_the_catalogue_or_writes_it_into_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n{metrics_pages.BEGIN}\nold\n{metrics_pages.END}\nmore\n")
    shown = ytdl("metrics", env=settings(tmp_path)).stdout
    assert "| `ytdl_build_info` | gauge |" in shown
    assert ytdl("metrics", "--into", str(page), env=settings(tmp_path)).stdout == ""
    assert page.read_text() == f"# Mine\n{metrics_pages.BEGIN}\n\n{shown.strip()}\n\n{metrics_pages.END}\nmore\n"
    refused = ytdl("metrics", "--into", str(tmp_path / "none.md"), env=settings(tmp_path))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_healthcheck_fails_where_nothing_answers(tmp_path: Path) -> None:
    done = ytdl("healthcheck", env=settings(tmp_path, PORT="9"))
    assert done.returncode == 1
    assert re.fullmatch(r"ytdl: No answer from 127\.0\.0\.1:9: .*\n", done.stderr)


def test_serve_answers_until_it_is_told_to_stop(given: dict[str, str]) -> None:
    with serving(given | {"ADMIN_PASSWORD": PASSWORD}) as process:
        assert ytdl("healthcheck", env=given).stdout == "The service is ready.\n"
        assert ask(given, "/api/v1/auth/login", {"username": "admin", "password": PASSWORD}) == 200
        assert stopped(process) == (0, "")


def test_healthcheck_names_what_is_lacking(given: dict[str, str]) -> None:
    with serving(given | {"DOWNLOAD_MIN_FREE_BYTES": str(2**60)}):
        done = ytdl("healthcheck", env=given)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("ytdl: disk: ")]


def test_the_admins_password_is_told_exactly_once(given: dict[str, str]) -> None:
    with serving(given) as process:
        _, output = stopped(process)
    told = re.search(r"its password:\s+(\S+)", output)
    assert told
    with serving(given) as process:
        assert ask(given, "/api/v1/auth/login", {"username": "admin", "password": told[1]}) == 200
        assert stopped(process) == (0, "")


def test_a_port_in_use_is_one_sentence(given: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(given["PORT"]))):
        done = ytdl("serve", env=given)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ytdl: Port {given['PORT']} on 127.0.0.1 is in use; ")
    assert done.stderr.count("\n") == 1


def test_a_host_that_is_not_ours_is_one_sentence(given: dict[str, str]) -> None:
    done = ytdl("serve", env=given | {"HOST": "192.0.2.1"})
    assert done.returncode == 1
    assert "192.0.2.1 cannot be listened on" in done.stderr


def test_ctrl_c_during_the_start_ends_what_was_started(given: dict[str, str]) -> None:
    # It has started a Redis of its own and waits for a PostgreSQL that will never come.
    env = given | {"DATABASE_URL": "postgresql://127.0.0.1:9/x", "REDIS_URL": ""}
    with serving(env, until="Redis is ready") as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False)


def test_a_second_signal_does_not_wait(given: dict[str, str]) -> None:
    with serving(given) as process:
        # It stands still, so that it has not ended by the first one when the second comes.
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 130


def test_every_line_of_the_log_is_json_and_knows_its_request(given: dict[str, str]) -> None:
    with serving(given) as process:
        ask(given, "/healthz?token=hunter2")
        process.terminate()
        _, said = process.communicate(timeout=30)
    lines = [json.loads(line) for line in said.splitlines()]
    [line] = [line for line in lines if line["event"] == "http.request"]
    assert (line["route"], line["status"], line["level"]) == ("/healthz", 200, "info")
    assert len(line["request_id"]) == 16 and "hunter2" not in said


def named(env: dict[str, str]) -> str:
    """The database of these settings, as commands name it."""
    parts = conninfo_to_dict(env["DATABASE_URL"])
    return f"{parts['dbname']} on {parts['host']}" + (f":{parts['port']}" if "port" in parts else "")


def test_migrate_says_what_it_did(given: dict[str, str]) -> None:
    done = ytdl("migrate", env=given)
    assert (done.returncode, done.stdout) == (0, f"The database {named(given)} has this version's schema.\n")


def test_create_admin_takes_the_password_from_a_file_or_standard_input(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    by_file = ("--password-file", str(tmp_path / "password"))
    assert ytdl("create-admin", "ann", "ann@example.org", *by_file, env=given).returncode == 0
    done = ytdl("create-admin", "ben", "ben@example.org", env=given, input=PASSWORD + "\n")
    assert done.stdout == f"ben is an admin now, in the database {named(given)}.\n"
    with serving(given | {"ADMIN_PASSWORD": PASSWORD}):
        for name in ("ann", "ben"):
            assert ask(given, "/api/v1/auth/login", {"username": name, "password": PASSWORD}) == 200


def test_create_admin_says_every_fault(given: dict[str, str]) -> None:
    done = ytdl("create-admin", "x", "nowhere", env=given, input="short\n")
    assert done.returncode == 1
    assert {line.split(": ")[1] for line in done.stderr.splitlines()} == {"username", "email", "password"}


@pytest.mark.slow
def test_with_nothing_configured_it_brings_its_own_servers(tmp_path: Path) -> None:
    env = settings(tmp_path, PORT=str(free_port()))
    with serving(env) as process:
        assert ask(env, "/readyz") == 200
        assert ytdl("create-admin", "ann", "ann@example.org", env=env, input=PASSWORD).returncode == 0
        assert "Another ytdl" in ytdl("serve", env=env | {"PORT": "0"}).stderr
        assert stopped(process)[0] == 0
    assert (tmp_path / "data/secrets/jwt.key").stat().st_mode & 0o777 == 0o600
    with serving(env) as process:
        assert ask(env, "/api/v1/auth/login", {"username": "ann", "password": PASSWORD}) == 200
        assert stopped(process) == (0, "")
