"""A dashboard's panels as one SVG picture, from what Prometheus answered: near enough to Grafana to see what it shows.

Numbers, lines, bars, tables and heatmaps are drawn; links and tooltips are not. `Answers` has for each panel's number
and query the series over the window, oldest value first.
"""

import math
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

Series = tuple[dict[str, str], list[tuple[float, float]]]
Answers = dict[tuple[int, str], list[Series]]
Panel = dict[str, Any]
COLUMN, LINE, GAP = 58, 38, 8
INK, FAINT, PAPER, CARD = "#d8d9da", "#8e9297", "#111217", "#181b1f"
COLORS = (
    *("#73bf69", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#fade2a"),
    *("#8ab8ff", "#ca95e5", "#96d98d", "#ffb357", "#ff7383", "#37872d"),
)
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "text": INK}
SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def picture(dashboard: dict[str, Any], answers: Answers) -> str:
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]) * LINE + 60
    width = 24 * COLUMN + 2 * GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Inter, Helvetica, Arial, sans-serif">'
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
    )
    body = "".join(_placed(panel, answers) for panel in dashboard["panels"])
    return f"{head}{_text(GAP * 2, 34, dashboard['title'], 20)}{body}</svg>\n"


def _placed(panel: Panel, answers: Answers) -> str:
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP, place["y"] * LINE + 50
    width, height = place["w"] * COLUMN - GAP, place["h"] * LINE - GAP
    if panel["type"] == "row":
        return _text(x + 4, y + 22, panel["title"], 15)
    inside = DRAWN[panel["type"]](panel, list(_series(panel, answers)), width, height)
    card = f'<rect width="{width}" height="{height}" rx="3" fill="{CARD}" stroke="#2c3235"/>'
    return f'<g transform="translate({x},{y})">{card}{_text(10, 20, panel["title"], 12, width - 20)}{inside}</g>'


def _series(panel: Panel, answers: Answers) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for target in panel["targets"]:
        for labels, points in answers.get((panel["id"], target["refId"]), []):
            yield _name(target.get("legendFormat", ""), labels), [p for p in points if math.isfinite(p[1])]


def _name(legend: str, labels: dict[str, str]) -> str:
    if legend in ("", "__auto"):
        return ", ".join(value for name, value in labels.items() if name not in ("__name__", "job")) or "value"
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def _text(x: float, y: float, words: str, size: float, room: float = 0, color: str = INK, anchor: str = "start") -> str:
    """`room` cuts what would be wider, by the usual width of letters."""
    most = int(room / (size * 0.54)) if room else len(words)
    cut = words if len(words) <= most else words[: max(1, most - 1)] + "…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(cut)}</text>'
    )


