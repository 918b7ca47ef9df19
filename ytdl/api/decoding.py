"""Requests into Structs: bodies and query strings, with every fault as a field and a sentence.

What PostgreSQL cannot hold (NUL characters, lone surrogates) is refused here, once for all fields.
"""

import asyncio
import functools
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web

from ytdl import errors, metrics
from ytdl.api import origins

# msgspec tells of half a pair at the very end of a body as if the body were cut off.
_LONE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
# Of a string that is decoded already.
_HALF = re.compile("[\ud800-\udfff]")
# A form is looked through while nobody else is served, and holds a name and a password.
FORM_BYTES = 16 * 1024
# For at most 1 MiB; a client that takes longer only holds a connection.
BODY_SECONDS = 30.0
JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
_AT = " - at `"
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_GOT = re.compile(r"Expected `(.*)`, got `(.*)`")
_LENGTH = re.compile(r"Expected `(str|array|object|bytes)` of length (<=|>=|==) (\d+)")
_LENGTH_WORDS = {"<=": "at most", ">=": "at least", "==": "exactly"}
_KIND_WORDS = {"str": "characters", "array": "items", "object": "members", "bytes": "bytes"}


async def body(request: web.Request, decoder: "msgspec.json.Decoder[Any]", *, form: bool = False) -> Any:
    """The body as the decoder's type; `form` takes an HTML form's encoding as well, by the rules of OAuth 2.

    Raises `Unsupported`, `Malformed`, `Invalid`, and aiohttp's own refusal of what is beyond the application's limit.
    """
    if not request.can_read_body:
        raise errors.Malformed("A JSON body is needed, and there is none.")
    if form and request.content_type == "application/x-www-form-urlencoded":
        origins.check_page(request)
        return _form(await _read(request, FORM_BYTES), decoder.type)
    charset = (request.charset or "utf-8").lower()
    if not JSON_TYPE.fullmatch(request.content_type) or charset not in ("utf-8", "utf8"):
        raise errors.Unsupported("The body must be JSON in UTF-8: send Content-Type: application/json.")
    raw = await _read(request, request.client_max_size)
    value = _reckoned(_decode(raw, decoder))
    if b"\\u0000" in raw:
        _refuse_nul(msgspec.to_builtins(value, str_keys=True))
    return value


async def _read(request: web.Request, limit: int) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=request.content_length)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise errors.Unsupported("The body must come as it is, without a Content-Encoding.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.read()
    except TimeoutError:
        metrics.http_too_slow.labels("body").inc()
        raise errors.Malformed(f"The body did not arrive within {BODY_SECONDS:g} seconds.") from None
    except web.RequestPayloadError:
        raise errors.Malformed("The body broke off, or is not encoded as its headers say.") from None
    if len(raw) > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(raw))
    return raw


