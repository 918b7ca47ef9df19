"""Every row of the route table is whole: described, documented, bounded, and named by a test."""

import ast
import collections
import re
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any

import msgspec
import pytest

from tests.shape.source import ROOT
from ytdl.api import openapi
from ytdl.api.http import BASE, Route
from ytdl.routes import ROUTES

VERBS = ("get", "post", "put", "patch", "delete")
PLAIN = {re.sub(r"\{[^}]*\}", "{}", row.path) for row in ROUTES if row.plain}
# They hold one of a few values, or one of a fixed size.
BOUNDED = (
    msgspec.inspect.BoolType, msgspec.inspect.DateTimeType, msgspec.inspect.LiteralType, msgspec.inspect.NoneType,
    msgspec.inspect.UUIDType,
)  # fmt: skip
DOCUMENT = openapi.document(ROUTES)


def _id(row: Route) -> str:
    return f"{row.method} {row.full_path}"


every_row = pytest.mark.parametrize("row", ROUTES, ids=_id)


def test_no_address_stands_twice() -> None:
    counts = collections.Counter(map(_id, ROUTES))
    assert [address for address, n in counts.items() if n > 1] == []


@every_row
def test_a_row_has_a_role_and_an_answer(row: Route) -> None:
    assert row.role in ("anyone", "user", "admin")
    bodiless = row.status in (101, 204)
    assert bodiless or row.returns is not None or row.media != "application/json"
    assert not bodiless or row.returns is None
    assert not row.plain or row.role == "anyone"


@every_row
def test_a_row_is_described(row: Route) -> None:
    operation = DOCUMENT["paths"][re.sub(r":[^}]*", "", row.full_path)][row.method.lower()]
    assert operation["summary"].endswith("."), "the first line of the handler's docstring is no sentence"
    assert str(row.status) in operation["responses"]


def test_the_document_holds_together() -> None:
    operations = [o for path in DOCUMENT["paths"].values() for o in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({o["operationId"] for o in operations}) == len(operations)
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', msgspec.json.encode(DOCUMENT).decode()):
        place: Any = DOCUMENT
        for step in reference.split("/"):
            place = place[step]
    declared = set(DOCUMENT["components"]["securitySchemes"])
    assert {name for o in operations for need in o["security"] for name in need} <= declared


@every_row
def test_what_comes_in_is_bounded(row: Route) -> None:
    """A text without a longest length, or a number without limits, ends in the database as a fault of ours."""
    for struct in filter(None, (row.body, row.query)):
        info = msgspec.inspect.type_info(struct)
        assert isinstance(info, msgspec.inspect.StructType)
        assert info.forbid_unknown_fields
        for field in info.fields:
            assert not list(_unbounded(field.type)), field.encode_name


def _unbounded(t: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    inspect = msgspec.inspect
    if isinstance(t, inspect.StrType):
        return [t] if t.max_length is None and t.pattern is None else []
    if isinstance(t, inspect.IntType | inspect.FloatType):
        return [t] if (t.le is None and t.lt is None) or (t.ge is None and t.gt is None) else []
    return [unbounded for inner in _inside(t) for unbounded in _unbounded(inner)]


def _inside(t: msgspec.inspect.Type) -> Iterable[msgspec.inspect.Type]:
    """What a type is made of; of a kind that no address takes as yet it has to be said here first."""
    inspect = msgspec.inspect
    if isinstance(t, inspect.Metadata):
        # What is said of a type for the document alone wraps it.
        return (t.type,)
    if isinstance(t, inspect.UnionType):
        return t.types
    if isinstance(t, inspect.ListType):
        return (t.item_type,)
    if isinstance(t, inspect.StructType):
        return (field.type for field in t.fields)
    assert isinstance(t, BOUNDED), f"is {t} bounded?"
    return ()


def test_a_bound_is_missed_wherever_a_text_or_a_number_stands() -> None:
    """The search itself: what wraps or holds a type must not hide it."""

    class Inner(msgspec.Struct):
        text: Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": 3})]

    for holder in (str, int, float, Inner, Inner | None, list[Inner], Annotated[str, msgspec.Meta(description="A.")]):
        assert list(_unbounded(msgspec.inspect.type_info(holder))), holder


@every_row
def test_a_test_names_the_address(row: Route) -> None:
    wanted = re.sub(r"\{[^}]*\}", "{}", row.full_path)
    named = {path for method, path in _named() if method in (row.method, None)}
    assert wanted in named


@cache
def _named() -> set[tuple[str | None, str]]:
    """Method and path of every text in tests that looks like an address; no method where the call shows none."""
    found: set[tuple[str | None, str]] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= {(_method(node), address) for a in node.args if (address := _address(a))}
            elif isinstance(node, ast.Tuple | ast.List):
                found |= {(None, address) for a in node.elts if (address := _address(a))}
    return found


def _method(call: ast.Call) -> str | None:
    called = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    first = call.args[0]
    if called in VERBS:
        return called.upper()
    if called == "request" and isinstance(first, ast.Constant):
        return str(first.value)
    return None


def _address(node: ast.expr) -> str | None:
    """The template of a text: what is filled in becomes `{}`, and the base path is added where it is left out."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return None
    text = text.removeprefix("{}").partition("?")[0]
    if not re.fullmatch(r"/[\w{}/.-]*", text):
        return None
    if text.startswith("//"):
        return text.removeprefix("/")
    return text if text in PLAIN or text.startswith(BASE) else BASE + text
