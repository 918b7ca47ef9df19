"""Query files and the code that names their queries agree, and the database understands each."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests import schema
from tests.servers import Servers
from tests.shape.source import modules
from ytdl import db, sql

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


def _calls() -> Iterator[tuple[str, str]]:
    """Query and method for every `tx.maybe(q.query, ...)`."""
    for tree in modules().values():
        loaded = dict(filter(None, map(_loaded, tree.body)))
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=method), args=[ast.Attribute(value=ast.Name(id=name), attr=query), *_]
                ) if name in loaded and method in sql.KINDS:
                    yield f"{loaded[name]}.{query}", method


def _loaded(node: ast.stmt) -> tuple[str, str] | None:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
        return None
    if ast.unparse(node.value.func) != "sql.load" or not isinstance(node.value.args[0], ast.Constant):
        return None
    return ast.unparse(node.targets[0]), str(node.value.args[0].value)


def test_every_query_is_used_and_every_used_query_is_there() -> None:
    assert _used() == set(QUERIES)


def test_every_query_is_asked_in_the_way_its_kind_says() -> None:
    """What may find nothing may also be asked so that nothing is an error."""
    ways = {(QUERIES[query].kind, method) for query, method in _calls()}
    assert ways == {(kind, kind) for kind in sql.KINDS} | {("maybe", "one")}


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


def test_the_schema_on_file_is_what_the_migrations_come_to(
    connection: "psycopg.Connection[tuple[object, ...]]",
) -> None:
    """`make schema` writes it."""
    dsn = connection.info.dsn
    assert schema.PATH.read_text() == schema.dump(dsn)


def test_migrations_are_numbered_without_gaps() -> None:
    assert [m.version for m in db.migrations()] == list(range(1, len(db.migrations()) + 1))


@pytest.mark.parametrize("path", sorted((sql.ROOT / "migrations").glob("*.sql")), ids=lambda path: path.stem)
def test_every_constraint_and_index_has_a_name(path: Path) -> None:
    """Violations are told by it, and a migration can only change what it can name."""
    text = re.sub(r"--.*", "", path.read_text())
    rules = r"(?:CHECK|PRIMARY KEY|UNIQUE|REFERENCES|EXCLUDE)\b"
    assert len(re.findall(rf"(?<!CREATE ){rules}", text)) == len(re.findall(rf"CONSTRAINT \w+ {rules}", text))
    assert len(re.findall(r"\bINDEX\b", text)) == len(re.findall(r"\bINDEX (?!ON)\w+ ON\b", text))