def shown(value: float, unit: str) -> str:
    """As Grafana would write it, or shorter."""
    if unit in ("bytes", "binBps"):
        power = min(len(SIZES) - 1, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024**power:.3g} {SIZES[power]}" + ("/s" if unit == "binBps" else "")
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        return _duration(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" + {"reqps": " req/s", "ops": "/s"}.get(unit, "")


def _duration(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms")):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds * 1e6:.0f} µs" if seconds else "0 s"


def _color(panel: Panel, value: float, plain: str) -> str:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED[passed[-1]] if len(steps) > 1 else plain


def _number(panel: Panel, series: list[tuple[str, list[tuple[float, float]]]], width: float, height: float) -> str:
    if not series or not series[0][1]:
        return _text(width / 2, height / 2 + 14, "No data", 16, color=FAINT, anchor="middle")
    points, defaults = series[0][1], panel["fieldConfig"]["defaults"]
    value = points[-1][1]
    words = {k: v for mapping in defaults.get("mappings", []) for k, v in mapping["options"].items()}
    said = words.get(f"{value:g}")
    color = NAMED[said["color"]] if said else _color(panel, value, INK)
    spark = "" if said else _path(points, (0, height - 40, width, 36), _bounds([points], panel), color, fill=0.15)
    return spark + _text(width / 2, height / 2 + 22, said["text"] if said else shown(value, defaults["unit"]), 34,
        color=color, anchor="middle")  # fmt: skip


def _bounds(lines: list[list[tuple[float, float]]], panel: Panel) -> tuple[float, float, float, float]:
    defaults = panel["fieldConfig"]["defaults"]
    times, values = [t for line in lines for t, _ in line] or [0.0], [v for line in lines for _, v in line] or [0.0]
    low = min([*values, *([defaults["min"]] if "min" in defaults else [])])
    high = max([*values, *([defaults["max"]] if "max" in defaults else [])])
    return min(times), max(times), low, high if high > low else low + 1


Box = tuple[float, float, float, float]


def _path(points: list[tuple[float, float]], box: Box, bounds: Box, color: str, fill: float = 0.08) -> str:
    (x, y, width, height), (first, last, low, high) = box, bounds
    across = width / ((last - first) or 1)
    marks = [(x + (t - first) * across, y + height - (v - low) / (high - low) * height) for t, v in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in marks)
    if not marks:
        return ""
    area = f"{marks[0][0]:.1f},{y + height:.1f} {line} {marks[-1][0]:.1f},{y + height:.1f}"
    return (
        f'<polygon points="{area}" fill="{color}" fill-opacity="{fill}"/>'
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.4"/>'
    )


def _lines(panel: Panel, series: list[tuple[str, list[tuple[float, float]]]], width: float, height: float) -> str:
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    drawn = _stacked([points for _, points in series]) if stacked else [points for _, points in series]
    bounds, box = _bounds(drawn, panel), (66, 34, width - 80, height - 84)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    parts = [_axis(box, bounds, unit), _goals(panel, box, bounds)]
    order = range(len(drawn) - 1, -1, -1) if stacked else range(len(drawn))
    parts += [_path(drawn[n], box, bounds, COLORS[n % 12], 0.35 if stacked else 0.08) for n in order]
    return "".join(parts) + _legend([name for name, _ in series], width, height)


def _stacked(lines: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    below: dict[float, float] = {}
    piled = []
    for line in lines:
        below.update({t: below.get(t, 0.0) + v for t, v in line})
        piled.append([(t, below[t]) for t, _ in line])
    return piled


def _axis(box: Box, bounds: Box, unit: str) -> str:
    x, y, width, height = box
    parts = []
    for part in (0, 0.5, 1):
        level, value = y + height * (1 - part), bounds[2] + (bounds[3] - bounds[2]) * part
        parts.append(f'<line x1="{x}" x2="{x + width}" y1="{level:.1f}" y2="{level:.1f}" stroke="#2c3235"/>')
        parts.append(_text(x - 6, level + 4, shown(value, unit), 10, color=FAINT, anchor="end"))
    return "".join(parts)


def _goals(panel: Panel, box: Box, bounds: Box) -> str:
    """Dashed lines where a value turns amber or red, as far as they lie within the picture."""
    x, y, width, height = box
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    inside = [s for s in steps if s["value"] is not None and bounds[2] <= s["value"] <= bounds[3]]
    levels = [(y + height * (1 - (s["value"] - bounds[2]) / (bounds[3] - bounds[2])), s["color"]) for s in inside]
    return "".join(
        f'<line x1="{x}" x2="{x + width}" y1="{level:.1f}" y2="{level:.1f}" stroke="{NAMED[color]}" '
        'stroke-dasharray="6 5" stroke-opacity="0.8"/>'
        for level, color in levels
    )


def _legend(names: list[str], width: float, height: float) -> str:
    parts: list[str] = []
    x, y = 14.0, height - 26
    for n, name in enumerate(names):
        needed = 26 + len(name) * 5.8
        if x + needed > width:
            x, y = 14.0, y + 14
        if y > height - 8:
            return "".join(
                [*parts[:-1], _text(width - 14, height - 12, f"and {len(names) - n + 1} more", 10, 0, FAINT, "end")]
            )
        parts.append(
            f'<rect x="{x}" y="{y - 3}" width="12" height="3" fill="{COLORS[n % 12]}"/>{_text(x + 16, y + 2, name, 10)}'
        )
        x += needed
    return "".join(parts)


def _bars(panel: Panel, series: list[tuple[str, list[tuple[float, float]]]], width: float, height: float) -> str:
    ends = [(name, points[-1][1]) for name, points in series if points][:12]
    most = max([abs(value) for _, value in ends] or [1]) or 1
    room, parts = (height - 40) / max(1, len(ends)), []
    for n, (name, value) in enumerate(ends):
        y, color = 34 + n * room, _color(panel, value, COLORS[0])
        long = max(2.0, (width - 230) * abs(value) / most)
        parts.append(_text(130, y + room * 0.6, name, 11, 125, anchor="end"))
        parts.append(
            f'<rect x="138" y="{y + 2:.1f}" width="{long:.1f}" height="{max(3.0, room - 6):.1f}" '
            f'fill="{color}" fill-opacity="0.7"/>'
        )
        parts.append(
            _text(
                width - 10,
                y + room * 0.6,
                shown(value, panel["fieldConfig"]["defaults"]["unit"]),
                11,
                color=color,
                anchor="end",
            )
        )
    return "".join(parts)


def _table(panel: Panel, series: list[tuple[str, list[tuple[float, float]]]], width: float, height: float) -> str:
    rows: dict[str, list[float]] = {}
    for name, points in series:
        rows.setdefault(name, []).extend(value for _, value in points[-1:])
    units = [
        p["value"] for o in panel["fieldConfig"].get("overrides") or [] for p in o["properties"] if p["id"] == "unit"
    ]
    parts = []
    for n, (name, values) in enumerate(list(rows.items())[: int((height - 40) / 18)]):
        parts.append(_text(14, 46 + n * 18, name, 11, width - 100 * len(values) - 20))
        for place, value in enumerate(reversed(values)):
            unit = units[len(values) - 1 - place] if len(units) >= len(values) else "short"
            parts.append(_text(width - 14 - place * 90, 46 + n * 18, shown(value, unit), 11, color=FAINT, anchor="end"))
    return "".join(parts) or _text(width / 2, height / 2, "No data", 14, color=FAINT, anchor="middle")


def _heatmap(panel: Panel, series: list[tuple[str, list[tuple[float, float]]]], width: float, height: float) -> str:
    """Each bucket without those below it; the darker the fewer."""
    buckets = sorted(((float(name), dict(points)) for name, points in series), key=lambda bucket: bucket[0])
    times = sorted({t for _, points in buckets for t in points})
    cells = [
        (n, t, points.get(t, 0) - (buckets[n - 1][1].get(t, 0) if n else 0))
        for n, (_, points) in enumerate(buckets)
        for t in times
    ]
    most = max([count for _, _, count in cells] or [1]) or 1
    across, up = (width - 80) / max(1, len(times)), (height - 50) / max(1, len(buckets))
    parts = [
        _text(60, height - 14 - n * up, "∞" if math.isinf(top) else shown(top, "s"), 9, color=FAINT, anchor="end")
        for n, (top, _) in enumerate(buckets)
    ]
    for n, t, count in cells:
        if count > 0:
            x, y = 66 + times.index(t) * across, height - 16 - (n + 1) * up
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{across:.1f}" height="{up - 1:.1f}" '
                f'fill="#ff9830" fill-opacity="{0.15 + 0.85 * count / most:.2f}"/>'
            )
    return "".join(parts)


DRAWN: dict[str, Callable[[Panel, list[tuple[str, list[tuple[float, float]]]], float, float], str]] = {
    "stat": _number, "timeseries": _lines, "bargauge": _bars, "table": _table, "heatmap": _heatmap,
}  # fmt: skip
