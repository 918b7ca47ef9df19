"""Whether a value would be accepted, by the very rules that the rest of the service goes by: URLs by `urls`, qualities
and formats by the types of a request, texts by `texts`. Nothing is looked up, nothing is fetched.
"""

import unicodedata
from collections.abc import Callable
from typing import Annotated, Literal, get_args

import msgspec

from ytdl import errors, texts, urls
from ytdl.errors import Fault
from ytdl.hidden import Hidden
from ytdl.record import Format, Quality

Kind = Literal["url", "file_type", "quality", "format", "text"]
TEXT_LENGTH = 1000
# What may be delivered; `any` leaves the choice among these to the service.
FILE_TYPES = tuple(format for format in get_args(Format) if format != "any")


class Question(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`text` is one line of at most 1000 characters."""

    kind: Kind
    value: Annotated[str, msgspec.Meta(max_length=16_384)]


class Verdict(Hidden, msgspec.Struct, frozen=True, kw_only=True):
    """`value` is as the service would take it down: of a URL the canonical one, of a text its composed form. The last
    four are known of a valid URL only."""

    valid: bool
    value: str
    errors: tuple[Fault, ...] = ()
    extractor: str | None = None
    video_id: str | None = None
    playlist_id: str | None = None
    canonical_url: str | None = None


def judge(question: Question) -> Verdict:
    try:
        return _JUDGES[question.kind](question.value)
    except errors.Invalid as e:
        return Verdict(valid=False, value=question.value, errors=e.faults)


def _url(value: str) -> Verdict:
    video = urls.parse(value, field="value")
    return Verdict(valid=True, value=video.canonical_url, **msgspec.structs.asdict(video))


def _file_type(value: str) -> Verdict:
    """An extension, with its dot or without."""
    return _word(value.lower().removeprefix("."), FILE_TYPES)


def _word(value: str, words: tuple[str, ...]) -> Verdict:
    if value not in words:
        raise errors.invalid("value", f"must be one of {', '.join(words)}")
    return Verdict(valid=True, value=value)


def _text(value: str) -> Verdict:
    text = unicodedata.normalize("NFC", value.strip())
    if faults := tuple(Fault("value", message) for message in texts.faults(text, TEXT_LENGTH)):
        return Verdict(valid=False, value=value, errors=faults)
    return Verdict(valid=True, value=text)


_JUDGES: dict[Kind, Callable[[str], Verdict]] = {
    "url": _url,
    "file_type": _file_type,
    "quality": lambda value: _word(value, get_args(Quality)),
    "format": lambda value: _word(value, get_args(Format)),
    "text": _text,
}
