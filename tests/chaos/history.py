"""Gathers the evidence when all is over: rows, events, files, the index, the logs, what is left of processes."""

import asyncio
import bisect
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psutil

from tests.chaos.causes import Fault, words_explained
from tests.chaos.checker import Event, History, Rows
from tests.chaos.fleet import Member
from tests.chaos.ground import PREFIX, Ground, read_json_lines
from tests.chaos.ledger import Ledger
from tests.chaos.report import spread
from tests.chaos.wire import Said
from tests.fakes.youtube_media import Cupboard, lengthened
from tests.fakes.youtube_videos import BY_ITAG, find
from tests.instance import FILMS

ENDED_EARLY = "ytdl: Stopped, with nothing running."
JOBS = "SELECT id, subject, state, fence, tries, crashes FROM jobs ORDER BY id"
DOWNLOADS = """
    SELECT d.id, u.username, d.job_id, d.video_id, d.status, d.quality, d.format, d.file_name, d.file_bytes,
        d.file_sha256, d.error FROM downloads d JOIN users u ON u.id = d.user_id ORDER BY d.id"""
LOGS = "SELECT job_id, fence, status, error_code FROM download_logs ORDER BY id"
REAPED = """
    SELECT extract(epoch FROM next_at - at)::float8 AS seconds FROM (
        SELECT event, at, lead(event) OVER w AS next, lead(at) OVER w AS next_at FROM job_events
        WINDOW w AS (PARTITION BY job_id ORDER BY seq)
    ) AS pairs WHERE event = 'reap' AND next = 'claim'"""


async def gathered(ground: Ground, ledger: Ledger, said: list[Said]) -> History:
    """To be called while the services still run, but with nothing left to do."""
    h = History(askings=ledger.askings, fetched=ledger.fetched, answers=ledger.answers, said=said)
    await _read_rows(ground, h)
    await read_index(ground, h)
    h.files = await asyncio.to_thread(_hashes, ground.data / "media")
    h.expected = await asyncio.to_thread(_expected, h.downloads)
    return h


async def _read_rows(ground: Ground, h: History) -> None:
    async with ground.database() as db:
        h.jobs = await (await db.execute(JOBS)).fetchall()
        h.downloads = await (await db.execute(DOWNLOADS)).fetchall()
        h.logs = await (await db.execute(LOGS)).fetchall()
        events = await (await db.execute("SELECT seq, job_id, fence, event FROM job_events")).fetchall()
    h.events = [Event(e["seq"], e["job_id"], e["fence"], e["event"]) for e in events]


async def read_index(ground: Ground, h: History) -> None:
    async with ground.index() as index:
        h.index = [int(job) for job in cast("list[bytes]", await index.hkeys(f"{PREFIX}:queue:jobs"))]
        h.leases = [int(job) for job in cast("list[bytes]", await index.zrange(f"{PREFIX}:queue:leases", 0, -1))]


