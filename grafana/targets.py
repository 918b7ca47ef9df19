"""What panels ask: PromQL that is narrowed to the chosen job and instance, and SQL for the read-only views.

`Prom` adds the two matchers itself, so that none can be forgotten. What a rule has added up over instances is narrowed
by job alone. Series of other programs, as Alertmanager's, are asked for as they are written.
"""

import re
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
POSTGRES = common.DataSourceRef(type_val="grafana-postgresql-datasource", uid="${postgres_datasource}")
# A whole name, with the brace that may follow.
OWN = re.compile(r"\b((?:ytdl|process|python)_\w+|up)\b(\{)?")
RECORDED = re.compile(r"\b(ytdl:[\w:]+)(\{)?")
QUOTED = re.compile(r'("[^"]*")')
# Histograms of which the service tells traces; they stand beside lines and cells.
TOLD = re.compile(r"\bytdl_(http_request|downloads|queue_wait)_seconds_bucket\b")
As = Literal["lines", "last", "table", "heatmap"]
FORMATS = {
    "lines": PromQueryFormat.TIME_SERIES,
    "last": PromQueryFormat.TIME_SERIES,
    "table": PromQueryFormat.TABLE,
    "heatmap": PromQueryFormat.HEATMAP,
}


@dataclass(frozen=True)
class Prom:
    """`legend` may name labels as `{{label}}`. What is about the whole window is asked for its end only."""

    expr: str
    legend: str = ""

    @property
    def scoped(self) -> str:
        return "".join(part if part.startswith('"') else _scoped(part) for part in QUOTED.split(self.expr))


def _scoped(text: str) -> str:
    own = OWN.sub(lambda found: _with(found, 'job=~"$job", instance=~"$instance"'), text)
    return RECORDED.sub(lambda found: _with(found, 'job=~"$job"'), own)


def _with(found: re.Match[str], matchers: str) -> str:
    return f"{found[1]}{{{matchers}{', ' if found[2] else '}'}"


@dataclass(frozen=True)
class Sql:
    """A statement with Grafana's macros; with `series` its first column is the time."""

    text: str
    series: bool = False


Target = Prom | Sql


class PostgresQuery(variants.Dataquery):
    """The SDK has no query of this data source."""

    def __init__(self, ref_id: str, sql: Sql) -> None:
        self._ref_id, self._sql = ref_id, sql

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self._ref_id,
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": "time_series" if self._sql.series else "table",
            "rawQuery": True,
            "rawSql": self._sql.text,
        }


class Ready(builder.Builder[variants.Dataquery]):
    """A query as the SDK's panels want it."""

    def __init__(self, query: variants.Dataquery) -> None:
        self._query = query

    def build(self) -> variants.Dataquery:
        return self._query


def ready(targets: tuple[Target, ...], shown: As) -> list[builder.Builder[variants.Dataquery]]:
    return [Ready(_query(chr(ord("A") + n), target, shown)) for n, target in enumerate(targets)]


def _query(ref_id: str, target: Target, shown: As) -> variants.Dataquery:
    if isinstance(target, Sql):
        return PostgresQuery(ref_id, target)
    query = prometheus.Dataquery().ref_id(ref_id).datasource(PROMETHEUS).expr(target.scoped).format(FORMATS[shown])
    query = query.legend_format(target.legend or "__auto")
    if shown in ("lines", "heatmap") and TOLD.search(target.expr):
        query = query.exemplar(True)
    once = shown == "table" or "$__range" in target.expr
    return (query.instant() if once else query.range()).build()


def source(targets: tuple[Target, ...]) -> common.DataSourceRef:
    return POSTGRES if isinstance(targets[0], Sql) else PROMETHEUS
