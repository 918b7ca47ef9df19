"""The dashboards' files as Grafana reads them: their panels, and what these ask once variables are filled in.

`queries` is for whoever executes them; `QUIET` are the panels that show nothing while all is well and `VARYING` those
that show something now and then, each with the reason, so that any other one that comes back empty is a fault.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.instance import ROOT

FOLDER = ROOT / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}
# Dashboard and title of the panel.
QUIET = {
    ("analytics", "Popular videos"): "a video counts when its week is over and three users have asked for it",
    ("analytics", "Popular uploaders"): "as the videos",
}
VARYING = {
    ("analytics", "Waiting longest"): "nobody waits while there are slots, which on a busy machine there are not"
}
KINDS = {"prometheus": "prometheus", "grafana-postgresql-datasource": "postgres"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Asked(NamedTuple):
    """One question of a panel, ready to be sent; `kind` is that of the data source."""

    panel: str
    kind: str
    expression: str


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that ask something: all but the headings of rows, also where a row is folded."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or []
        else:
            yield panel


def queries(dashboard: dict[str, Any], *, rate: str = "1m", window: str = "10m") -> list[Asked]:
    """`rate` is what `$__rate_interval` stands for, four scrapes at least; `window` how far back the page looks."""
    return [
        Asked(panel["title"], kind, filled(target, kind, rate, window))
        for panel in panels(dashboard)
        for target in panel["targets"]
        for kind in (KINDS[target["datasource"]["type"]],)
    ]


def annotations(dashboard: dict[str, Any]) -> list[Asked]:
    """What is marked on the time axis; most of the time that is nothing."""
    return [Asked(one["name"], "prometheus", prom(one["expr"])) for one in dashboard["annotations"]["list"]]


def filled(target: dict[str, Any], kind: str, rate: str, window: str) -> str:
    return prom(target["expr"], rate, window) if kind == "prometheus" else sql(target["rawSql"], window)


def prom(expression: str, rate: str = "1m", window: str = "10m") -> str:
    """As Grafana fills it in with all jobs and instances chosen."""
    values = {"__rate_interval": rate, "__range": window, "__interval": "15s", "job": ".+", "instance": ".+"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


def sql(statement: str, window: str = "10m", until: datetime | None = None) -> str:
    """With the macros written out as Grafana's data source writes them."""
    end = until or datetime.now(UTC)
    begin = end - timedelta(seconds=_seconds(window))
    times = {"From": _quoted(begin), "To": _quoted(end)}
    text = re.sub(r"\$__time(From|To)\(\)", lambda found: times[found[1]], statement)
    text = re.sub(r"\$__timeFilter\(([^)]+)\)", rf"\1 BETWEEN {times['From']} AND {times['To']}", text)
    text = re.sub(r"\$__timeGroup(Alias)?\(([^,]+),\s*'(\w+|\$__interval)'\)", _group, text)
    assert "$" not in text, text
    return text


def _group(found: re.Match[str]) -> str:
    width = 15 if found[3] == "$__interval" else _seconds(found[3])
    return f"floor(extract(epoch from {found[2]})/{width})*{width}" + (' AS "time"' if found[1] else "")


def _quoted(moment: datetime) -> str:
    return f"'{moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}'"


def _seconds(text: str) -> int:
    return int(text[:-1]) * SECONDS[text[-1]]
