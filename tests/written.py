"""What a run of the service writes, by place, and which of its secrets stands in it."""

import base64
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from redis.asyncio import Redis


def password() -> str:
    """One that the rules of passwords take."""
    return f"Aa1!{secrets.token_urlsafe(18)}"


@dataclass
class Run:
    """The secrets by name, and what the run left behind, by place."""

    secrets: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def make(self, name: str) -> str:
        return self.secrets.setdefault(name, password())

    def found(self) -> list[str]:
        """Which secret stands where, with what is around it."""
        forms = {name: list(_forms(text)) for name, text in self.secrets.items()}
        return [
            f"{name} in {place}: {text[max(0, at - 60) : at]}<HERE>"
            for place, text in self.written.items()
            for name, known in forms.items()
            for form in known
            if (at := text.find(form)) >= 0
        ]


def _forms(secret: str) -> Iterator[str]:
    """As text, in an address, in JSON, as the bytes of a column, and in base64 wherever that begins."""
    raw = secret.encode()
    yield from {secret, quote(secret, safe=""), secret.replace("/", "\\/"), raw.hex()}
    for skip in range(3):
        encoded = base64.b64encode(b"\0" * skip + raw).decode()
        yield encoded[4 * (skip > 0) : len(encoded) // 4 * 4 - 4]


def shown_of_processes(parent: int) -> str:
    """What anybody sees of the processes, and the environment of those that the service started."""
    shown = []
    for pid in [parent, *descendants(parent)]:
        with contextlib.suppress(OSError):
            shown.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
            if pid != parent:
                shown.append(Path(f"/proc/{pid}/environ").read_text(errors="replace"))
    return "\n".join(shown)


def descendants(parent: int) -> list[int]:
    """Where the system says so (Linux)."""
    found = []
    for pid in filter(str.isdigit, (path.name for path in Path("/proc").iterdir())):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(pid), *descendants(int(pid))]
    return found


def tables_of(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {f"table {name}": _rows(connection, name) for (name,) in names.fetchall()}


def _rows(connection: "psycopg.Connection[Any]", name: str) -> str:
    return "\n".join(row for (row,) in connection.execute(f'SELECT t::text FROM "{name}" t'.encode()))


async def keys_of(url: str, word: str) -> dict[str, str]:
    """Every key of Redis with what it holds."""
    found = {}
    async with Redis.from_url(url, password=word) as client:
        reads: dict[bytes | str, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        async for key in client.scan_iter(count=1000):
            found[f"redis {key.decode()}"] = key.decode() + repr(await reads[await client.type(key)](key))
    return found


def files_in(folder: Path) -> dict[str, str]:
    """All but data/secrets, which is there for them."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "secrets" not in path.parts]
    return {f"file {path.relative_to(folder)}": path.read_bytes().decode("latin-1") for path in paths}
