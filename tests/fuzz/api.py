"""schemathesis against a running service: its own document is what the service is held to.

`against(service, role, arguments)` runs it as somebody new in that role. Which checks do not count where, and why,
stands in `schemathesis.toml`; how it signs in and what it finds, in `hooks`.
"""

import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.conftest import PASSWORD, SECRET, Person, Service
from tests.queueing import sql
from tests.servers import Servers
from ytdl import users
from ytdl.api.keys import DB
from ytdl.config import FIELDS, Config

ROOT = Path(__file__).parent.parent.parent
SETTINGS = Path(__file__).parent / "schemathesis.toml"
VIDEO = "https://www.youtube.com/watch?v=jNQXAC9IVRw"
FILE = "1.1.mp4"
LIMITS = [field.name for name, field in FIELDS.items() if name.startswith("RATE_LIMIT_")]
COMPLETE = (
    "UPDATE downloads SET status = 'completed', stage = 'completed', percent = 100, title = 'A film', file_name = %s,"
    " file_bytes = 1000, file_type = 'video/mp4', file_sha256 = %s, finished_at = now() WHERE id = %s"
)


@dataclass(frozen=True)
class Who:
    """Whom schemathesis is; `ids` are of what is theirs, `finished` of what has a file, `kept` of what must stay."""

    url: str
    username: str
    password: str
    ids: list[str]
    finished: list[str]
    kept: list[str]


@dataclass(frozen=True)
class Outcome:
    """`found` is 0 when the service did what its document says; `said` ends with the seed."""

    found: int
    cases: int
    said: str


def settings(servers: Servers, folder: Path) -> Config:
    """An API that asking often does not shut out: every request comes from one address."""
    plenty = 10**7
    limits: dict[str, Any] = dict.fromkeys(LIMITS, plenty)
    return Config(
        port=0, data_dir=folder, database_url=servers.clone(), redis_url=servers.redis_url or "",
        redis_prefix=secrets.token_hex(4), jwt_secret_key=SECRET, admin_password=PASSWORD, download_concurrency=0,
        max_login_attempts=plenty, **limits,
    )  # fmt: skip


async def against(service: Service, role: users.Role, arguments: Sequence[str]) -> Outcome:
    name = f"fuzz-{secrets.token_hex(4)}"
    async with service.person(name, role) as person:
        who = await _furnish(service, person, name)
    said, code = await _run(who, arguments)
    if code not in (0, 1):
        raise RuntimeError(said)
    cases = re.search(r"(\d+) generated", said)
    return Outcome(code, int(cases[1]) if cases else 0, said)


async def _run(who: Who, arguments: Sequence[str]) -> tuple[str, int]:
    hooks = {"FUZZ": json.dumps(asdict(who)), "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS), "run", "--no-color", *arguments,
        f"{who.url}/openapi.json", env=os.environ | hooks, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(), process.returncode or 0


async def _furnish(service: Service, person: Person, name: str) -> Who:
    """A download that waits, one that is finished with its file, and the user themselves."""
    waiting, finished = [
        (await (await person.post("/downloads", {"url": VIDEO, "quality": quality})).json())["id"]
        for quality in ("best", "144p")
    ]
    path = service.config.data_dir / "media" / FILE
    path.write_bytes(secrets.token_bytes(1000))
    await sql(service.app[DB], COMPLETE, FILE, secrets.token_hex(32), finished)
    kept = [finished, str(person.user_id)]
    return Who(service.url, name, PASSWORD, [waiting, *kept], [finished], kept)
