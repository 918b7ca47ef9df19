"""The rules: what must hold for the history of jobs, the rows, the files and the index when all is over.

Pure functions from what was gathered to violations, so that each can be shown to catch what it is for. The oracle is
the worker's fence: every statement that ends an attempt writes the fence that the worker gave, not the row's.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.causes import BUGS, PUT_OFF, REFUSED, SUFFERED, Fault, Life
from tests.chaos.ledger import Asking
from tests.chaos.wire import Said

ENDS = frozenset({"completed", "failed", "cancelled"})
MAX_CRASHES = 3
MAX_TRIES = 12
ACCEPTED = 202  # what a cancel and a retry are answered with
# What may follow what. A job waits, runs, or has ended; `cancel` marks one that runs, and then it ends as promised.
FOLLOWS = {
    None: {"submit": "waiting"},
    "waiting": {"claim": "running", "cancelled": "ended"},
    "running": {
        "cancel": "marked", "yield": "waiting", "retry_wait": "waiting", "reap": "waiting",
        "completed": "ended", "failed": "ended", "cancelled": "ended",
    },
    "marked": {"cancelled": "ended"},
    "ended": {},
}  # fmt: skip
# A beat is on its way to Redis at most so long after PostgreSQL's answer, unless the service was stopped between.
BEAT_SECONDS = 4.0


@dataclass(frozen=True)
class Event:
    seq: int
    job: int
    fence: int
    event: str


@dataclass(frozen=True)
class Violation:
    rule: str
    text: str


Rows = list[dict[str, Any]]


@dataclass
class History:
    """`files` are sizes and hashes of what lies in the store; `expected` is a file's hash by video and form where the
    bytes are known. `index` names jobs that the index still has, `leases` those it holds for running."""

    events: list[Event] = field(default_factory=list)
    jobs: Rows = field(default_factory=list)
    downloads: Rows = field(default_factory=list)
    logs: Rows = field(default_factory=list)
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    expected: dict[tuple[str, str, str], str] = field(default_factory=dict)
    askings: list[Asking] = field(default_factory=list)
    fetched: list[tuple[str, str]] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    said: list[Said] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    leases: list[int] = field(default_factory=list)
    swept_media: set[str] = field(default_factory=set)
    left_work: list[str] = field(default_factory=list)
    left_processes: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def by_job(self) -> dict[int, list[Event]]:
        found: dict[int, list[Event]] = defaultdict(list)
        for event in sorted(self.events, key=lambda e: e.seq):
            found[event.job].append(event)
        return found

    def attempts(self) -> dict[tuple[int, int], dict[str, Any]]:
        """The log's rows by job and fence."""
        return {(row["job_id"], row["fence"]): row for row in self.logs}

    def of_subject(self) -> dict[str, Rows]:
        """All jobs that a download ever had."""
        found: dict[str, Rows] = defaultdict(list)
        for job in self.jobs:
            found[str(job["subject"])].append(job)
        return found


Rule = Callable[[History], Iterator[str]]


def nothing_accepted_is_lost(h: History) -> Iterator[str]:
    """A download that was acknowledged is there."""
    there = {str(row["id"]) for row in h.downloads}
    for asking in h.askings:
        if asking.outcome == "accepted" and not asking.ids <= there:
            yield f"{asking.wish} was accepted as {sorted(asking.ids)} and is not there"


def everything_has_ended(h: History) -> Iterator[str]:
    for job in h.jobs:
        if job["state"] not in ENDS:
            yield f"job {job['id']} is {job['state']}, fence {job['fence']}, tries {job['tries']}"


def nothing_came_unasked(h: History) -> Iterator[str]:
    wishes = {(a.wish.user, a.wish.video, a.wish.quality, a.wish.format) for a in h.askings}
    for row in h.downloads:
        if (row["username"], row["video_id"], row["quality"], row["format"]) not in wishes:
            yield f"download {row['id']} of {row['video_id']} was never asked for"


def nothing_refused_is_there(h: History) -> Iterator[str]:
    refused = {(a.wish.user, a.wish.video, a.wish.quality, a.wish.format) for a in h.askings if a.outcome == "refused"}
    for row in h.downloads:
        if (row["username"], row["video_id"], row["quality"], row["format"]) in refused:
            yield f"download {row['id']} is there though its user was told no"