def _decode(raw: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as e:
        raise fault(str(e), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        if "surrogate" in str(e) or _LONE.search(raw):
            raise errors.Invalid("A text has half of a surrogate pair, which is no character.") from None
        raise errors.Malformed("The body is not JSON in UTF-8.") from None
    except RecursionError:
        raise errors.Malformed("The body is nested too deeply.") from None


def _form(raw: bytes, type_: Any) -> Any:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise errors.Malformed("The body is not a form in UTF-8.") from None
    return _convert(_parameters(pairs, type_), type_)


def _parameters(pairs: list[tuple[str, str]], type_: Any) -> dict[str, str]:
    """RFC 6749, section 3.2: a parameter without a value was not sent, an unknown one is passed over, and none may
    come twice."""
    names = [name for name, _ in pairs]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise errors.invalid(repeated[:100], "is given more than once")
    known = {field.encode_name for field in msgspec.structs.fields(type_)}
    return {name: value for name, value in pairs if value and name in known}


class Query:
    """Reads the query string of one route; what can be known beforehand is worked out here, once."""

    def __init__(self, type_: type[msgspec.Struct], *, ignore: tuple[str, ...] = ()) -> None:
        self.type = type_
        self.ignore = ignore
        fields = msgspec.inspect.type_info(type_).fields  # type: ignore[attr-defined]
        self.many = frozenset(f.encode_name for f in fields if _takes_many(f.type))
        self.moments = frozenset(field for _, field in _moments(type_))

    def read(self, request: web.Request) -> Any:
        """Raises `Invalid`; a parameter may be repeated only where the field is a list."""
        given = request.query
        values: dict[str, Any] = {}
        for name in set(given).difference(self.ignore):
            all_ = given.getall(name)
            if name not in self.many and len(all_) > 1:
                raise errors.invalid(name[:100], "is given more than once")
            if name in self.moments and not _DATE.match(all_[0]):
                # msgspec would also take a number, as seconds since 1970.
                raise errors.invalid(name, "must be a moment such as 2026-01-31T12:00:00Z")
            values[name] = all_ if name in self.many else all_[0]
        return _convert(values, self.type)


def _takes_many(type_: msgspec.inspect.Type) -> bool:
    if isinstance(type_, msgspec.inspect.UnionType):
        return any(_takes_many(t) for t in type_.types)
    many = msgspec.inspect.ListType | msgspec.inspect.SetType | msgspec.inspect.VarTupleType
    return isinstance(type_, many | msgspec.inspect.FrozenSetType)


def _is_moment(type_: msgspec.inspect.Type) -> bool:
    if isinstance(type_, msgspec.inspect.UnionType):
        return any(_is_moment(t) for t in type_.types)
    return isinstance(type_, msgspec.inspect.DateTimeType)


def _convert(values: dict[str, Any], type_: Any) -> Any:
    _refuse_nul(values)
    try:
        return _reckoned(msgspec.convert(values, type_, strict=False))
    except msgspec.ValidationError as e:
        raise fault(str(e), type_) from None


def _reckoned(value: Any) -> Any:
    """The same. A moment so near to an end of the calendar that it has none in UTC is refused: nobody can reckon with
    it."""
    for name, field in _moments(type(value)):  # type: ignore[arg-type]
        moment = getattr(value, name)
        try:
            if isinstance(moment, datetime):
                moment.astimezone(UTC)
        except OverflowError:
            raise errors.invalid(field, "must be within the years 1 to 9999 of UTC") from None
    return value


@functools.cache
def _moments(type_: type) -> tuple[tuple[str, str], ...]:
    """The attribute and the name of each field that is a moment."""
    if not issubclass(type_, msgspec.Struct):
        return ()
    fields = msgspec.inspect.type_info(type_).fields  # type: ignore[attr-defined]
    return tuple((f.name, f.encode_name) for f in fields if _is_moment(f.type))


def _refuse_nul(value: Any) -> None:
    for path, text in _texts(value, ""):
        if "\0" in text:
            raise errors.invalid(path[:100], "has a NUL character, which cannot be stored")
        if _HALF.search(text):
            raise errors.invalid(path[:100], "has half of a surrogate pair, which is no character")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            inside = f"{path}.{name}" if path else str(name)
            yield inside, str(name)
            yield from _texts(inner, inside)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{i}]")


def fault(message: str, type_: Any = None) -> errors.Invalid:
    """msgspec's sentence, which ends in a path such as `$.a[0].b`, as the field and a sentence of ours.

    `type_` is what was read; where one of a few words was wanted it tells which.
    """
    what, path = _at(message)
    path = path.removeprefix("$").removeprefix(".")
    for pattern, sentence in ((_MISSING, "is missing"), (_UNKNOWN, "is not a known field")):
        if named := pattern.fullmatch(what):
            return errors.invalid(".".join(filter(None, (path, named[1][:100]))), sentence)
    choices = _choices(type_, path) if what.startswith("Invalid enum value") else []
    sentence = f"must be one of {', '.join(choices)}" if choices else _sentence(what)
    return errors.invalid(path[:200] or "body", sentence)


def _at(message: str) -> tuple[str, str]:
    """What is wrong, and the path to it. An unknown name may be as long as a body."""
    what, at, path = message.rpartition(_AT)
    if at and path.endswith("`") and "`" not in path[:-1]:
        return what, path[:-1]
    return message, "$"


def _choices(type_: Any, path: str) -> list[str]:
    """The words that a field at the top of a Struct may have, in a list or not."""
    name = path.partition("[")[0]
    for field in msgspec.inspect.type_info(type_).fields if inspect.isclass(type_) else ():  # type: ignore[attr-defined]
        if field.encode_name == name:
            return _literals(field.type)
    return []


def _literals(type_: msgspec.inspect.Type) -> list[str]:
    if isinstance(type_, msgspec.inspect.LiteralType):
        return [str(value) for value in type_.values]
    inner = getattr(type_, "types", ()) or filter(None, [getattr(type_, "item_type", None)])
    return [value for part in inner for value in _literals(part)]


def _sentence(what: str) -> str:
    if got := _GOT.fullmatch(what):
        return f"must be {got[1]}, not {got[2]}"
    if length := _LENGTH.fullmatch(what):
        return f"must have {_LENGTH_WORDS[length[2]]} {length[3]} {_KIND_WORDS[length[1]]}"
    plain = what.replace("`", "")
    return plain.replace("Expected", "must be", 1) if plain.startswith("Expected") else plain[:1].lower() + plain[1:200]
