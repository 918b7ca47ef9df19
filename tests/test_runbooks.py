"""The runbooks speak of what exists: series, settings, addresses, commands, words of the log, alerts, tables.

Whether the advice is good is for readers; here only that nobody looks at night for what is not there.
"""

import dataclasses
import re
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.instance import ROOT
from tests.rules import ALERTS, known
from ytdl import cli, metrics
from ytdl.config import Config
from ytdl.routes import ROUTES

BOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
SOURCES = "".join(path.read_text() for path in (ROOT / "ytdl").rglob("*.py"))
SETTINGS = {field.name.upper() for field in dataclasses.fields(Config)}
ADDRESSES = {(row.method, row.path) for row in ROUTES}
SQL = re.compile(r"^```sql\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Have the form of a word of the log; one is a field of an event, one the kernel's.
NO_WORDS = {"detail.reason", "vm.overcommit_memory"}
every_book = pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)


def quoted(book: Path, form: str) -> list[str]:
    """What stands in backquotes and has this form as a whole."""
    return [text for text in re.findall(r"`([^`\n]+)`", SQL.sub("", book.read_text())) if re.fullmatch(form, text)]


def test_there_are_books_and_they_say_something() -> None:
    assert BOOKS
    assert quoted(ROOT / "docs/runbooks/queue.md", r"[A-Z]+(_[A-Z]+)+")
    assert SQL.findall((ROOT / "docs/runbooks/queue.md").read_text())


@every_book
def test_a_series_exists(book: Path) -> None:
    named = set(re.findall(r"\bytdl_[a-z0-9_]+", SQL.sub("", book.read_text())))
    assert [name for name in named if not known(name) and not known(f"{name}_bucket")] == []


@every_book
def test_a_setting_exists(book: Path) -> None:
    assert set(quoted(book, r"[A-Z]+(_[A-Z]+)+")) <= SETTINGS


@every_book
def test_an_address_exists(book: Path) -> None:
    named = [text.partition("?")[0].split() for text in quoted(book, r"(GET|POST|PUT|DELETE) /[a-z]\S*")]
    asked = {(method, re.sub(r"/ID\b", "/{id}", path.removeprefix("/api/v1"))) for method, path in named}
    assert asked <= ADDRESSES


@every_book
def test_a_word_of_the_log_is_said(book: Path) -> None:
    words = {word for word in quoted(book, r"[a-z]+\.[a-z_]+") if not word.endswith((".txt", ".in"))} - NO_WORDS
    assert [word for word in words if f'"{word}"' not in SOURCES] == []


@every_book
def test_a_sentence_of_the_log_is_said(book: Path) -> None:
    sentences = quoted(book, r"(job|the fork server) [a-z ,]+|fork server:")
    assert [said for said in sentences if f'"{said}' not in SOURCES] == []


@every_book
def test_a_command_exists(book: Path) -> None:
    for command in quoted(book, r"ytdl [a-z].*"):
        cli._parser().parse_args(command.split()[1:])
    makefile = (ROOT / "Makefile").read_text()
    assert [m for m in quoted(book, r"make [a-z-]+") if f"\n{m.removeprefix('make ')}:" not in makefile] == []


@every_book
def test_an_alert_exists(book: Path) -> None:
    assert set(quoted(book, r"([A-Z][a-z]+){2,}")) <= {rule.name for rule in ALERTS}


@every_book
def test_a_link_leads_to_a_section_or_a_file(book: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([a-z0-9]+))?\)", book.read_text()):
        file = book.parent / target if target else book
        assert file.exists(), target
        headings = [line[3:].lower() for line in file.read_text().splitlines() if line.startswith("## ")]
        assert not anchor or anchor in headings, (target, anchor)


@every_book
def test_a_statement_is_understood_by_the_database(book: Path, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for statement in SQL.findall(book.read_text()):
            connection.execute(b"EXPLAIN " + statement.encode())


def test_what_a_figure_is_made_of_is_what_its_rule_reads_and_can_be_asked_for() -> None:
    book = (ROOT / "docs/runbooks/thresholds.md").read_text()
    made = {
        figure: set(re.findall(r"ytdl_\w+", of)) for figure, of in re.findall(r"^\| `(\w+)` \| (.*?) \|", book, re.M)
    }
    rules = yaml.safe_load((ROOT / "prometheus/rules/thresholds.yml").read_text())["groups"][0]["rules"]
    read = {
        rule["labels"]["metric"]: {name.removesuffix("_bucket") for name in re.findall(r"\bytdl_\w+", rule["expr"])}
        for rule in rules
        if rule.get("record") == "ytdl:measure"
    }
    assert made == read and set.union(*made.values()) <= {declared.name for declared in metrics.CATALOGUE}
