"""The kinds of panels, each made in one way: `lines`, `number`, `bars`, `table`, `heatmap`.

Every panel says what it shows, what is normal and what to do otherwise. `bad` are the values from which it turns amber
and red, or red alone where there is one; `low` turns that round. `runbook` names sections as `file#Alert`, `see` the
dashboard that has more. Widths are of 24 columns; on a telephone Grafana puts panels below each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, stat, table, timeseries
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as grid

from grafana.targets import Prom, Sql, Target, ready, source

__all__ = ["Prom", "Sql", "bars", "heatmap_of", "lines", "number", "table_of"]

Panel = builder.Builder[grid.Panel]
Kind = TypeVar("Kind", timeseries.Panel, stat.Panel, bargauge.Panel, table.Panel, heatmap.Panel)
FULL, HALF, THIRD, QUARTER = 24, 12, 8, 6
TALL, FLAT = 8, 4
CARRIED = "${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"


@dataclass(frozen=True)
class Words:
    """The description of a panel."""

    shows: str
    normal: str
    otherwise: str

    def __str__(self) -> str:
        return f"{self.shows}\n\n**Normal:** {self.normal}\n\n**Otherwise:** {self.otherwise}"


def link(title: str, url: str) -> builder.Builder[grid.DashboardLink]:
    return dashboard.DashboardLink(title).type(grid.DashboardLinkType.LINK).url(url).target_blank(True)


def runbook_link(section: str) -> builder.Builder[grid.DashboardLink]:
    file, _, alert = section.partition("#")
    return link(f"Runbook: {alert}", f"${{runbooks}}/{file}.md#{alert.lower()}")


def dashboard_link(name: str) -> builder.Builder[grid.DashboardLink]:
    return link(f"More: {name}", f"/d/ytdl-{name}?{CARRIED}")


def _dressed(
    panel: Kind, title: str, words: Words, targets: tuple[Target, ...], runbook: Sequence[str], see: str
) -> Kind:
    links = [*map(runbook_link, runbook), *([dashboard_link(see)] if see else [])]
    return panel.title(title).description(str(words)).datasource(source(targets)).links(links)


def _steps(bad: tuple[float, ...], low: bool) -> dashboard.ThresholdsConfig:
    colors = ["green", *(["orange"] if len(bad) > 1 else []), *(["red"] if bad else [])]
    colors = colors[::-1] if low else colors
    steps = [grid.Threshold(value=value, color=color) for value, color in zip((None, *bad), colors, strict=True)]
    return dashboard.ThresholdsConfig().mode(grid.ThresholdsMode.ABSOLUTE).steps(steps)


def _named(names: Mapping[int, tuple[str, str]]) -> list[grid.ValueMapping]:
    """What numbers stand for: the word that is shown for each, and its color."""
    results = {str(n): grid.ValueMappingResult(text=text, color=color) for n, (text, color) in names.items()}
    return [grid.ValueMap(options=results)] if names else []


def lines(
    title: str, shows: str, normal: str, otherwise: str, *targets: Target, unit: str, width: int = HALF,
    least: float | None = 0, most: float | None = None, bad: tuple[float, ...] = (), low: bool = False,
    stacked: bool = False, runbook: Sequence[str] = (), see: str = "",
) -> Panel:  # fmt: skip
    """Lines over time."""
    panel = _dressed(timeseries.Panel(), title, Words(shows, normal, otherwise), targets, runbook, see)
    panel = panel.targets(ready(targets, "lines")).unit(unit).span(width).height(TALL).thresholds(_steps(bad, low))
    panel = panel.fill_opacity(20 if stacked else 8).line_width(1).show_points(models.VisibilityMode.AUTO)
    panel = panel.tooltip(_all_at_once()).legend(_legend())
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL).group("A"))
    if bad:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(models.GraphThresholdsStyleMode.DASHED))
    return _bounded(panel, least, most)


def _all_at_once() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI).sort(models.SortOrder.DESCENDING)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).display_mode(models.LegendDisplayMode.LIST)
    return legend.placement(models.LegendPlacement.BOTTOM)


def _bounded(panel: Kind, least: float | None, most: float | None) -> Kind:
    if least is not None:
        panel = panel.min(least)
    return panel if most is None else panel.max(most)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def number(
    title: str, shows: str, normal: str, otherwise: str, *targets: Target, unit: str, width: int = QUARTER,
    least: float | None = None, most: float | None = None, bad: tuple[float, ...] = (), low: bool = False,
    names: Mapping[int, tuple[str, str]] | None = None, runbook: Sequence[str] = (), see: str = "",
) -> Panel:  # fmt: skip
    """The last value, large, with its course behind it. With `names`, the words that numbers stand for."""
    panel = _dressed(stat.Panel(), title, Words(shows, normal, otherwise), targets, runbook, see)
    panel = panel.targets(ready(targets, "last")).unit(unit).span(width).height(FLAT).thresholds(_steps(bad, low))
    plain = not bad and not names
    panel = panel.color_mode(models.BigValueColorMode.NONE if plain else models.BigValueColorMode.VALUE)
    panel = panel.graph_mode(models.BigValueGraphMode.NONE if names else models.BigValueGraphMode.AREA)
    panel = panel.reduce_options(_last()).mappings(_named(names or {}))
    return _bounded(panel, least, most)


def bars(
    title: str, shows: str, normal: str, otherwise: str, *targets: Target, unit: str, width: int = HALF,
    height: int = TALL, least: float | None = 0, most: float | None = None, bad: tuple[float, ...] = (),
    low: bool = False, runbook: Sequence[str] = (), see: str = "",
) -> Panel:  # fmt: skip
    """A bar for each last value; of a statement, a bar for each row."""
    panel = _dressed(bargauge.Panel(), title, Words(shows, normal, otherwise), targets, runbook, see)
    panel = panel.targets(ready(targets, "last")).unit(unit).span(width).height(height).thresholds(_steps(bad, low))
    panel = panel.orientation(models.VizOrientation.HORIZONTAL).display_mode(models.BarGaugeDisplayMode.BASIC)
    values = isinstance(targets[0], Sql)
    panel = panel.reduce_options(common.ReduceDataOptions().values(True) if values else _last())
    return _bounded(panel, least, most)


def table_of(
    title: str, shows: str, normal: str, otherwise: str, *targets: Target, width: int = HALF, height: int = TALL,
    units: dict[str, str] | None = None, columns: dict[str, str] | None = None, unit: str = "short",
    links: dict[str, tuple[str, str]] | None = None, runbook: Sequence[str] = (), see: str = "",
) -> Panel:  # fmt: skip
    """A row for each series or row. `columns` are those that are shown, by the names that they get; `units` go by
    these names, and so do `links`, title and address each."""
    panel = _dressed(table.Panel(), title, Words(shows, normal, otherwise), targets, runbook, see)
    panel = panel.targets(ready(targets, "table")).unit(unit).span(width).height(height)
    for step in _columns(columns or {}, len(targets)):
        panel = panel.with_transformation(step)
    for name, of in (units or {}).items():
        panel = panel.override_by_name(name, [grid.DynamicConfigValue(id_val="unit", value=of)])
    for name, (words, url) in (links or {}).items():
        panel = panel.override_by_name(name, [_cell_link(words, url)])
    return panel.filterable(False)


def _columns(columns: dict[str, str], targets: int) -> list[grid.DataTransformerConfig]:
    """Rows of the same labels become one, then columns are chosen, named and put in order."""
    if not columns:
        return []
    chosen: dict[str, Any] = {"include": {"names": list(columns)}}
    order = {name: place for place, name in enumerate(columns)}
    steps: list[tuple[str, dict[str, Any]]] = [("merge", {})] if targets > 1 else []
    steps += [("filterFieldsByName", chosen), ("organize", {"indexByName": order, "renameByName": columns})]
    return [grid.DataTransformerConfig(id_val=name, options=options) for name, options in steps]


def _cell_link(title: str, url: str) -> grid.DynamicConfigValue:
    return grid.DynamicConfigValue(id_val="links", value=[{"title": title, "url": url, "targetBlank": True}])


def heatmap_of(
    title: str, shows: str, normal: str, otherwise: str, *targets: Target, unit: str, width: int = HALF,
    runbook: Sequence[str] = (), see: str = "",
) -> Panel:  # fmt: skip
    """The buckets of a histogram over time."""
    panel = _dressed(heatmap.Panel(), title, Words(shows, normal, otherwise), targets, runbook, see)
    panel = panel.targets(ready(targets, "heatmap")).span(width).height(TALL).calculate(False).unit("short")
    return panel.y_axis(heatmap.YAxisConfig().unit(unit)).hide_legend()
