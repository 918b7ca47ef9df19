"""Every rule and every dashboard is alive: with people at work, a real Prometheus finds something for each of them.

An alert that is not firing is right to find nothing, so what it compares is asked for with `bool`, which keeps what a
comparison would drop; then series that do not exist, or sides that do not fit together, still show.
"""

import asyncio
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest

from tests import dashboards, promql
from tests.dashboards import DASHBOARDS, Asked
from tests.drill.ground import Ground, prepared
from tests.drill.load import mixed
from tests.drill.people import Admin
from tests.drill.scaling import Scale
from tests.promql import Aggregate, Binary, Call, Literal, Node, Selector, Subquery
from tests.rules import RULES
from tests.watching import needs_alertmanager, needs_prometheus

pytestmark = [pytest.mark.slow, needs_prometheus, needs_alertmanager]
# What is counted over a while is there after some of it; what is not there after much of it is not there.
PAUSE_SECONDS, PATIENCE_SECONDS = 3.0, 120.0
# Rules that find nothing while all is well, each with the reason; one that does find something does not belong here.
QUIET: dict[str, str] = {}


async def finds(ground: Ground, expression: str) -> bool:
    """Whether there is an answer that is a number: what is divided by nothing shows nobody anything."""
    found = await ground.prometheus.ask(expression)
    return any(not math.isnan(float(one["value"][1])) for one in found)


def text(node: Node) -> str:
    """The expression again, with comparisons kept as 0 or 1 and without what takes away."""
    if isinstance(node, Selector):
        matchers = ",".join(f'{m.label}{m.how}"{m.value}"' for m in node.matchers)
        return f"{node.name}{{{matchers}}}" + (f"[{node.range}]" if node.range else "")
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Subquery):
        return f"({text(node.expression)})[{node.range}:]"
    return _text_of_pair(node) if isinstance(node, Binary) else _text_of_call(node)


def _text_of_call(node: Call | Aggregate) -> str:
    arguments = ", ".join(text(argument) for argument in node.arguments)
    if isinstance(node, Aggregate):
        by = "" if node.by is None else f" by ({', '.join(sorted(node.by))})"
        without = "" if node.without is None else f" without ({', '.join(sorted(node.without))})"
        return f"{node.operation}{by}{without} ({arguments})"
    if node.function == "-":
        return f"-({arguments})"
    if node.function.startswith("absent"):
        # That something is missing is found where it is not missing.
        return " or ".join(text(dataclasses.replace(one, range="")) for one in promql.selectors(node))
    return f"{node.function}({arguments})"


def _text_of_pair(node: Binary) -> str:
    if node.operator == "unless":
        return text(node.left)
    kept = " bool" if node.operator in promql.COMPARISONS else ""
    return f"({text(node.left)}) {node.operator}{kept} {_matching(node)} ({text(node.right)})"


def _matching(node: Binary) -> str:
    matching, words = node.matching, ""
    for word, labels in (("on", matching.on), ("ignoring", matching.ignoring)):
        words += "" if labels is None else f"{word}({', '.join(sorted(labels))}) "
    return words + (f"{matching.group}({', '.join(sorted(matching.included))})" if matching.group else "")


async def faulty(ground: Ground) -> set[str]:
    """Rules that Prometheus itself could not evaluate, or does not have."""
    groups: list[dict[str, Any]] = (await ground.prometheus.get("/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    absent = set() if len(rules) == len(RULES) else {f"{len(rules)} rules of {len(RULES)}"}
    return absent | {f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"}


async def silent(ground: Ground) -> set[str]:
    return {str(rule) for rule in RULES if not await finds(ground, text(rule.node))}


async def missing(ground: Ground) -> set[str]:
    """Series that a rule names and nobody has."""
    asked = {text(Selector(one.name, one.matchers)) for rule in RULES for one in promql.selectors(rule.node)}
    return {one for one in asked if not await ground.prometheus.ask(one)}


async def blank(ground: Ground) -> set[tuple[str, str]]:
    """Panels with a question that is answered with nothing, where that is no matter of how busy the machine is."""
    return {
        (name, asked.panel) for name, dashboard in DASHBOARDS.items()
        for asked in dashboards.queries(dashboard, rate="20s")
        if (name, asked.panel) not in dashboards.VARYING and not await _shows(ground, asked)
    }  # fmt: skip


async def _shows(ground: Ground, asked: Asked) -> bool:
    if asked.kind == "prometheus":
        return await finds(ground, asked.expression)
    async with ground.database() as db:
        rows = await (await db.execute(asked.expression.encode())).fetchall()
    return any(value is not None for row in rows for value in row.values())


async def mark(ground: Ground) -> None:
    """What is marked on the time axis is mostly nothing, but it can be asked for."""
    for dashboard in DASHBOARDS.values():
        for asked in dashboards.annotations(dashboard):
            await ground.prometheus.ask(asked.expression)


async def looked(ground: Ground) -> list[set[Any]]:
    return [await look(ground) for look in (faulty, missing, silent, blank)]


async def test_every_rule_and_every_panel_finds_what_it_asks_for(tmp_path: Path) -> None:
    """One test, because everything has to be started for it: with the rules as they ship."""
    expected: list[set[Any]] = [set(), set(), set(QUIET), set(dashboards.QUIET)]
    async with prepared(tmp_path, Scale(factor=1, pace=10)) as ground:
        admin = Admin(ground)
        await admin.tell_everybody(1.0, 10.0)
        async with mixed(ground, admin):
            began, found = time.monotonic(), await looked(ground)
            while found != expected and time.monotonic() < began + PATIENCE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
                now = await looked(ground)
                # What was there once need not be there at the same time as all the rest; rules work to the end.
                found = [now[0], *(old & new for old, new in zip(found[1:], now[1:], strict=True))]
        await mark(ground)
    odd = [(sorted(more - less), sorted(less - more)) for more, less in zip(found, expected, strict=True)]
    assert odd == [([], [])] * len(expected)
