"""PromQL, read into a tree, for tests that look at rules and dashboards.

Knows what this project's expressions are made of, and refuses everything else. What an expression means is for
Prometheus to say; here it is only asked which series it reads, how, and which labels its result has.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
TOKEN = re.compile(
    rf"""\s*(?:(?P<string>"[^"]*"|'[^']*')|(?P<duration>{DURATION})|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?|[+-]?Inf\b|NaN\b)
    |(?P<word>[A-Za-z_][\w:]*)|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^<>=(){{}}\[\],:@])|(?P<end>$))""",
    re.VERBOSE,
)
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
# From the loosest to the tightest.
LEVELS = (("or",), ("and", "unless"), COMPARISONS, ("+", "-"), ("*", "/", "%"), ("^",))
AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "stddev", "topk", "bottomk", "quantile", "count_values"}
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


class Matcher(NamedTuple):
    label: str
    how: str
    value: str


@dataclass(frozen=True)
class Selector:
    """`range` is the text between the brackets, empty where there are none."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    range: str = ""


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class Aggregate:
    """`by` is None where labels are taken away (`without`) or none are left."""

    operation: str
    arguments: tuple["Node", ...]
    by: frozenset[str] | None = None
    without: frozenset[str] | None = None


@dataclass(frozen=True)
class Matching:
    on: frozenset[str] | None = None
    ignoring: frozenset[str] | None = None
    group: str = ""
    included: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Binary:
    operator: str
    left: "Node"
    right: "Node"
    matching: Matching = field(default_factory=Matching)
    bool: bool = False


@dataclass(frozen=True)
class Literal:
    value: str


@dataclass(frozen=True)
class Subquery:
    expression: "Node"
    range: str


Node = Selector | Call | Aggregate | Binary | Literal | Subquery


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan(text))
        self._at = 0

    @staticmethod
    def _scan(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while True:
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise ValueError(f"cannot read {text[at : at + 30]!r}")
            yield found.lastgroup, found[found.lastgroup]
            if found.lastgroup == "end":
                return
            at = found.end()

    def whole(self) -> Node:
        node = self._level(0)
        if self._tokens[self._at][0] != "end":
            raise ValueError(f"cannot read on at {self._tokens[self._at][1]!r} in {self._text!r}")
        return node

    def _next(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, expected: str | None = None) -> str:
        kind, text = self._tokens[self._at]
        if (expected is not None and text != expected) or kind == "end":
            raise ValueError(f"{expected or 'something'} is missing before {text!r} in {self._text!r}")
        self._at += 1
        return text

    def _took(self, text: str) -> bool:
        taken = self._tokens[self._at] in (("word", text), ("sign", text))
        self._at += taken
        return taken

    def _level(self, level: int) -> Node:
        if level == len(LEVELS):
            return self._signed()
        left = self._level(level + 1)
        while self._tokens[self._at][0] in ("word", "sign") and self._next() in LEVELS[level]:
            operator = self._take()
            truth = self._took("bool")
            matching = self._matching()
            left = Binary(operator, left, self._level(level + 1), matching, truth)
        return left

    def _matching(self) -> Matching:
        on = self._labels() if self._took("on") else None
        ignoring = self._labels() if on is None and self._took("ignoring") else None
        for group in ("group_left", "group_right"):
            if self._took(group):
                return Matching(on, ignoring, group, self._labels() if self._next() == "(" else frozenset())
        return Matching(on, ignoring)

    def _labels(self) -> frozenset[str]:
        self._take("(")
        names = set()
        while not self._took(")"):
            names.add(self._take())
            self._took(",")
        return frozenset(names)

    def _signed(self) -> Node:
        if self._took("-"):
            return Call("-", (self._signed(),))
        node = self._ranged(self._atom())
        if self._took("offset"):
            self._took("-")
            self._take()
        return node

    def _ranged(self, node: Node) -> Node:
        if not self._took("["):
            return node
        window = self._take()
        if self._took(":"):
            if self._next() != "]":
                self._take()
            self._take("]")
            return Subquery(node, window)
        self._take("]")
        if not isinstance(node, Selector):
            raise ValueError(f"[{window}] stands after what is no series in {self._text!r}")
        return Selector(node.name, node.matchers, window)

    def _atom(self) -> Node:
        kind, text = self._tokens[self._at]
        if kind in ("number", "duration", "string"):
            return Literal(self._take())
        if self._took("("):
            node = self._level(0)
            self._take(")")
            return node
        name = self._take()
        if kind != "word":
            raise ValueError(f"{text!r} stands where a series or a function should in {self._text!r}")
        if name in AGGREGATIONS and self._next() in ("(", "by", "without"):
            return self._aggregate(name)
        return Call(name, self._arguments()) if self._next() == "(" else Selector(name, self._matchers())

    def _aggregate(self, operation: str) -> Node:
        grouping = self._grouping()
        arguments = self._arguments()
        by, without = grouping if grouping != (None, None) else self._grouping()
        return Aggregate(operation, arguments, by, without)

    def _grouping(self) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        return self._labels() if self._took("by") else None, self._labels() if self._took("without") else None

    def _arguments(self) -> tuple[Node, ...]:
        self._take("(")
        found = []
        while not self._took(")"):
            found.append(self._level(0))
            self._took(",")
        return tuple(found)

    def _matchers(self) -> tuple[Matcher, ...]:
        found: list[Matcher] = []
        while self._next() == "{" or found:
            self._take()
            if self._took("}"):
                break
            found.append(Matcher(self._take(), self._take(), self._take()[1:-1]))
            if self._took("}"):
                break
        return tuple(found)


def parse(expression: str) -> Node:
    """Raises `ValueError` for what is not understood."""
    return _Reader(expression).whole()


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Call | Aggregate):
        return node.arguments
    if isinstance(node, Binary):
        return node.left, node.right
    return (node.expression,) if isinstance(node, Subquery) else ()