def nothing_is_there_twice(h: History) -> Iterator[str]:
    """One asking, one download, however often it was repeated under its key."""
    seen = Counter((row["username"], row["video_id"], row["quality"], row["format"]) for row in h.downloads)
    yield from (f"{wish} is there {count} times" for wish, count in seen.items() if count > 1)
    yield from (f"{a.wish} was told {sorted(a.ids)}" for a in h.askings if len(a.ids) > 1)


def histories_are_legal(h: History) -> Iterator[str]:
    """Each event is one that may follow: so at most one end a job and nothing after it, and a claim of a waiting job
    only."""
    for job, events in h.by_job().items():
        state: str | None = None
        for event in events:
            after = FOLLOWS[state].get(event.event)
            if after is None:
                yield f"job {job}: {event.event} (fence {event.fence}) while {state}: {_story(events)}"
                break
            state = after


def fences_grow_by_claims(h: History) -> Iterator[str]:
    """A claim adds one; all else is written under the newest claim's fence, so a zombie's write shows."""
    for job, events in h.by_job().items():
        fence = 0
        for event in events:
            fence += event.event == "claim"
            if event.fence != fence:
                yield f"job {job}: {event.event} under fence {event.fence}, not {fence}: {_story(events)}"
                break


def histories_agree_with_rows(h: History) -> Iterator[str]:
    events = h.by_job()
    for job in h.jobs:
        story = events.get(job["id"], [])
        claims, last = sum(e.event == "claim" for e in story), story[-1].event if story else "nothing"
        if claims != job["fence"] or (job["state"] in ENDS and last != job["state"]):
            yield f"job {job['id']} is {job['state']} with fence {job['fence']}: {_story(story)}"


def downloads_agree_with_jobs(h: History) -> Iterator[str]:
    jobs = {job["id"]: job for job in h.jobs}
    for row in h.downloads:
        job = jobs.get(row["job_id"])
        if job is None or (job["state"] in ENDS and row["status"] != job["state"]):
            yield f"download {row['id']} is {row['status']}, its job {job and job['state']}"


def attempts_are_logged_once(h: History) -> Iterator[str]:
    """One row a claim, closed, and completed exactly where the job is, under its fence."""
    logged = Counter((row["job_id"], row["fence"]) for row in h.logs)
    claimed = Counter((e.job, e.fence) for e in h.events if e.event == "claim")
    yield from (f"attempt {a} has {logged[a]} rows and {n} claims" for a, n in claimed.items() if logged[a] != n)
    yield from (f"attempt {a} was never claimed" for a in logged if a not in claimed)
    fences = {job["id"]: job["fence"] for job in h.jobs if job["state"] == "completed"}
    for row in h.logs:
        if row["status"] == "running" and not _is_open(h, row["job_id"]):
            yield f"attempt {row['job_id']}.{row['fence']} was left open"
        if row["status"] == "completed" and fences.get(row["job_id"]) != row["fence"]:
            yield f"attempt {row['job_id']}.{row['fence']} completed, the job has {fences.get(row['job_id'])}"


def _is_open(h: History, job: int) -> bool:
    return any(row["id"] == job and row["state"] not in ENDS for row in h.jobs)


def lost_workers_were_lost_thrice(h: History) -> Iterator[str]:
    """Giving up for the worker's sake is an end that is allowed, after three reaps and no fewer."""
    lost = Counter(row["job_id"] for row in h.logs if row["status"] == "lost")
    codes = {row["job_id"]: (row["error"] or {}).get("code") for row in h.downloads if row["status"] == "failed"}
    for job in h.jobs:
        if job["crashes"] != lost[job["id"]] or job["crashes"] > MAX_CRASHES:
            yield f"job {job['id']} counts {job['crashes']} crashes, its log {lost[job['id']]}"
        if codes.get(job["id"]) == "worker_lost" and job["crashes"] != MAX_CRASHES:
            yield f"job {job['id']} was given up after {job['crashes']} crashes"


def only_what_was_cancelled_is_cancelled(h: History) -> Iterator[str]:
    """One job at most for a cancel that may have been carried out, and one at least for a cancel that was answered
    well. That none so marked ends otherwise is for the order of events to show."""
    sent = {id: asking.cancel for asking in h.askings for id in asking.ids}
    for id, jobs in h.of_subject().items():
        cancelled, status = sum(job["state"] == "cancelled" for job in jobs), sent.get(id)
        if cancelled > _may_have_been(status):
            yield f"download {id} has {cancelled} cancelled jobs, its cancel was answered with {status}"
        if status == ACCEPTED and not cancelled:
            yield f"download {id} was said to be cancelled, its jobs are {[job['state'] for job in jobs]}"


