"""What a service and its servers said to each other, read from the bytes that a link carried.

Two things are looked for: which jobs PostgreSQL confirmed to a service when it renewed its leases, and which jobs the
service then named to the index in Redis. That the second follows from the first is a rule about every single beat,
which nothing that is left in the end could show.
"""

import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.chaos.proxy import Direction

# The columns of the statement that renews leases; no other one returns these.
CONFIRMING = [b"id", b"user_id", b"priority", b"cancel"]
_ARGUMENT = re.compile(rb"([*$])(\d+)\r\n")


@dataclass(frozen=True)
class Said:
    """`by` is a service's life; `at` is on the monotonic clock. `done` is a beat that Redis carried out; one that it
    refused, or never answered, is sent again."""

    by: str
    at: float
    kind: Literal["confirmed", "named", "done"]
    jobs: frozenset[int]


Tell = Callable[[Said], None]


class Confirmations:
    """Reads one PostgreSQL connection's answers."""

    def __init__(self, by: str, tell: Tell) -> None:
        self._by, self._tell = by, tell
        self._rest = b""
        self._jobs: set[int] | None = None

    def feed(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 5:
            length: int = struct.unpack_from(">i", self._rest, 1)[0]
            if len(self._rest) <= length:
                return
            kind, body = self._rest[:1], self._rest[5 : length + 1]
            self._rest = self._rest[length + 1 :]
            self._take(kind, body)

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"T":
            self._jobs = set() if _columns(body) == CONFIRMING else None
        elif self._jobs is None:
            return
        elif kind == b"D":
            self._jobs.add(int(_first_value(body)))
        elif kind == b"C":
            self._tell(Said(self._by, time.monotonic(), "confirmed", frozenset(self._jobs)))
            self._jobs = None


def _columns(body: bytes) -> list[bytes]:
    names, at = [], 2
    while at < len(body):
        end = body.index(b"\0", at)
        names.append(body[at:end])
        at = end + 19
    return names


def _first_value(body: bytes) -> bytes:
    """Text or binary, as the statement was asked to answer: a bigint of eight bytes, or its digits."""
    length: int = struct.unpack_from(">i", body, 2)[0]
    value = body[6 : 6 + length]
    return value if value.isdigit() else str(struct.unpack(">q", value)[0]).encode()


class Names:
    """Reads one Redis connection's commands, and whether a beat was carried out."""

    def __init__(self, by: str, tell: Tell) -> None:
        self._by, self._tell = by, tell
        self._rest = b""
        self._asked: frozenset[int] | None = None

    def hear_answer(self, data: bytes) -> None:
        """A number is the answer of a beat that was carried out."""
        if self._asked is not None and data.startswith(b":"):
            self._tell(Said(self._by, time.monotonic(), "done", self._asked))
        self._asked = None

    def feed(self, data: bytes) -> None:
        self._rest += data
        while parsed := _command(self._rest):
            words, used = parsed
            self._rest = self._rest[used:]
            self._asked = None
            # EVALSHA sha 1 prefix beat epoch cap lease (job user score)*
            if len(words) > 7 and words[4] == b"beat":
                self._asked = frozenset(int(job) for job in words[8::3])
                self._tell(Said(self._by, time.monotonic(), "named", self._asked))


def _command(data: bytes) -> tuple[list[bytes], int] | None:
    """The first command and its length; None when it has not all come."""
    head = _ARGUMENT.match(data)
    if not head:
        return None
    words, at = [], head.end()
    for _ in range(int(head[2])):
        part = _ARGUMENT.match(data, at)
        if not part or len(data) < part.end() + int(part[2]) + 2:
            return None
        words.append(data[part.end() : part.end() + int(part[2])])
        at = part.end() + int(part[2]) + 2
    return words, at


class Ear:
    """Listens to all connections of one life of a service, to one of its two servers."""

    def __init__(self, by: Callable[[], str], tell: Tell, kind: Literal["postgres", "redis"]) -> None:
        self._by, self._tell, self._kind = by, tell, kind
        self._open: dict[int, Confirmations | Names] = {}

    def hear(self, number: int, way: Direction, data: bytes) -> None:
        if number not in self._open:
            make = Confirmations if self._kind == "postgres" else Names
            self._open[number] = make(self._by(), self._tell)
        reader = self._open[number]
        if way == ("down" if isinstance(reader, Confirmations) else "up"):
            reader.feed(data)
        elif isinstance(reader, Names):
            reader.hear_answer(data)
