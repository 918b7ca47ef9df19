"""Imports go down the layers only, and what is heavy or foreign is imported in one place."""

import ast
import subprocess
import sys

import pytest

from tests.shape.source import PACKAGE, ROOT, imports, modules

# From the top to the bottom. A package stands for all that is in it; inside a layer imports may not go round.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("server",),
    ("app",),
    ("routes", "api"),
    ("worker", "janitor", "sampler"),
    ("collectors",),
    ("run",),
    (
        *("accounts", "acknowledgements", "alert_history", "alerts", "apikeys"),
        *("attempts", "auth", "blocks", "checkup", "cookies", "disk", "downloads"),
        *("egress", "health", "lockout", "monitoring", "monitoring_forms", "monitoring_report"),
        *("notifications", "offences", "queue", "ratelimit", "security"),
        *("security_report", "sessions", "sms", "thresholds", "trials", "users", "validation"),
    ),
    ("alertmanager_file", "audit", "chain", "channels", "denials", "leases", "recent", "record", "routing", "sealed"),
    ("events", "loops", "scores"),
    (
        *("alertmanager", "crypto", "db", "embedded", "fetcher", "kv", "netscape", "outbound", "prometheus"),
        *("readers", "storage", "system", "urls", "vault"),
    ),
    (
        *("blocklist", "config", "config_pages", "errors", "gcra", "hidden", "log", "metrics"),
        *("metrics_pages", "networks", "passwords", "readings", "reasons", "samples", "sql", "tables"),
        *("texts", "titles", "tracing"),
    ),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALLOWED_LENGTH = 400
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base"}


def _part(module: str) -> str:
    return [*module.split("."), "__init__"][1]


OURS = [name for name in modules() if _part(name) not in ("__init__", "child")]


def _own(found: set[str]) -> set[str]:
    return {name for name in found if name.split(".")[0] == "ytdl" and name != "ytdl"}


@pytest.mark.parametrize("module", OURS)
def test_imports_go_down(module: str) -> None:
    # The frames that are spoken with the fork server are the one thing of the child that others know.
    targets = {name for name in _own(imports(module)) if _part(name) != "child"}
    assert all(LEVEL[_part(target)] >= LEVEL[_part(module)] for target in targets), sorted(targets)


def test_no_imports_go_round() -> None:
    waiting = {name: _own(imports(name)) & modules().keys() for name in modules()}
    while free := {name for name, needed in waiting.items() if not needed & waiting.keys() - {name}}:
        waiting = {name: needed for name, needed in waiting.items() if name not in free}
    assert not waiting


def test_every_module_has_a_layer() -> None:
    assert {_part(name) for name in OURS} == set(LEVEL)


def test_only_http_knows_aiohttps_server() -> None:
    knowing = {m for m in modules() if any(_imports_web(node) for node in ast.walk(modules()[m]))}
    assert {_part(name) for name in knowing} <= {"api", "app", "server"}


def _imports_web(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "aiohttp":
        return "web" in {alias.name for alias in node.names}
    return isinstance(node, ast.ImportFrom | ast.Import) and "aiohttp.web" in ast.unparse(node)


def test_only_the_child_knows_yt_dlp_and_the_child_knows_nothing_else() -> None:
    for module in modules():
        foreign = {name.split(".")[0] for name in imports(module)} & {"yt_dlp", "yt_dlp_ejs"}
        assert not foreign or _part(module) == "child", module
        if _part(module) == "child":
            # One rule says what is public, to jobs and to the service; it imports nothing of ours itself.
            assert {_part(name) for name in _own(imports(module))} <= {"child", "networks"}, module


def test_only_traces_know_opentelemetry() -> None:
    knowing = {name for name in modules() if any(found.startswith("opentelemetry") for found in imports(name))}
    assert knowing == {"ytdl.tracing"}


def test_the_service_starts_without_yt_dlp_and_django() -> None:
    script = "import sys, ytdl.cli, ytdl.server; print({'yt_dlp', 'django'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("module", modules())
def test_a_module_says_what_it_owns_and_stays_short(module: str) -> None:
    tree = modules()[module]
    says = ast.get_docstring(tree) or ""
    assert says, "has no docstring"
    path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    lines = len(path.read_text().splitlines()) if path.exists() else 0
    assert lines <= ALLOWED_LENGTH or "on purpose" in says, f"{lines} lines, and the head does not say why"


@pytest.mark.parametrize("module", modules())
def test_names_say_something(module: str) -> None:
    named = {node.name.lower() for node in ast.walk(modules()[module]) if isinstance(node, ast.ClassDef)}
    assert not (set(module.split(".")) | named) & BANNED_NAMES


def test_nothing_is_left_to_be_done() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    files = [
        p
        for folder in ("ytdl", "sql", "tests")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in (".py", ".sql", ".lua")
    ]
    assert not [str(p) for p in files if any(mark in p.read_text() for mark in marks)]
