"""The project's own source as syntax trees, read once."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "ytdl"


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {_dotted(path): ast.parse(path.read_text(), str(path)) for path in paths}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(name: str) -> set[str]:
    """The modules that a module imports, those inside functions too; without those for type checkers only."""
    tree = modules()[name]
    unseen = {inner for node in ast.walk(tree) if _for_checkers(node) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in unseen:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node not in unseen:
            found |= {_module(node.module, alias.name) for alias in node.names}
    return found


def _for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _module(package: str, name: str) -> str:
    """`from ytdl import db` names a module, `from ytdl.db import DB` something inside one."""
    whole = f"{package}.{name}"
    return whole if whole in modules() else package


def attributes_of(name: str) -> dict[str, set[str]]:
    """By module: the `x` of every `name.x` in it."""
    found: dict[str, set[str]] = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
                found.setdefault(module, set()).add(node.attr)
    return found
