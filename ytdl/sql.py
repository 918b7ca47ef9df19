"""Reads `sql/queries/<feature>.sql` into named queries.

A query is headed `-- name: by_id :maybe` and one line that says what it is. The name is also a label of
metrics, whose series are made here, the log field and the first line of the text sent, so that it shows in
`pg_stat_activity`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ytdl import metrics

ROOT = Path(__file__).parent.parent / "sql"
Kind = Literal["one", "maybe", "many", "value", "exec"]
KINDS: tuple[Kind, ...] = ("one", "maybe", "many", "value", "exec")
_HEAD = re.compile(r"^-- name: (\w+) :(\w+)\n-- (.+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Query:
    """`text` is bytes because psycopg takes bytes, but not an arbitrary `str`, as a query."""

    name: str
    kind: Kind
    description: str
    text: bytes


class Queries:
    """The queries of one feature, as attributes; a typo is an `AttributeError`."""

    def __init__(self, feature: str, queries: dict[str, Query]) -> None:
        self.feature = feature
        self.all = queries

    def __getattr__(self, name: str) -> Query:
        try:
            return self.all[name]
        except KeyError:
            raise AttributeError(f"sql/queries/{self.feature}.sql has no query {name!r}") from None


def load(feature: str) -> Queries:
    """Raises `ValueError` for a header out of form, a kind that is unknown or a name given twice."""
    source = (ROOT / "queries" / f"{feature}.sql").read_text()
    heads = list(_HEAD.finditer(source))
    if len(heads) != source.count("-- name:"):
        raise ValueError(f"sql/queries/{feature}.sql: a query's header needs a name, a kind and a description line")
    queries: dict[str, Query] = {}
    for head, end in zip(heads, [*(h.start() for h in heads[1:]), len(source)], strict=True):
        name, kind, description = head.groups()
        if kind not in KINDS or name in queries:
            raise ValueError(f"sql/queries/{feature}.sql: {name} :{kind} has an unknown kind or stands twice")
        body = source[head.end() : end].strip().rstrip(";")
        text = f"-- {feature}.{name}\n{body}".encode()
        queries[name] = Query(f"{feature}.{name}", cast(Kind, kind), description, text)
    metrics.db_query_seconds.labels(feature)
    for query in queries.values():
        metrics.db_queries.labels(query.name)
        metrics.db_query_busy_seconds.labels(query.name)
    return Queries(feature, queries)
