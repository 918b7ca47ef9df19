"""Minutes into seconds: copies of the rules and of Alertmanager's configuration in which every duration is shorter.

A duration is divided by `FACTOR`, and is then no longer than `LONGEST` and no shorter than `SHORTEST`. Scrapes,
evaluations and the service's own sampling come faster by the same factor, so a window holds as many samples as
before, except that long ones hold fewer. Thresholds stay what they are; those that are an age in seconds are in
`AGES` and are divided too.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
PART = re.compile(r"(\d+)(ms|[smhdwy])")
DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
# Ranges, subqueries and offsets; text in quotes is left alone.
IN_EXPRESSION = re.compile(rf'"[^"]*"|(?<=\[){DURATION}|(?<=:){DURATION}(?=\])|(?<=offset ){DURATION}')
# Alerts whose expression compares an age in seconds, and the number that is.
AGES: Mapping[str, tuple[str, ...]] = {
    "LongTransaction": ("1800",),
    "NoWorkers": ("60",),
    "OldestJobTooOld": ("900",),
    "QueueStalled": ("60",),
    "WorkersSaturated": ("60",),
}


def seconds_of(duration: str) -> float:
    """What Prometheus means by `1h30m`."""
    return sum(int(count) * SECONDS[unit] for count, unit in PART.findall(duration))


def text_of(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


@dataclass(frozen=True)
class Scale:
    """How much shorter the times of rules are, the bounds of a window in seconds, and how much faster scrapes and
    evaluations come; that is the same unless said otherwise."""

    factor: float = 30.0
    shortest: float = 3.0
    longest: float = 60.0
    pace: float = 0.0

    def seconds(self, usual: float) -> float:
        """Between two scrapes or evaluations."""
        return usual / (self.pace or self.factor)

    def window(self, duration: str) -> str:
        if self.factor == 1:
            return duration
        return text_of(min(self.longest, max(self.shortest, seconds_of(duration) / self.factor)))

    def wait(self, duration: str) -> str:
        """Like a window, but it may be as short as it comes: nothing is counted in it."""
        return text_of(min(self.longest, seconds_of(duration) / self.factor))

    def said(self) -> str:
        if self.factor == 1:
            return "Times are those of the rules as they ship."
        return (
            f"Times are scaled: scrapes, evaluations, windows, `for` and Alertmanager's waits are {self.factor:g} "
            f"times shorter, windows no shorter than {self.shortest:g} s and nothing longer than {self.longest:g} s."
        )


def rules(groups: Any, scale: Scale) -> Any:
    """The content of a file of rules, faster."""
    return {"groups": [_group(group, scale) for group in groups["groups"]]}


def _group(group: dict[str, Any], scale: Scale) -> dict[str, Any]:
    timed = {"interval": scale.wait(group["interval"])} if "interval" in group else {}
    return group | timed | {"rules": [_rule(rule, scale) for rule in group["rules"]]}


def _rule(rule: dict[str, Any], scale: Scale) -> dict[str, Any]:
    timed = {name: scale.wait(str(rule[name])) for name in ("for", "keep_firing_for") if name in rule}
    return rule | timed | {"expr": _expression(rule["expr"], AGES.get(rule.get("alert", ""), ()), scale)}


def _expression(text: str, ages: tuple[str, ...], scale: Scale) -> str:
    text = IN_EXPRESSION.sub(lambda found: _unless_quoted(found[0], scale.window), str(text))
    for age in ages:
        text = re.sub(rf"(?<![\w.]){re.escape(age)}(?![\w.])", f"{float(age) / scale.factor:g}", text)
    return text


def _unless_quoted(text: str, change: Callable[[str], str]) -> str:
    return text if text.startswith('"') else change(text)


WAITS = ("group_wait", "group_interval")


def routes(config: Any, scale: Scale) -> Any:
    """Alertmanager's configuration, faster, and heard at any hour, also what is muted at night."""
    if isinstance(config, dict):
        kept = {
            name: value
            for name, value in config.items()
            if name not in ("mute_time_intervals", "active_time_intervals")
        }
        return {name: scale.wait(value) if name in WAITS else routes(value, scale) for name, value in kept.items()}
    return [routes(each, scale) for each in config] if isinstance(config, list) else config


def copy_rules(source: Path, folder: Path, scale: Scale) -> list[Path]:
    """Writes every file of rules anew into that folder; where they are now."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for file in sorted(source.glob("*.yml")):
        text = yaml.safe_dump(rules(yaml.safe_load(file.read_text()), scale), sort_keys=False, width=1000)
        made.append(folder / file.name)
        made[-1].write_text(text)
    return made