def jobs_are_of_askings_and_retries(h: History) -> Iterator[str]:
    sent = {id: asking.retry for asking in h.askings for id in asking.ids}
    for id, jobs in h.of_subject().items():
        more, status = len(jobs) - 1, sent.get(id)
        if more > _may_have_been(status) or (status == ACCEPTED and not more):
            yield f"download {id} has {len(jobs)} jobs, its retry was answered with {status}"


def _may_have_been(status: int | None) -> bool:
    """Whether what was answered so, or not at all (0), may have been carried out."""
    return status is not None and not 400 <= status < 500


def failures_are_explained(h: History) -> Iterator[str]:
    """What failed for good is a video that cannot be had, or took its worker along three times, or met faults in each
    of all its tries."""
    attempts, videos = h.attempts(), {str(row["id"]): row["video_id"] for row in h.downloads}
    codes = {}
    for job in h.jobs:
        if job["state"] != "failed":
            continue
        codes[job["id"]] = code = attempts.get((job["id"], job["fence"]), {}).get("error_code")
        video = videos.get(str(job["subject"]))
        lost = code == "worker_lost" and job["crashes"] == MAX_CRASHES
        suffered = code in SUFFERED and job["tries"] == MAX_TRIES
        if not (lost or suffered or (code and code == REFUSED.get(str(video)))):
            yield f"job {job['id']} of {video} failed with {code} after {job['tries']} tries"
    for row in h.downloads:
        told = (row["error"] or {}).get("code")
        if row["status"] == "failed" and told != codes.get(row["job_id"]):
            yield f"download {row['id']} says {told}, its job's log {codes.get(row['job_id'])}"


def no_attempt_met_a_bug(h: History) -> Iterator[str]:
    yield from (f"attempt {r['job_id']}.{r['fence']}: {r['error_code']}" for r in h.logs if r["error_code"] in BUGS)


def tries_are_failures(h: History) -> Iterator[str]:
    """Each failed attempt uses up one try; being handed back, put off or lost uses up none."""
    attempts, events = h.attempts(), h.by_job()
    for job in h.jobs:
        ends = [e for e in events.get(job["id"], []) if e.event in ("retry_wait", "failed", "cancelled")]
        least = most = 0
        for end in ends:
            few, many = _tries_of(end, attempts.get((end.job, end.fence), {}))
            least, most = least + few, most + many
        if not least <= job["tries"] <= min(most, MAX_TRIES):
            yield f"job {job['id']} counts {job['tries']} tries: {_story(events.get(job['id'], []))}"


def _tries_of(end: Event, attempt: dict[str, Any]) -> tuple[int, int]:
    """The fewest and the most tries that such an end used up."""
    if attempt.get("status") == "lost":
        return 0, 0
    if end.event != "cancelled":
        return 1, 1
    # One that failed while it was to be cancelled; the log does not tell whether it would have been put off.
    code = attempt.get("error_code") if attempt.get("status") == "cancelled" else None
    return int(code is not None and code not in PUT_OFF), int(code is not None and code != "disk_full")


def completed_files_are_right(h: History) -> Iterator[str]:
    """The file's fence is the job's, it is there, as the row says, and it has the bytes of the right video."""
    fences = {job["id"]: job["fence"] for job in h.jobs}
    for row in h.downloads:
        if row["status"] != "completed":
            continue
        name = str(row["file_name"])
        if name.rpartition(".")[0] != f"{row['job_id']}.{fences.get(row['job_id'])}":
            yield f"download {row['id']} names {name}, its job has fence {fences.get(row['job_id'])}"
        if h.files.get(name) != (row["file_bytes"], row["file_sha256"]):
            yield f"file {name} is {h.files.get(name)}, its row says {row['file_bytes']}, {row['file_sha256']}"
        expected = h.expected.get((row["video_id"], row["quality"], row["format"]))
        if expected != row["file_sha256"]:
            yield f"file {name} of {row['video_id']} has other bytes than that video: {expected}"


