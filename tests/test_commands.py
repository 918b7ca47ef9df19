"""Commands of an operator who is in the wrong folder, or has a password that nobody could ever type."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PASSWORD, SECRET
from tests.servers import Servers, named
from tests.test_cli import settings, ytdl

LOOKING = [("audit", "verify"), ("secrets", "rotate"), ("secrets", "rotate", "--check")]
ADMIN = ("create-admin", "ann", "ann@example.org")


@pytest.fixture
def given(tmp_path: Path, database_url: str) -> dict[str, str]:
    return settings(tmp_path, DATABASE_URL=database_url, JWT_SECRET_KEY=SECRET)


def create_admin(env: dict[str, str], input: bytes, *more: str) -> tuple[int, bytes, bytes]:
    command = [sys.executable, "-m", "ytdl", *ADMIN, *more]
    done = subprocess.run(command, check=False, env=env, input=input, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_what_only_looks_makes_no_service_in_the_wrong_folder(command: tuple[str, ...], tmp_path: Path) -> None:
    env = settings(tmp_path)
    done = ytdl(*command, env=env)
    refusal = f"There is no database in the data folder {env['DATA_DIR']}; set DATA_DIR to that of the service."
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ytdl: {refusal}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_what_only_looks_makes_no_tables_in_another_database(
    command: tuple[str, ...], given: dict[str, str], servers: Servers
) -> None:
    url = named(servers.postgres_url, "postgres")
    done = ytdl(*command, env=given | {"DATABASE_URL": url})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ytdl: There are no tables of the service in the database postgres on ")
    assert done.stderr.endswith("; look at DATABASE_URL.\n")


@pytest.mark.slow
def test_what_may_come_first_names_the_folder(tmp_path: Path) -> None:
    env = settings(tmp_path)
    folder = f"the data folder {env['DATA_DIR']}"
    first = ytdl("migrate", env=env).stdout.splitlines()
    assert first[0] == f"Making a new database in {folder}."
    assert first[-1] == f"The database in {folder} has this version's schema."
    done = ytdl(*ADMIN, env=env, input=PASSWORD)
    assert done.stdout == f"ann is an admin now, in the database in {folder}.\n"
    assert ytdl("secrets", "rotate", env=env).stdout == "Encrypted 0 anew.\n"
    assert ytdl("audit", "verify", "--at-rest", env=env).stdout.startswith(
        "0 events in the database in the data folder "
    )


def test_no_password_of_a_database_is_printed(given: dict[str, str]) -> None:
    done = ytdl("migrate", env=given | {"DATABASE_URL": given["DATABASE_URL"] + "&password=Rh3inf4ll"})
    assert done.returncode == 0 and "Rh3inf4ll" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"Qq-Str0ng-pass!1\0\n", b"password: must not hold NUL characters or halves of others"),
        (b"Qq-Str0ng-pass!1\xff\n", b"The password is not text in UTF-8."),
        (b"Qq-Str0ng-pass!1" * 70, b"password: must have at most 1024 characters"),
    ],
    ids=["nul", "not utf-8", "long"],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_a_password_that_cannot_sign_in_is_one_sentence(
    given: dict[str, str], tmp_path: Path, line: bytes, sentence: bytes, from_file: bool
) -> None:
    (tmp_path / "password").write_bytes(line)
    more = ("--password-file", str(tmp_path / "password")) if from_file else ()
    assert create_admin(given, line, *more) == (1, b"", b"ytdl: " + sentence + b"\n")


def test_a_password_may_be_in_any_language_whatever_the_terminals_is(given: dict[str, str]) -> None:
    code, said, _ = create_admin(given | {"LC_ALL": "C", "PYTHONUTF8": "0"}, "Grüße-aus-Köln-7\r\n".encode())
    assert code == 0 and said.startswith(b"ann is an admin now, in the database ")


def test_an_end_of_input_at_the_terminal_is_one_sentence(given: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ytdl", *ADMIN]
    with (
        os.fdopen(ours, "wb", buffering=0) as terminal,
        os.fdopen(theirs, "rb") as line,
        subprocess.Popen(command, env=given, stdin=line, stderr=subprocess.PIPE, start_new_session=True) as process,
    ):
        assert process.stderr
        # It asks at standard error, as it has no terminal but for its input; what came before is thrown away.
        assert process.stderr.read(10) == b"Password: "
        terminal.write(b"\x04")
        assert process.stderr.read().endswith(b"ytdl: No password was given.\n")
    assert process.returncode == 1


def test_a_name_in_bytes_that_are_no_text_is_one_sentence(given: dict[str, str]) -> None:
    code, said, complaint = create_admin(given, PASSWORD.encode(), "--full-name", os.fsdecode(b"Ann\xe9"))
    assert (code, said, complaint) == (1, b"", b"ytdl: full_name: must not hold control characters\n")


@pytest.mark.parametrize("command", ["config", "serve"])
def test_a_setting_in_bytes_that_are_no_text_is_one_sentence(tmp_path: Path, command: str) -> None:
    done = ytdl(command, env=settings(tmp_path, ADMIN_PASSWORD=os.fsdecode(b"Rh3inf4ll\xe9")))
    assert (done.returncode, done.stderr) == (2, "ytdl: ADMIN_PASSWORD holds bytes that are not UTF-8.\n")
