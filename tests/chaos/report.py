"""What a run came to, as figures and as a page for people."""

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.chaos.checker import ENDS, RULES, History, Violation
from tests.chaos.ledger import Ledger

SHOWN = 40
# Of the faults that were planned at least so many met something, in a long run at least so many in all.
LEAST_SHARE = 0.5
LONG_SECONDS, LEAST_FAULTS = 300, 300
# A kind that was tried so often without ever meeting something is out of order.
TRIED = 4


@dataclass
class Report:
    """`times` are seconds; a spread of them has their number, the middle one and the longest. `tried` are faults by
    kind whether they met something or not, `failed` those that did not come to their point, by kind and error, and
    `left_out` kinds that never come here, and why."""

    facts: dict[str, Any]
    violations: list[Violation]
    faults: dict[str, int]
    jobs: dict[str, Any]
    times: dict[str, Any]
    writes: dict[str, int]
    answers: dict[str, int]
    tried: dict[str, int]
    failed: dict[str, int]
    left_out: dict[str, str]
    ends: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.violations and not self.hollow()

    def hollow(self) -> list[str]:
        """Why this run says nothing, however well its rules hold."""
        met, long = sum(self.faults.values()), self.facts["seconds"] >= LONG_SECONDS
        planned = self.facts["faults_per_second"] * self.facts["seconds"]
        least = max(1, LEAST_SHARE * planned, LEAST_FAULTS if long else 0)
        found = [f"{met} faults met something, {least:.0f} is the least"] if met < least else []
        if not self.jobs["jobs"] or not self.jobs.get("completed"):
            found.append(f"{self.jobs['jobs']} jobs, {self.jobs.get('completed', 0)} completed")
        never = [k for k, count in self.faults.items() if not count and (long or self.tried.get(k, 0) >= TRIED)]
        return found + [f"{kind}: never met something" for kind in never]

    def broken(self, *rules: str) -> int:
        return sum(violation.rule in rules for violation in self.violations)


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"n": len(values), "p50": round(statistics.median(values), 2), "max": round(max(values), 2)}


def count_jobs(h: History, ledger: Ledger) -> dict[str, Any]:
    known = {id for asking in ledger.askings for id in asking.ids}
    lost = [row for row in h.downloads if (row["error"] or {}).get("code") == "worker_lost"]
    return {
        "asked": len(ledger.askings),
        "accepted": len(ledger.accepted()),
        "unanswered": sum(asking.outcome == "unknown" for asking in ledger.askings),
        "recovered": sum(str(row["id"]) not in known for row in h.downloads),
        "jobs": len(h.jobs),
        **Counter(job["state"] for job in h.jobs),
        "open": sum(job["state"] not in ENDS for job in h.jobs),
        "given up after three lost workers": len(lost),
        "files": len(h.files),
        "fetched": len(h.fetched),
        "failures": dict(Counter(row["error_code"] for row in h.logs if row["error_code"]).most_common()),
    }


def count_ends(h: History) -> dict[str, int]:
    """Ends of services by their cause."""
    return dict(Counter(life.cause(h.faults) or "unexplained" for life in h.lives if life.ended).most_common())


def count_writes(h: History, logged: Counter[str], swept: dict[str, int]) -> dict[str, int]:
    return {
        **{f"event {name}": count for name, count in Counter(event.event for event in h.events).most_common()},
        "fenced": sum(count for name, count in logged.items() if name.startswith("fenced.")),
        "leases lost": logged["downloads.lease_lost"],
        "exceptions logged": logged["exceptions logged"],
        "orphans in media": swept["media"],
        "folders left in work": swept["work"],
        "beats heard": sum(said.kind == "named" and bool(said.jobs) for said in h.said),
        "confirmations heard": sum(said.kind == "confirmed" and bool(said.jobs) for said in h.said),
    }


def page(report: Report) -> str:
    return "\n".join([*_faults(report), *_jobs(report), *_times(report), *_verdict(report)])


def _faults(r: Report) -> list[str]:
    """Each kind with how long it then took until anybody leased a job."""
    lines = ["", f"{sum(r.faults.values())} faults in {r.facts['seconds']:.0f} s (seed {r.facts['seed']}):"]
    for kind, count in r.faults.items():
        lines.append(f"  {count:5}  {kind:32} next claim {_spread(r.times['next claim'].get(kind, {}))}")
    lines += [f"  left out: {kind}, for {why}" for kind, why in r.left_out.items()]
    nothing = sum(r.tried.values()) - sum(r.faults.values()) - sum(r.failed.values())
    lines.append(f"{nothing} more met nothing or were cut short by the end; did not come to their point: {r.failed}")
    return lines


def _jobs(r: Report) -> list[str]:
    j, w = r.jobs, r.writes
    ends = ", ".join(f"{j.get(state, 0)} {state}" for state in ("completed", "failed", "cancelled", "open"))
    lost = r.broken("nothing_accepted_is_lost", "everything_has_ended")
    doubled = r.broken("histories_are_legal", "nothing_is_there_twice", "fences_grow_by_claims")
    return [
        "",
        f"{j['asked']} askings by {r.facts['users']} users at {r.facts['processes']} services: "
        f"{j['accepted']} accepted, {j['unanswered']} without an answer",
        f"{j['jobs']} jobs: {ends}; {j['given up after three lost workers']} given up after three lost workers",
        f"lost {lost}, double {doubled}, unexpected {r.broken('nothing_came_unasked')}, recovered {j['recovered']}",
        f"{w.get('event claim', 0)} claims, {w.get('event reap', 0)} reaps, {w.get('event yield', 0)} handed back, "
        f"{w['leases lost']} leases found lost, {w['fenced']} writes refused by the fence",
        f"{j['files']} files hashed, {j['fetched']} fetched by users, {w['orphans in media']} orphans and "
        f"{w['folders left in work']} work folders collected",
        f"failures of attempts: {j['failures']}",
        f"answers by status (0 is none): {r.answers}",
    ]


def _times(r: Report) -> list[str]:
    t = r.times
    drained = "not within the time" if t["drain"] is None else f"{t['drain']:.1f} s"
    return [
        "",
        f"from a fault to the next claim: {_spread(t['next claim of all'])}",
        f"from a reap to the next claim of the same job: {_spread(t['reap to claim'])}",
        f"from start to ready: {_spread(t['boot'])}; ends of services by cause: {r.ends}",
        f"from the last fault to the last job's end: {drained}; exit codes at SIGTERM: {', '.join(t['exits'])}",
    ]


def _verdict(r: Report) -> list[str]:
    lines = [f"BROKEN {violation.rule}: {violation.text}" for violation in r.violations[:SHOWN]]
    hollow = [f"HOLLOW, this run shows nothing: {reason}" for reason in r.hollow()]
    if r.violations:
        verdict = [f"RED: {len(r.violations)} violations"]
    else:
        verdict = [] if hollow else [f"GREEN: {len(RULES)} rules hold"]
    return ["", *lines, *hollow, *verdict]


def _spread(values: dict[str, float]) -> str:
    return f"p50 {values['p50']:.2f} s, longest {values['max']:.2f} s" if values else "-"