def _hashes(folder: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            found[path.name] = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _reference(downloads: Rows) -> dict[tuple[str, str, str], str]:
    """Files that ffmpeg put together, as they came out before there was any fault: the first of each form."""
    found: dict[tuple[str, str, str], str] = {}
    for row in downloads:
        if row["status"] == "completed" and not row["video_id"].startswith("plain"):
            found.setdefault((row["video_id"][:5], row["quality"], row["format"]), row["file_sha256"])
    return found


def _expected(downloads: Rows) -> dict[tuple[str, str, str], str]:
    form = BY_ITAG[18]
    content = Cupboard(FILMS).get(form.recipe(portrait=False))
    reference, found = _reference(downloads), {}
    for row in downloads:
        video, key = find(row["video_id"]), (row["video_id"], row["quality"], row["format"])
        if video.more_bytes:
            found[key] = lengthened(content, form.suffix, video.more_bytes).sha256()
        elif same := reference.get((row["video_id"][:5], row["quality"], row["format"])):
            found[key] = same
    return found


async def sweep(ground: Ground, h: History) -> dict[str, int]:
    """A round of the janitor under test, with no patience for orphans; what it removed, and what it left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("sweep.py")), ground.postgres.url, str(ground.data),
        env=os.environ | {"PYTHONPATH": str(ground.source)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    removed: dict[str, int] = json.loads(out)
    h.swept_media = {path.name for path in (ground.data / "media").iterdir()}
    kept = {str(row["id"]) for row in h.downloads if row["status"] == "failed"}
    h.left_work = [path.name for path in (ground.data / "work").iterdir() if path.name not in kept]
    return removed


def read_logs(members: list[Member], faults: list[Fault]) -> tuple[Counter[str], list[str]]:
    """How often each event was logged, refused writes as `fenced.*`, and the exceptions that nothing explains."""
    counts: Counter[str] = Counter()
    surprises = []
    for member in members:
        lines = read_json_lines(member.log)
        for line in lines:
            event = str(line.get("event"))
            counts[event] += 1
            if event in ("downloads.finished", "downloads.attempt_failed", "downloads.stopped") and not line["state"]:
                counts[f"fenced.{event.partition('.')[2]}"] += 1
            counts["exceptions logged"] += _is_exception(line)
        surprises += [f"service {member.number}: {text}" for text in unexplained(lines, faults)]
    return counts, surprises


def _is_exception(line: dict[str, Any]) -> bool:
    """A service that is told to end before it logs says so in a sentence."""
    return "traceback" in line or (line.get("event") == "unreadable" and line["text"] != ENDED_EARLY)


def unexplained(lines: Rows, faults: list[Fault]) -> Iterator[str]:
    """The exceptions in a log that no fault of that time explains."""
    for line, since, until in _dated(lines):
        if _is_exception(line) and not words_explained(faults, short := _short(line), since, until):
            yield short


def _dated(lines: Rows) -> Iterator[tuple[dict[str, Any], float, float]]:
    """Each line with the earliest and the latest time at which it can have been written: what has none of its own
    came between its neighbors."""
    times = [datetime.fromisoformat(line["time"]).timestamp() if "time" in line else None for line in lines]
    since, until = _carried(times, 0.0), _carried(times[::-1], float("inf"))[::-1]
    yield from zip(lines, since, until, strict=True)


def _carried(times: list[float | None], last: float) -> list[float]:
    found = []
    for time in times:
        last = last if time is None else time
        found.append(last)
    return found


def _short(line: dict[str, Any]) -> str:
    trace = str(line.get("traceback", "")).strip().splitlines()
    return " | ".join([str(line.get("event")), str(line.get("loop", "")), str(line.get("text", ""))[:300], *trace[-4:]])


def left_processes(ground: Ground) -> list[str]:
    """What still runs out of this run's folder though all services have ended."""
    folder, found = str(ground.folder), []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        home = (process.info["environ"] or {}).get("HOME", "")
        ours = home.startswith(folder) or (folder in line and "ytdl" in line)
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE and "tests." not in line and "/servers/" not in line:
            found.append(f"{process.pid} {line[:120]}")
    return found


async def recovery(ground: Ground, faults: list[Fault]) -> dict[str, Any]:
    """Spreads of seconds: from faults, by kind, to the next claim by anybody; from reaps to the same job's claim."""
    async with ground.database() as db:
        claimed = await (await db.execute("SELECT at FROM job_events WHERE event = 'claim' ORDER BY at")).fetchall()
        again = await (await db.execute(REAPED)).fetchall()
    claims = [row["at"].timestamp() for row in claimed]
    found: dict[str, list[float]] = {}
    for fault in faults:
        place = bisect.bisect(claims, fault.began)
        if place < len(claims):
            found.setdefault(fault.kind, []).append(claims[place] - fault.began)
    return {
        "next claim": {kind: spread(times) for kind, times in found.items()},
        "next claim of all": spread([time for times in found.values() for time in times]),
        "reap to claim": spread([row["seconds"] for row in again]),
    }
