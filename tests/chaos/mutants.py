"""Faults in the product, made on purpose: the checker that is worth something turns red for each of them.

A mutant is a copy of the source with one text replaced, which must be there exactly once. Nothing in the product knows
of it. `python -m tests.chaos.mutants` plays the scene of each, in which it must show, with the mutant and without.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import apart, scenes
from tests.chaos.checker import Violation
from tests.chaos.ground import copy_source, prepared
from tests.chaos.scenes import Scene
from tests.instance import ROOT

PLAYED = 3


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`. `rules` are those that may find it, `scene` is where it shows in seconds."""

    name: str
    what: str
    file: str
    old: str
    new: str
    scene: Callable[[Scene], Awaitable[None]]
    rules: frozenset[str]

    def apply(self, source: Path) -> None:
        """Raises `ValueError` when the text is not there just once: then the mutant has to be written anew."""
        path = source / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has the text of the mutant {self.name} {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new))


MUTANTS = {
    mutant.name: mutant
    for mutant in (
        Mutant(
            name="fence",
            what="complete does not ask for the attempt's fence",
            file="sql/queries/queue.sql",
            old=(
                "        lease_owner = NULL, lease_until = NULL, finished_at = now()\n"
                "    WHERE id = %(id)s AND fence = %(fence)s AND state = 'running'"
            ),
            new=(
                "        lease_owner = NULL, lease_until = NULL, finished_at = now()\n"
                "    WHERE id = %(id)s AND %(fence)s > 0 AND state = 'running'"
            ),
            scene=scenes.finish_while_cut_off,
            rules=frozenset({"fences_grow_by_claims", "completed_files_are_right", "attempts_are_logged_once"}),
        ),
        Mutant(
            name="state",
            what="claim does not ask for the job's state",
            file="sql/queries/queue.sql",
            old="AND state IN ('queued', 'retry_wait') AND run_at <= now() AND cancel_requested_at IS NULL",
            new="AND run_at <= now() AND cancel_requested_at IS NULL",
            scene=scenes.suggest_what_runs,
            rules=frozenset({"histories_are_legal"}),
        ),
        Mutant(
            name="beat",
            what="a beat renews in the index what PostgreSQL did not confirm",
            file="ytdl/queue.py",
            old="await self.index.beat(confirmed)",
            new='await self.index.beat([{"id": c.job, "user_id": c.user_id, "priority": 5} for c in held])',
            scene=scenes.wake_after_the_lease,
            rules=frozenset({"beats_name_what_was_confirmed"}),
        ),
    )
}


@asynccontextmanager
async def stage(mutant: Mutant | None, source: Path = ROOT) -> AsyncIterator[Scene]:
    """Two services of two slots each, from a copy of the source with that fault, or without any."""
    with tempfile.TemporaryDirectory(prefix="ytdl-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        copy = await asyncio.to_thread(copy_source, folder / "source", source)
        if mutant:
            mutant.apply(copy)
        async with prepared(folder, copy) as ground, scenes.staged(ground) as scene:
            yield scene


async def play(mutant: Mutant | None, source: Path = ROOT) -> list[Violation]:
    """The mutant's scene; without a mutant all scenes, one after another."""
    async with stage(mutant, source) as scene:
        for each in [mutant] if mutant else MUTANTS.values():
            await scene.calm()
            await each.scene(scene)
        return await scene.judge()


async def play_all(source: Path, names: Sequence[str] = ()) -> bool:
    """Two scenes at once, a line each; whether the product was found right and every mutant wrong."""
    chosen: list[Mutant | None] = [MUTANTS[name] for name in names] or [None, *MUTANTS.values()]
    stages = asyncio.Semaphore(2)
    return all(await asyncio.gather(*(_tell(mutant, source, stages) for mutant in chosen)))


async def _tell(mutant: Mutant | None, source: Path, stages: asyncio.Semaphore) -> bool:
    async with stages:
        began = time.monotonic()
        found, good = await _judged(mutant, source)
    broken = {violation.rule for violation in found}
    name = f"mutant {mutant.name} ({mutant.what})" if mutant else "the product"
    verdict = f"red by {', '.join(sorted(broken))}" if broken else "green"
    print(f"{'ok ' if good else 'BAD'} {name}: {verdict}, {time.monotonic() - began:.1f} s", flush=True)
    for violation in found[:3]:
        print(f"      {violation.text}", flush=True)
    return good


async def _judged(mutant: Mutant | None, source: Path) -> tuple[list[Violation], bool]:
    """What was found, and whether that is right. A fault that lies in the order of two loops shows in a scene if the
    machine lets it, so it may be played again; the product has one try."""
    for _ in range(PLAYED if mutant else 1):
        found = await play(mutant, source)
        broken = {violation.rule for violation in found}
        good = bool(broken & mutant.rules) if mutant else not broken
        if good:
            break
    return found, good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description="Does the checker see?")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MUTANTS)}; all by default")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder with the ytdl/ and sql/ to run")
    arguments = parser.parse_args()
    apart.go_apart("tests.chaos.mutants")
    return 0 if asyncio.run(play_all(arguments.source, arguments.names)) else 1


if __name__ == "__main__":
    sys.exit(main())
