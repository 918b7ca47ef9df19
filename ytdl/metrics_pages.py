"""The catalogue of metrics for people to read: a part of docs/MONITORING.md, made from the declarations.

A test keeps what stands there between two marks equal to what is made here.
"""

from collections.abc import Iterator

from ytdl import metrics
from ytdl.metrics import Declared

BEGIN, END = "<!-- Made by `ytdl metrics`; edit ytdl/metrics.py. -->", "<!-- End of what is made. -->"
# A label's values are listed up to here; of more the number is told.
MOST_VALUES = 9
LIBRARY = "process"
HEAD = ("| name | type | labels | unit | what it says |", "| --- | --- | --- | --- | --- |")
TITLES = {
    "http": "HTTP", "auth": "Signing in", "ratelimit": "Rate limits", "access": "Access", "vault": "Kept secrets",
    "worker": "Worker and background loops", "egress": "Ways out", "db": "PostgreSQL", "kv": "Redis",
    "system": "Machine", "instance": "This instance", "loop": "Event loop", "events": "Words between processes",
    LIBRARY: "Process, Python, garbage collection",
}  # fmt: skip
UNITS = {"timestamp_seconds": "seconds since 1970", "seconds": "seconds", "bytes": "bytes", "ratio": "0 to 1"}


def markdown() -> str:
    """The catalogue in sections by feature, in the order of the declarations, with the library's own at the end."""
    sections: dict[str, list[Declared]] = {}
    for declared in [*metrics.CATALOGUE, *_of_the_library()]:
        feature = declared.name.split("_")[1] if declared.name.startswith("ytdl_") else LIBRARY
        sections.setdefault(feature, []).append(declared)
    lines: list[str] = []
    for feature, members in sections.items():
        lines += [f"### {TITLES.get(feature, feature.capitalize())}", "", *HEAD, *map(_row, members), ""]
    return "\n".join(lines)


def into(page: str) -> str:
    """The page with what stands between its marks made anew. Raises `ValueError` where it has not both."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The file has no place for the catalogue: a line {BEGIN} and a later one {END}.")
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def _row(declared: Declared) -> str:
    labels = ", ".join(_label(name, values) for name, values in declared.labels.items())
    return f"| `{declared.name}` | {declared.type} | {labels} | {_unit(declared.name)} | {declared.help} |"


def _label(name: str, values: tuple[str, ...]) -> str:
    if not values:
        return f"`{name}`"
    told = " ".join(values) if len(values) <= MOST_VALUES else f"{len(values)} values"
    return f"`{name}` ({told})"


def _unit(name: str) -> str:
    plain = name.removesuffix("_total")
    return next((unit for end, unit in UNITS.items() if plain.endswith(f"_{end}")), "")


def _of_the_library() -> Iterator[Declared]:
    """What prometheus_client tells of the process by itself."""
    for family in metrics.REGISTRY.collect():
        if not family.name.startswith("ytdl_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
            help = family.documentation.rstrip(".") + "."
            yield Declared(name, family.type, help, dict.fromkeys(labels, ()))
