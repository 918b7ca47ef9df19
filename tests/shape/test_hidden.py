"""Whatever holds a secret keeps it out of its repr, which is what tracebacks and careless log lines show."""

import dataclasses
import importlib
import re

import msgspec
import pytest

from tests.shape.source import modules

SECRET = re.compile(
    r"password(_hash)?|(\w+_)?(secret|token|password)|ticket|key|proxy|extractor_args|value|database_url"
)
# A route's `ticket` says whether one is taken, and a setting's name, a header's value, a label's or a metric's is none.
NO_SECRETS = {"ytdl.api.http.Route", "ytdl.events.Word", "ytdl.api.http.Answer", "ytdl.alertmanager.Matcher"}
NO_SECRETS |= {"ytdl.prometheus._Raw", "ytdl.readings.Reading"}


def _types() -> dict[str, type]:
    loaded = [importlib.import_module(name) for name in modules() if not name.endswith("__main__")]
    own = [
        t for module in loaded for t in vars(module).values() if isinstance(t, type) and t.__module__ == module.__name__
    ]
    return {f"{t.__module__}.{t.__name__}": t for t in own}


def _fields(t: type) -> list[str]:
    if issubclass(t, msgspec.Struct):
        return list(t.__struct_fields__)
    return [f.name for f in dataclasses.fields(t) if f.init] if dataclasses.is_dataclass(t) else []


HOLDING = {name: t for name, t in _types().items() if any(map(SECRET.fullmatch, _fields(t)))}


def test_the_types_with_secrets_are_found() -> None:
    assert {"ytdl.auth.Credentials", "ytdl.auth.Tokens", "ytdl.config.Config", "ytdl.child.frames.Order"} <= set(
        HOLDING
    )


@pytest.mark.parametrize("name", sorted(set(HOLDING) - NO_SECRETS))
def test_no_repr_shows_a_secret(name: str) -> None:
    filled = {field: f"hush-{field}" if SECRET.fullmatch(field) else None for field in _fields(HOLDING[name])}
    assert "hush" not in repr(HOLDING[name](**filled))