def walk(node: Node, above: tuple[Node, ...] = ()) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Every node with what stands around it, the innermost last."""
    yield node, above
    for child in children(node):
        yield from walk(child, (*above, node))


def selectors(node: Node) -> list[Selector]:
    return [found for found, _ in walk(node) if isinstance(found, Selector)]


def seconds(duration: str) -> float:
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def labels_of(node: Node, known: Callable[[Selector], frozenset[str]]) -> frozenset[str] | None:
    """The labels of what an expression results in, None for a plain number; `known` says those of a series."""
    if isinstance(node, Literal):
        return None
    if isinstance(node, Selector):
        return known(node)
    if isinstance(node, Subquery):
        return labels_of(node.expression, known)
    if isinstance(node, Aggregate):
        inner = labels_of(node.arguments[-1], known) or frozenset()
        return inner - node.without if node.without is not None else inner & (node.by or frozenset())
    return _of_call(node, known) if isinstance(node, Call) else _of_pair(node, known)


def _of_call(node: Call, known: Callable[[Selector], frozenset[str]]) -> frozenset[str] | None:
    if node.function in ("absent", "absent_over_time"):
        [selector] = selectors(node)
        return frozenset(matcher.label for matcher in selector.matchers if matcher.how == "=")
    if node.function in ("vector", "time"):
        return frozenset() if node.function == "vector" else None
    found = [labels for argument in node.arguments if (labels := labels_of(argument, known)) is not None]
    labels = found[0] if found else None
    if labels is not None and node.function == "label_replace" and isinstance(node.arguments[1], Literal):
        return labels | {node.arguments[1].value[1:-1]}
    return labels - {"le"} if labels is not None and node.function == "histogram_quantile" else labels


def _of_pair(node: Binary, known: Callable[[Selector], frozenset[str]]) -> frozenset[str] | None:
    left, right = labels_of(node.left, known), labels_of(node.right, known)
    if left is None or right is None:
        return right if left is None else left
    if node.operator in ("and", "unless"):
        return left
    if node.operator == "or":
        return left & right
    matching = node.matching
    if matching.group:
        many = left if matching.group == "group_left" else right
        return many | matching.included
    if matching.on is not None:
        return matching.on
    return left - (matching.ignoring or frozenset())