def users_got_the_right_files(h: History) -> Iterator[str]:
    hashes = {str(row["id"]): row["file_sha256"] for row in h.downloads}
    for id, digest in h.fetched:
        if hashes.get(id) != digest:
            yield f"download {id} was fetched with the bytes {digest}, its row has {hashes.get(id)}"


def nobody_was_told_of_a_bug(h: History) -> Iterator[str]:
    """What is away is said to be away (503); 500 is for what nobody thought of."""
    if h.answers[500]:
        yield f"{h.answers[500]} answers had the status 500"


def leftovers_are_collected(h: History) -> Iterator[str]:
    """After the janitor's round the store has what rows name, and nothing waits in the work folder."""
    named = {row["file_name"] for row in h.downloads if row["status"] == "completed"}
    yield from (f"file {name} stayed, nobody names it" for name in sorted(h.swept_media - named))
    yield from (f"work folder {name} stayed" for name in h.left_work)
    yield from (f"process {name} stayed" for name in h.left_processes)


def the_index_holds_nothing_that_ended(h: History) -> Iterator[str]:
    ended = {job["id"] for job in h.jobs if job["state"] in ENDS}
    yield from (f"the index still has job {job}, which ended" for job in h.index if job in ended)
    yield from (f"the index has job {job} for leased, which ended" for job in h.leases if job in ended)


def beats_name_what_was_confirmed(h: History) -> Iterator[str]:
    """Of every beat that went to the index: the jobs in it are among those that PostgreSQL confirmed to that service
    in its last answer, or in one that came moments ago (two loops beat). However late, an answer that led to no beat
    yet may still do so: the service may have been stopped between, or Redis refused the beat the first time."""
    last: dict[str, Said] = {}
    recent: dict[str, dict[int, float]] = defaultdict(dict)
    due: dict[str, set[frozenset[int]]] = defaultdict(set)
    for said in h.said:
        if said.kind == "confirmed":
            last[said.by] = said
            recent[said.by].update(dict.fromkeys(said.jobs, said.at))
            due[said.by].add(said.jobs)
        elif said.kind == "done":
            due[said.by].discard(said.jobs)
        elif said.jobs not in due[said.by]:
            fresh = {job for job, at in recent[said.by].items() if said.at - at < BEAT_SECONDS}
            known = fresh | (last[said.by].jobs if said.by in last else frozenset())
            if stray := said.jobs - known:
                yield f"service {said.by} renewed {sorted(stray)} in the index, which PostgreSQL had not confirmed"


def no_exception_was_a_surprise(h: History) -> Iterator[str]:
    """What services logged that no fault explains."""
    yield from h.surprises


def services_end_as_they_are_made_to(h: History) -> Iterator[str]:
    """Each end of a service has its cause in what was done to it, and none takes too long to be ready."""
    for life in h.lives:
        if life.late:
            yield f"service {life.by} was not ready in time"
        if life.ended is None:
            yield f"service {life.by} was not seen to end"
        elif life.cause(h.faults) is None:
            sent, ready = [s.name for s in life.signals], "ready" if life.ready else "starting"
            yield f"service {life.by} ended with {life.code} while {ready}; it was sent {sent}"


RULES: tuple[Rule, ...] = (
    nothing_accepted_is_lost,
    everything_has_ended,
    nothing_came_unasked,
    nothing_refused_is_there,
    nothing_is_there_twice,
    histories_are_legal,
    fences_grow_by_claims,
    histories_agree_with_rows,
    downloads_agree_with_jobs,
    attempts_are_logged_once,
    lost_workers_were_lost_thrice,
    only_what_was_cancelled_is_cancelled,
    jobs_are_of_askings_and_retries,
    failures_are_explained,
    no_attempt_met_a_bug,
    tries_are_failures,
    completed_files_are_right,
    users_got_the_right_files,
    nobody_was_told_of_a_bug,
    leftovers_are_collected,
    the_index_holds_nothing_that_ended,
    beats_name_what_was_confirmed,
    no_exception_was_a_surprise,
    services_end_as_they_are_made_to,
)


def check(history: History) -> list[Violation]:
    return [Violation(rule.__name__, text) for rule in RULES for text in rule(history)]


def _story(events: list[Event]) -> str:
    return " ".join(f"{e.event}({e.fence})" for e in events)
