"""The reader of expressions that other tests trust: what it takes apart wrongly they would hold to nothing."""

import pytest

from tests import promql
from tests.promql import Binary, Call, Literal, Matcher, Selector, Subquery, parse


def labels(expression: str) -> set[str] | None:
    """Of the result, where `up` has job and instance, and `x` a label of its own as well."""
    own = {"up": {"job", "instance"}, "x": {"job", "instance", "le"}}
    found = promql.labels_of(parse(expression), lambda selector: frozenset(own[selector.name]))
    return None if found is None else set(found)


def test_operators_bind_as_those_of_prometheus_do() -> None:
    node = parse("a or b and c > 1 + 2 * 3")
    assert isinstance(node, Binary) and (node.operator, node.left) == ("or", Selector("a"))
    assert isinstance(node.right, Binary) and node.right.operator == "and"
    assert isinstance(node.right.right, Binary) and node.right.right.operator == ">"
    assert node.right.right.right == Binary("+", Literal("1"), Binary("*", Literal("2"), Literal("3")))


def test_a_series_is_read_with_matchers_window_and_offset() -> None:
    [found] = promql.selectors(parse('rate(a:b_total{x=~"y|z", u!="v"}[1h30m] offset 5m)'))
    assert found == Selector("a:b_total", (Matcher("x", "=~", "y|z"), Matcher("u", "!=", "v")), "1h30m")
    assert promql.seconds(found.range) == 5400


def test_what_stands_around_a_series_is_known() -> None:
    [(_, above)] = [pair for pair in promql.walk(parse("sum(rate(up[5m])) > 1")) if isinstance(pair[0], Selector)]
    assert isinstance(above[-1], Call) and above[-1].function == "rate"


def test_a_window_over_an_expression_is_none_of_a_series() -> None:
    node = parse("max_over_time((up > 0)[30m:1m])")
    assert isinstance(node, Call) and isinstance(node.arguments[0], Subquery) and node.arguments[0].range == "30m"


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("sum by (job) (x)", {"job"}),
        ("sum without (le) (x)", {"job", "instance"}),
        ("sum(x)", set()),
        ("x and on (job) up", {"job", "instance", "le"}),
        ("x / on (job) up", {"job"}),
        ("x * on (job) group_left () up", {"job", "instance", "le"}),
        ("x / ignoring (le) up", {"job", "instance"}),
        ("x or up", {"job", "instance"}),
        ("1 - x > 3", {"job", "instance", "le"}),
        ("histogram_quantile(0.9, rate(x[5m]))", {"job", "instance"}),
        ('label_replace(up, "new", "$1", "job", "(.*)")', {"job", "instance", "new"}),
        ('absent(up{job="ytdl"})', {"job"}),
        ("vector(1)", set()),
        ("time() - 5", None),
    ],
)
def test_the_labels_of_a_result_are_known(expression: str, left: set[str] | None) -> None:
    assert labels(expression) == left


@pytest.mark.parametrize("expression", ["", "a b", "sum(", "a[5m", "(a + b)[5m]", "a{b=1", "a ? b", "1 +"])
def test_what_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        parse(expression)
