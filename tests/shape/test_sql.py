"""Query files and the code that names their queries agree, and the database understands each."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers import Servers
from tests.shape.source import modules
from ytdl import sql

FEATURES = sorted(path.stem for path in (sql.ROOT / "queries").glob("*.sql"))
QUERIES = {query.name: query for feature in FEATURES for query in sql.load(feature).all.values()}


def _used() -> set[str]:
    """`feature.query` for every `q.query` where `q = sql.load("feature")` stands at a module's top."""
    used: set[str] = set()
    for tree in modules().values():
        loaded = dict(filter(None, map(_loaded, tree.body)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in loaded:
                used.add(f"{loaded[node.value.id]}.{node.attr}")
    return used


def _loaded(node: ast.stmt) -> tuple[str, str] | None:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
        return None
    if ast.unparse(node.value.func) != "sql.load" or not isinstance(node.value.args[0], ast.Constant):
        return None
    return ast.unparse(node.targets[0]), str(node.value.args[0].value)


def test_every_query_is_used_and_every_used_query_is_there() -> None:
    assert _used() == set(QUERIES)


@pytest.mark.parametrize(
    "source",
    ["-- name: a :one\nSELECT 1;\n", "-- name: a :some\n-- Words.\nSELECT 1;\n",
     "-- name: a :one\n-- Words.\nSELECT 1;\n-- name: a :one\n-- Words.\nSELECT 2;\n"],
)  # fmt: skip
def test_a_file_out_of_form_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "odd.sql").write_text(source)
    monkeypatch.setattr(sql, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"sql/queries/odd\.sql"):
        sql.load("odd")


def test_a_misspelt_query_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"sql/queries/health\.sql has no query 'serverversion'"):
        _ = sql.load("health").serverversion


def test_a_querys_name_is_in_the_text_that_is_sent() -> None:
    for query in QUERIES.values():
        assert query.text.startswith(f"-- {query.name}\n".encode())


@pytest.fixture(scope="module")
def connection(servers: Servers) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    url = servers.clone()
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
    servers.drop(url)


@pytest.mark.parametrize("name", QUERIES)
def test_the_database_understands_a_query(connection: "psycopg.Connection[tuple[object, ...]]", name: str) -> None:
    """Finds misspelt columns, and parameters whose type nothing tells."""
    text = QUERIES[name].text
    nothing = dict.fromkeys(re.findall(r"%\((\w+)\)s", text.decode()))
    assert connection.execute(b"EXPLAIN " + text, nothing).fetchall()
