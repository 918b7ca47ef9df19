"""One run: the ground, the services, the users, the nemesis; then calm, a bounded wait, and the check."""

import asyncio
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import history
from tests.chaos.checker import ENDS, History, Violation, check
from tests.chaos.fleet import Member, gathered
from tests.chaos.ground import Ground, copy_source, prepared
from tests.chaos.ledger import Ledger, Wish
from tests.chaos.nemesis import MIX, Nemesis
from tests.chaos.users import Crowd, Habits, Person, count_open, invited
from tests.chaos.wire import Said
from tests.instance import ROOT

DRAIN_SECONDS = 180.0
# The reconciler comes every 15 s; what it puts back still has to run.
INDEX_SECONDS = 25.0


@dataclass(frozen=True)
class Plan:
    seconds: float = 300.0
    seed: int = 1
    processes: int = 3
    users: int = 20
    patience: int = 60
    faults_per_second: float = 1.3
    mix: dict[str, int] = field(default_factory=lambda: dict(MIX))
    source: Path = ROOT
    logs: Path | None = None
    mutate: Callable[[Path], None] | None = None


@dataclass
class Report:
    plan: dict[str, Any]
    violations: list[Violation]
    faults: dict[str, int]
    jobs: dict[str, Any]
    times: dict[str, Any]
    writes: dict[str, int]
    answers: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.violations


Say = Callable[[str], None]


async def run(plan: Plan, say: Say = print) -> Report:
    with tempfile.TemporaryDirectory(prefix="ytdl-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        source = await asyncio.to_thread(copy_source, folder / "source", plan.source)
        if plan.mutate:
            plan.mutate(source)
        async with prepared(folder, source) as ground:
            return await _run(plan, ground, say)


async def _run(plan: Plan, ground: Ground, say: Say) -> Report:
    ledger, said = Ledger(), list[Said]()
    async with gathered(ground, plan.processes, said) as members:
        people = await invited(ground, members[0].url, plan.users, ledger, Habits(), plan.seed)
        await _make_references(people[0], ledger, members[0])
        nemesis = Nemesis(ground, members, plan.seed)
        crowd = Crowd(ground, members, people, patience=plan.patience)
        crowd.start()
        telling = asyncio.create_task(_tell(nemesis, crowd, ledger, say))
        await nemesis.rage(plan.seconds, plan.faults_per_second, plan.mix)
        await crowd.stop()
        await nemesis.heal()
        telling.cancel()
        say("Calm now; waiting for what is under way.")
        drained = await drain(ground, say)
        h = await history.gathered(ground, ledger, said)
        swept = await history.sweep(ground, h)
        ends = [await member.end() for member in members]
    if plan.logs:
        await asyncio.to_thread(keep_logs, members, plan.logs)
    h.left_processes = history.left_processes(ground)
    logged, h.surprises = history.read_logs(members)
    recovery = await _recovery(ground, nemesis)
    return _report(plan, h, nemesis, ledger, members, drained, swept, logged, recovery, ends)


def keep_logs(members: list[Member], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for member in members:
        shutil.copy(member.log, folder / member.log.name)


async def _make_references(person: Person, ledger: Ledger, member: Member) -> None:
    """One file of each form that ffmpeg puts together, before anything goes wrong."""
    for video, quality in (("many_999999", "144p"), ("big002_9999", "360p")):
        asking = ledger.ask(Wish(person.name, video, quality, "mp4"))
        await person.ask(asking, lambda: member.url)
        await person.fetch_when_done(next(iter(asking.ids)), lambda: member.url)


async def _tell(nemesis: Nemesis, crowd: Crowd, ledger: Ledger, say: Say) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(5)
        up = sum(m.alive and not m.stopped for m in nemesis.members)
        say(
            f"{time.monotonic() - began:4.0f} s  {len(nemesis.faults):4} faults  {len(ledger.askings):5} askings  "
            f"{crowd.open:4} open  {up} services up"
        )


async def drain(
    ground: Ground, say: Say, seconds: float = DRAIN_SECONDS, index_seconds: float = INDEX_SECONDS
) -> float | None:
    """Seconds until every job had ended and the index was empty of them; None when the time was up."""
    began = time.monotonic()
    while await count_open(ground):
        if time.monotonic() - began > seconds:
            return None
        await asyncio.sleep(0.5)
    took = time.monotonic() - began
    await _until_idle(ground, index_seconds)
    say(f"All jobs had ended after {took:.1f} s.")
    return took


async def _until_idle(ground: Ground, seconds: float) -> None:
    """Until the index is empty, for so long as it may take."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        h = History()
        await history.read_index(ground, h)
        if not h.index and not h.leases:
            return
        await asyncio.sleep(0.5)


async def _recovery(ground: Ground, nemesis: Nemesis) -> dict[str, list[float]]:
    """For each kind: seconds from a fault's beginning to the next claim by anybody."""
    async with ground.database() as db:
        rows = await (await db.execute("SELECT at FROM job_events WHERE event = 'claim' ORDER BY at")).fetchall()
    claims = [row["at"].timestamp() for row in rows]
    found: dict[str, list[float]] = {}
    for fault in nemesis.faults:
        later = next((at for at in claims if at > fault.began), None)
        if later is not None:
            found.setdefault(fault.kind, []).append(round(later - fault.began, 3))
    return found


def _report(
    plan: Plan, h: History, nemesis: Nemesis, ledger: Ledger, members: list[Member], drained: float | None,
    swept: dict[str, int], logged: Counter[str], recovery: dict[str, list[float]],
    ends: list[int | None],
) -> Report:  # fmt: skip
    states = Counter(job["state"] for job in h.jobs)
    events = Counter(event.event for event in h.events)
    known = {id for asking in ledger.askings for id in asking.ids}
    boots = [boot for member in members for boot in member.boots]
    lost = [row for row in h.downloads if (row["error"] or {}).get("code") == "worker_lost"]
    return Report(
        plan={"seconds": plan.seconds, "seed": plan.seed, "processes": plan.processes, "users": plan.users},
        violations=check(h),
        faults=dict(nemesis.counts().most_common()),
        jobs={
            "askings": len(ledger.askings), "accepted": len(ledger.accepted()),
            "unknown": sum(a.outcome == "unknown" for a in ledger.askings),
            "recovered": sum(str(row["id"]) not in known for row in h.downloads), "jobs": len(h.jobs), **states,
            "open": sum(job["state"] not in ENDS for job in h.jobs), "given up for worker_lost": len(lost),
            "files": len(h.files), "fetched over HTTP": len(h.fetched),
            "failures": dict(Counter(row["error_code"] for row in h.logs if row["error_code"])),
        },
        times={
            "drain": drained, "boot": spread(boots), "exits": dict(Counter(str(e) for e in ends)),
            "recovery": {kind: spread(times) for kind, times in sorted(recovery.items())},
            "recovery of all": spread([t for times in recovery.values() for t in times]),
        },
        writes={
            **{f"event {name}": count for name, count in events.items()},
            **{name: count for name, count in logged.items() if name.startswith("fenced")},
            "exceptions logged": logged["exceptions logged"],
            "leases lost": logged["downloads.lease_lost"], "orphan files": swept["media"],
            "work folders swept": swept["work"],
            "beats heard": sum(s.kind == "named" and bool(s.jobs) for s in h.said),
            "confirmations heard": sum(s.kind == "confirmed" and bool(s.jobs) for s in h.said),
        },
        answers={str(status): count for status, count in sorted(ledger.answers.items())},
    )  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"n": len(values), "p50": round(statistics.median(values), 2), "max": round(max(values), 2)}
