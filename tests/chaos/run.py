"""One run: the ground, the services, the users, the nemesis; then calm, a bounded wait, and the check."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import history
from tests.chaos.checker import History, check
from tests.chaos.fleet import Member, gathered
from tests.chaos.ground import Ground, copy_source, prepared
from tests.chaos.ledger import Ledger, Wish
from tests.chaos.nemesis import MIX, Nemesis
from tests.chaos.report import Report, count_ends, count_jobs, count_writes, spread
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
    faults_per_second: float = 1.6
    mix: dict[str, int] = field(default_factory=lambda: dict(MIX))
    source: Path = ROOT
    logs: Path | None = None
    mutate: Callable[[Path], None] | None = None

    def facts(self) -> dict[str, Any]:
        names = ("seconds", "seed", "processes", "users", "faults_per_second")
        return {name: getattr(self, name) for name in names}


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
        await _suffer(plan, nemesis, Crowd(ground, members, people, patience=plan.patience), ledger, say)
        say("Calm now; waiting for what is under way.")
        drained = await drain(ground, say)
        h = await history.gathered(ground, ledger, said)
        swept = await history.sweep(ground, h)
        exits = [await member.end() if await member.until_up() else None for member in members]
    if plan.logs:
        await asyncio.to_thread(keep_logs, members, plan.logs)
    h.left_processes = history.left_processes(ground)
    h.lives = [life for member in members for life in member.lives]
    h.faults = nemesis.faults + nemesis.cut_short
    logged, h.surprises = history.read_logs(members, h.faults)
    boots = [boot for member in members for boot in member.boots]
    times = await history.recovery(ground, nemesis.faults)
    return Report(
        facts=plan.facts(),
        violations=check(h),
        faults=dict(nemesis.counts().most_common()),
        tried=dict(nemesis.tried),
        failed=dict(nemesis.failed.most_common()),
        left_out=nemesis.left_out(),
        ends=count_ends(h),
        jobs=count_jobs(h, ledger),
        writes=count_writes(h, logged, swept),
        times={"drain": drained, "boot": spread(boots), "exits": [str(code) for code in exits], **times},
        answers={str(status): count for status, count in sorted(ledger.answers.items())},
    )


async def _suffer(plan: Plan, nemesis: Nemesis, crowd: Crowd, ledger: Ledger, say: Say) -> None:
    """Users and faults for the planned time; then nobody asks any more, and all is healed."""
    crowd.start()
    telling = asyncio.create_task(_tell(nemesis, crowd, ledger, say))
    try:
        await nemesis.rage(plan.seconds, plan.faults_per_second, plan.mix)
    finally:
        telling.cancel()
        await crowd.stop()
        await nemesis.heal()


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
