"""Minutes into seconds: copies of the rules in which every duration is shorter.

A duration is divided by a factor, and is then neither longer nor shorter than the bounds of `Scale`. Scrapes,
evaluations and the service's own sampling come faster too. Thresholds stay what they are; those that are seconds are
in `SECONDS_IN` and are treated as durations. Alertmanager's waits need nothing of this: an admin sets them.
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
# A scrape may take no longer than the time to the next one: a second is little enough where others work, too.
FASTEST = 15.0
# Ranges, subqueries and offsets; text in quotes is left alone.
IN_EXPRESSION = re.compile(rf'"[^"]*"|(?<=\[){DURATION}|(?<=:){DURATION}(?=\])|(?<=offset ){DURATION}')
# Alerts whose expression compares an age in seconds, or counts up a rate over so many, and the numbers that are.
BUDGETS = ("Availability", "Latency", "Freshness", "Success", "Notifications")
SECONDS_IN: Mapping[str, tuple[str, ...]] = {
    "LongTransaction": ("1800",),
    "NoWorkers": ("60",),
    "OldestJobTooOld": ("900",),
    "QueueStalled": ("60",),
    "WorkersSaturated": ("60",),
    "LoopFailing": ("300",),
    "MetricsStale": ("300",),
    "WarningUnacknowledged": ("1800",),
} | {f"{budget}BudgetBurn": ("60",) for budget in BUDGETS}


def seconds_of(duration: str) -> float:
    """What Prometheus means by `1h30m`."""
    return sum(int(count) * SECONDS[unit] for count, unit in PART.findall(duration))


def text_of(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


@dataclass(frozen=True)
class Scale:
    """How much shorter the times of rules are, the bounds of a window in seconds, and how much faster scrapes and
    evaluations come: as much, up to `FASTEST`, unless said otherwise."""

    factor: float = 30.0
    shortest: float = 3.0
    longest: float = 60.0
    pace: float = 0.0

    @property
    def faster(self) -> float:
        return self.pace or min(self.factor, FASTEST)

    def seconds(self, usual: float) -> float:
        """Between two scrapes or evaluations."""
        return usual / self.faster

    def window(self, duration: str) -> str:
        if self.factor == 1:
            return duration
        return text_of(max(self.shortest, self.bounded(seconds_of(duration))))

    def wait(self, duration: str) -> str:
        """Like a window, but it may be as short as it comes: nothing is counted in it."""
        return duration if self.factor == 1 else text_of(self.bounded(seconds_of(duration)))

    def bounded(self, seconds: float) -> float:
        return min(self.longest, seconds / self.factor)

    def said(self) -> str:
        if self.factor == 1:
            return "Times are those of the rules as they ship."
        return (
            f"Times are scaled: windows, `for` and Alertmanager's waits are {self.factor:g} times shorter, windows no "
            f"shorter than {self.shortest:g} s and nothing longer than {self.longest:g} s. Scrapes, evaluations and "
            f"the service's own figures come {self.faster:g} times as often."
        )


def rules(groups: Any, scale: Scale) -> Any:
    """The content of a file of rules, faster."""
    return {"groups": [_group(group, scale) for group in groups["groups"]]}


def _group(group: dict[str, Any], scale: Scale) -> dict[str, Any]:
    timed = {"interval": text_of(scale.seconds(seconds_of(group["interval"])))} if "interval" in group else {}
    return group | timed | {"rules": [_rule(rule, scale) for rule in group["rules"]]}


def _rule(rule: dict[str, Any], scale: Scale) -> dict[str, Any]:
    timed = {name: scale.wait(str(rule[name])) for name in ("for", "keep_firing_for") if name in rule}
    return rule | timed | {"expr": _expression(rule["expr"], SECONDS_IN.get(rule.get("alert", ""), ()), scale)}


def _expression(text: str, seconds: tuple[str, ...], scale: Scale) -> str:
    text = IN_EXPRESSION.sub(lambda found: _unless_quoted(found[0], scale.window), str(text))
    for number in seconds:
        text = re.sub(rf"(?<![\w.]){number}(?![\w.])", f"{scale.bounded(float(number)):g}", text)
    return text


def _unless_quoted(text: str, change: Callable[[str], str]) -> str:
    return text if text.startswith('"') else change(text)


def copy_rules(source: Path, folder: Path, scale: Scale) -> list[Path]:
    """Writes every file of rules anew into that folder; where they are now."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for file in sorted(source.glob("*.yml")):
        text = yaml.safe_dump(rules(yaml.safe_load(file.read_text()), scale), sort_keys=False, width=1000)
        made.append(folder / file.name)
        made[-1].write_text(text)
    return made
