"""How the YouTube stand-in misbehaves: faults that tests switch on and off at run time.

Owns which fault is in force for a request and how often it still is. What a fault does on the wire is written
where the answer is: `youtube_origin` for pages and the API, `youtube_stream` for media.
"""

import threading
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Place = Literal["page", "player", "media"]
Change = Literal["", "etag", "bytes", "length", "short", "file"]
CHANGES = ("", "etag", "bytes", "length", "short", "file")
CHOICES = {
    "media_change": CHANGES,
    "media_validators": ("", "modified", "none"),  # instead of both
    "media_ignores": ("", "if_range", "range"),
    "player_locked": ("", "age_restricted", "bot_check", "login_required", "members_only", "private"),
}


@dataclass(frozen=True)
class Fault:
    """One misbehaviour. Zero, empty and False mean "as usual"; it touches the places whose fields it sets.

    Sizes are bytes of one answer's body, times are seconds, rates are bytes a second of one connection. A drip is a
    byte now and then. A bomb is a small packed body that is large when unpacked: megabytes in `player_bomb`, no end
    in `media_bomb`. Without sizes the player says nothing of any file's length. `player_mime` takes
    the place of mp4 and webm in the media types that it names. A locked video is refused, as the word
    says, to all but the account whose cookie SID is `player_account`; to that too if it is `player_closed`.
    """

    video: str = "*"
    itag: int = 0
    skip: int = 0
    times: int = 0
    page_status: int = 0
    page_delay: float = 0.0
    page_moved: str = ""
    page_cookie: str = ""
    player_status: int = 0
    player_garbage: bool = False
    player_delay: float = 0.0
    player_sizeless: bool = False
    player_mime: str = ""
    player_bomb: int = 0
    player_locked: str = ""
    player_account: str = ""
    player_closed: bool = False
    retry_after: int = 0
    media_status: int = 0
    media_moved: str = ""
    media_delay: float = 0.0
    media_stall_after: int = 0
    media_cut_after: int = 0
    media_length_off: int = 0
    media_endless: bool = False
    media_change: Change = ""
    media_validators: str = ""
    media_ignores: str = ""
    media_drip_after: int = 0
    media_bomb: bool = False
    media_throttle: int = 0

    def touches(self, place: Place) -> bool:
        return any(getattr(self, each.name) for each in fields(self) if each.name.startswith(place + "_"))

    def fits(self, video: str, itag: int) -> bool:
        return self.video in ("*", video) and self.itag in (0, itag)


NO_FAULT = Fault()


def parse_fault(values: dict[str, Any]) -> Fault:
    """A fault from untyped values. Raises `ValueError` that names an unknown field or a wrong value."""
    kinds = {each.name: type(each.default) for each in fields(Fault)}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"no such field: {name}; known are {', '.join(kinds)}")
        if type(value) is not kinds[name] and not (kinds[name] is float and type(value) is int):
            raise ValueError(f"{name} must be {kinds[name].__name__}, not {value!r}")
    fault = Fault(**values)
    for name, choices in CHOICES.items():
        if getattr(fault, name) not in choices:
            raise ValueError(f"{name} must be one of {choices}")
    return fault


@dataclass
class _Active:
    fault: Fault
    seen: int = 0

    def applies(self) -> bool:
        over = self.fault.times and self.seen >= self.fault.skip + self.fault.times
        return self.seen >= self.fault.skip and not over


class Faults:
    """The faults in force. Safe to use from any thread."""

    def __init__(self) -> None:
        self._active: list[_Active] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._active.append(_Active(fault))

    def clear(self) -> None:
        with self._lock:
            self._active.clear()

    def list_(self) -> list[dict[str, Any]]:
        """Each fault's set fields and how many requests it has met."""
        with self._lock:
            return [{**_set_fields(each.fault), "seen": each.seen} for each in self._active]

    def take(self, place: Place, video: str, itag: int = 0) -> Fault:
        """What holds for one request, all fitting faults in one; later ones win. Counts the request."""
        with self._lock:
            return self._merge(place, video, itag, count=True)

    def peek(self, place: Place, video: str, itag: int = 0) -> Fault:
        with self._lock:
            return self._merge(place, video, itag, count=False)

    def _merge(self, place: Place, video: str, itag: int, *, count: bool) -> Fault:
        merged = NO_FAULT
        for each in self._active:
            if each.fault.touches(place) and each.fault.fits(video, itag):
                if each.applies():
                    merged = replace(merged, **_set_fields(each.fault))
                each.seen += count
        return merged


def _set_fields(fault: Fault) -> dict[str, Any]:
    pairs = ((each.name, getattr(fault, each.name)) for each in fields(Fault))
    return {name: value for name, value in pairs if value != getattr(NO_FAULT, name)}
