"""What docs/SECURITY.md names is there: every requirement once, its tests, and all that its lists are lists of."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from tests.shape.source import ROOT, attributes_of, imports, modules
from ytdl import audit
from ytdl.config import FIELDS

PAGE = ROOT / "docs" / "SECURITY.md"
TEXT = PAGE.read_text()
# ASVS 5.0, levels 1 and 2: by chapter, section.requirement.
REQUIREMENTS = {
    1: "1.1-2 2.1-9 3.1-11 4.1-3 5.1-2",
    2: "1.1-3 2.1-3 3.1-4 4.1",
    3: "2.1-2 3.1-4 4.1-6 5.1-5 7.1-2",
    4: "1.1-3 2.1 3.1-2 4.1-4",
    5: "1.1 2.1-3 3.1-2 4.1-3",
    6: "1.1-3 2.1-12 3.1-4 4.1-4 5.1-5 6.1-3 8.1-4",
    7: "1.1-3 2.1-4 3.1-2 4.1-5 5.1-2 6.1-2",
    8: "1.1-2 2.1-3 3.1 4.1",
    9: "1.1-3 2.1-4",
    # Of OAuth what a service without clients of others has: its access and refresh tokens, the password grant.
    10: "3.1 3.3 4.4-5 4.8-9",
    11: "1.1-2 2.1-3 3.1-3 4.1-4 5.1 6.1",
    12: "1.1-3 2.1-2 3.1-4",
    13: "1.1 2.1-5 3.1-2 4.1-5",
    14: "1.1-2 2.1-4 3.1-3",
    15: "1.1-3 2.1-3 3.1-7",
    16: "1.1 2.1-5 3.1-4 4.1-3 5.1-3",
}
ID = re.compile(r"(?<![\d.])\d{1,2}\.\d{1,2}\.\d{1,2}(?!\.?\d)")
NAMED = sorted(set(re.findall(r"tests/[\w/]+\.py::\w+", TEXT)))
CRYPTOGRAPHY = {"bcrypt", "cryptography", "hashlib", "hmac", "jwt", "secrets", "ssl", "zlib"}


def required() -> Iterator[str]:
    for chapter, sections in REQUIREMENTS.items():
        for section, _, numbers in (part.partition(".") for part in sections.split()):
            first, _, last = numbers.partition("-")
            yield from (f"{chapter}.{section}.{n}" for n in range(int(first), int(last or first) + 1))


def part(heading: str) -> str:
    """What stands under a heading of the second rank, with its parts."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_requirement_is_answered_once() -> None:
    assert len(list(required())) == 217 + 6
    assert Counter(ID.findall(TEXT)) == Counter(required())


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    assert function.startswith("test_") and function in functions(path)


def test_every_row_of_a_chapter_names_a_test_or_the_part_that_says_it() -> None:
    rows = re.findall(r"^\| (\d[\d., ]*) \| (.+) \| (.*) \|$", part("Requirements"), re.MULTILINE)
    assert rows and not [id for id, _, shown in rows if not re.search(r"`tests/.+::test_|\]\(#", shown)]
    assert all(how.strip() for _, how, _ in rows)


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    wanted = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert wanted and wanted <= headings
    files = {link.partition("#")[0] for link in re.findall(r"\]\(([^)#h][^)]*)\)", TEXT)}
    assert files and all((PAGE.parent / file).exists() for file in files)


def test_every_setting_that_is_named_exists() -> None:
    named = {name for name in code(TEXT) if re.fullmatch(r"[A-Z]+_[A-Z_]+", name)} - {"NAME_FILE"}
    assert named and named <= set(FIELDS)


def test_whoever_a_setting_leads_to_is_among_those_who_are_talked_to() -> None:
    leading = {name for name in FIELDS if name.endswith(("_URL", "_HOST", "_ENDPOINT"))}
    assert leading and leading - code(part("Who is talked to")) == set()


def test_every_table_is_in_a_class() -> None:
    tables = set(re.findall(r"^CREATE TABLE public\.(\w+)", (ROOT / "sql" / "schema.sql").read_text(), re.MULTILINE))
    assert tables == code(part("Data")) & {name for name in code(part("Data")) if re.fullmatch(r"[a-z_]+", name)}


def test_every_event_is_in_the_inventory_of_what_is_logged() -> None:
    listed = {name for name in code(part("What is logged")) if re.fullmatch(r"[a-z]+_[0-9a-z_]+", name)}
    assert set(audit.TYPES) == listed - {"audit_events"}


def test_every_event_of_the_inventory_is_written_somewhere() -> None:
    trees = [tree for name, tree in modules().items() if name != "ytdl.audit"]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(audit.TYPES) <= texts


def test_whatever_computes_with_keys_or_chance_is_in_the_inventory() -> None:
    using = {m for m in modules() if {name.split(".")[0] for name in imports(m)} & CRYPTOGRAPHY}
    assert using == {f"ytdl.{name}" for name in code(part("Keys and algorithms")) if re.fullmatch(r"[a-z_.]+", name)}


def test_no_hash_is_one_that_was_broken() -> None:
    assert set().union(*attributes_of("hashlib").values()) <= {"sha256", "blake2b", "file_digest"}
