"""Each rule of the checker is shown a history that breaks it, and a right one that breaks none."""

import signal
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.causes import Life
from tests.chaos.checker import MAX_TRIES, RULES, Event, History, check
from tests.chaos.ledger import Asking, Wish
from tests.chaos.wire import Said

SHA = "ab" * 32
WISH = Wish("ann", "plain_00001", "360p", "mp4")


def story(text: str, job: int = 1) -> list[Event]:
    """`submit0 claim1 completed1` as events."""
    parts = [part.rstrip("0123456789") for part in text.split()]
    fences = [int(part[len(name) :]) for part, name in zip(text.split(), parts, strict=True)]
    return [Event(seq, job, fence, name) for seq, (name, fence) in enumerate(zip(parts, fences, strict=True))]


def right() -> History:
    """One download, reaped once and then completed; its user knows of it and has its file."""
    return History(
        events=story("submit0 claim1 reap1 claim2 completed2"),
        jobs=[job(state="completed", fence=2, crashes=1)],
        downloads=[download()],
        logs=[log(1, "lost"), log(2, "completed")],
        files={"1.2.mp4": (10, SHA)},
        expected={("plain_00001", "360p", "mp4"): SHA},
        askings=[Asking(WISH, "accepted", {"d1"})],
        fetched=[("d1", SHA)],
        said=[Said("0.1", 1.0, "confirmed", frozenset({1})), Said("0.1", 1.1, "named", frozenset({1}))],
        swept_media={"1.2.mp4"},
        lives=[life(signal.SIGTERM, code=0)],
    )


def job(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "subject": "d1", "state": "queued", "fence": 0, "tries": 0, "crashes": 0} | changes


def life(*signals: signal.Signals, code: int | None, ready: bool = True, late: bool = False) -> Life:
    return Life("0.1", began=100.0, ready=ready, late=late, signals=list(signals), ended=200.0, code=code)


def download(**changes: Any) -> dict[str, Any]:
    return {
        "id": "d1", "username": "ann", "job_id": 1, "video_id": "plain_00001", "status": "completed",
        "quality": "360p", "format": "mp4", "file_name": "1.2.mp4", "file_bytes": 10, "file_sha256": SHA, "error": None,
    } | changes  # fmt: skip


def log(fence: int, status: str, code: str | None = None) -> dict[str, Any]:
    return {"job_id": 1, "fence": fence, "status": status, "error_code": "worker_lost" if status == "lost" else code}


def broken(**changes: Any) -> set[str]:
    return {violation.rule for violation in check(replace(right(), **changes))}


def ended_as(text: str, **changes: Any) -> History:
    """The right history with other events, and a job that agrees with the last of them."""
    events = story(text)
    row = job(state=events[-1].event, fence=text.count("claim")) | changes
    return replace(right(), events=events, jobs=[row])


def test_a_right_history_breaks_no_rule() -> None:
    assert check(right()) == []


def test_every_rule_is_shown_to_catch_something() -> None:
    below = {
        "histories_are_legal", "fences_grow_by_claims", "lost_workers_were_lost_thrice",
        "beats_name_what_was_confirmed", "only_what_was_cancelled_is_cancelled", "failures_are_explained",
        "tries_are_failures", "services_end_as_they_are_made_to",
    }  # fmt: skip
    named = {rule for rules, _ in BREAKS for rule in rules} | below
    assert {rule.__name__ for rule in RULES} == named


OPEN_JOB = [job(fence=2, crashes=1)]
TWO_JOBS = [job(state="completed", fence=2, crashes=1), job(id=2)]
BREAKS: list[tuple[set[str], dict[str, Any]]] = [
    ({"nothing_accepted_is_lost"}, {"askings": [Asking(WISH, "accepted", {"gone"})]}),
    ({"everything_has_ended"}, {"jobs": OPEN_JOB, "logs": [log(1, "lost"), log(2, "running")]}),
    ({"nothing_came_unasked"}, {"askings": []}),
    ({"nothing_refused_is_there"}, {"askings": [Asking(WISH, "refused")]}),
    ({"nothing_is_there_twice"}, {"downloads": [download(), download(id="d2")]}),
    ({"nothing_is_there_twice"}, {"askings": [Asking(WISH, "accepted", {"d1", "d2"})]}),
    ({"histories_agree_with_rows"}, {"events": story("submit0 claim1 reap1 claim2 failed2")}),
    ({"downloads_agree_with_jobs"}, {"downloads": [download(status="failed")]}),
    ({"attempts_are_logged_once"}, {"logs": [log(1, "lost")]}),
    ({"attempts_are_logged_once"}, {"logs": [log(1, "completed"), log(2, "completed")]}),
    ({"attempts_are_logged_once"}, {"logs": [log(1, "running"), log(2, "completed")]}),
    ({"completed_files_are_right"}, {"downloads": [download(file_name="1.1.mp4")]}),
    ({"completed_files_are_right"}, {"files": {}}),
    ({"completed_files_are_right"}, {"files": {"1.2.mp4": (10, "cd" * 32)}}),
    ({"completed_files_are_right"}, {"expected": {}}),
    ({"users_got_the_right_files"}, {"fetched": [("d1", "cd" * 32)]}),
    ({"nobody_was_told_of_a_bug"}, {"answers": Counter({500: 1})}),
    ({"leftovers_are_collected"}, {"swept_media": {"1.1.mp4", "1.2.mp4"}}),
    ({"leftovers_are_collected"}, {"left_work": ["d1"]}),
    ({"leftovers_are_collected"}, {"left_processes": ["7 python -m ytdl.child"]}),
    ({"the_index_holds_nothing_that_ended"}, {"index": [1]}),
    ({"the_index_holds_nothing_that_ended"}, {"leases": [1]}),
    ({"no_exception_was_a_surprise"}, {"surprises": ["Traceback"]}),
    ({"no_attempt_met_a_bug"}, {"logs": [log(1, "failed", "internal"), log(2, "completed")]}),
    ({"jobs_are_of_askings_and_retries"}, {"jobs": TWO_JOBS}),
    ({"jobs_are_of_askings_and_retries"}, {"jobs": TWO_JOBS, "askings": [Asking(WISH, "accepted", {"d1"}, retry=409)]}),
    ({"jobs_are_of_askings_and_retries"}, {"askings": [Asking(WISH, "accepted", {"d1"}, retry=202)]}),
]


@pytest.mark.parametrize(("rules", "changes"), BREAKS, ids=[f"{min(r)}-{min(c)}" for r, c in BREAKS])
def test_a_broken_rule_is_named(rules: set[str], changes: dict[str, Any]) -> None:
    assert rules <= broken(**changes)


@pytest.mark.parametrize(
    "text",
    [
        "submit0 claim1 completed1 completed1",
        "submit0 claim1 completed1 claim2 completed2",
        "submit0 claim1 claim2 completed2",
        "submit0 completed0",
        "submit0 claim1 failed1 cancelled1",
        "submit0 cancelled0 cancelled0",
        "submit0 claim1 retry_wait1 retry_wait1 claim2 completed2",
        "claim1 completed1",
        # It was promised that it ends as cancelled.
        "submit0 claim1 cancel1 completed1",
        "submit0 claim1 cancel1 retry_wait1 cancelled1",
    ],
)
def test_an_event_that_may_not_follow_is_seen(text: str) -> None:
    assert "histories_are_legal" in {v.rule for v in check(ended_as(text))}


@pytest.mark.parametrize(
    "text",
    [
        # A zombie's write, a claim that raised nothing, one that raised too much, and one under a fence yet to come.
        "submit0 claim1 reap1 claim2 completed1",
        "submit0 claim1 reap1 claim1 completed1",
        "submit0 claim1 reap1 claim3 completed3",
        "submit0 claim1 completed2",
    ],
)
def test_a_write_under_another_fence_is_seen(text: str) -> None:
    assert "fences_grow_by_claims" in {v.rule for v in check(ended_as(text))}


def test_a_file_of_an_older_attempt_is_seen_though_its_row_agrees() -> None:
    older = {"downloads": [download(file_name="1.1.mp4")], "files": {"1.1.mp4": (10, SHA)}}
    assert "completed_files_are_right" in broken(**older)


@pytest.mark.parametrize(("crashes", "lost"), [(2, 2), (3, 2), (4, 4)])
def test_giving_up_for_the_workers_sake_takes_three_losses(crashes: int, lost: int) -> None:
    h = ended_as("submit0 claim1 reap1 claim2 reap2 claim3 failed3", crashes=crashes)
    row = download(status="failed", error={"code": "worker_lost"})
    h = replace(h, downloads=[row], logs=[log(n + 1, "lost") for n in range(lost)])
    assert "lost_workers_were_lost_thrice" in {v.rule for v in check(h)}


def test_three_losses_are_an_end_that_is_allowed() -> None:
    h = ended_as("submit0 claim1 reap1 claim2 reap2 claim3 failed3", crashes=3)
    row = download(status="failed", error={"code": "worker_lost"})
    logs = [log(n, "lost") for n in (1, 2, 3)]
    assert check(replace(h, downloads=[row], logs=logs, swept_media=set(), fetched=[])) == []


def beaten(*said: tuple[str, float, Any, set[int]]) -> bool:
    """Whether these words break the rule of beats."""
    words = [Said(by, at, kind, frozenset(jobs)) for by, at, kind, jobs in said]
    return "beats_name_what_was_confirmed" in broken(said=words)


def test_a_beat_may_name_what_was_just_confirmed() -> None:
    # Two loops beat, so a later answer may come between.
    assert not beaten(("0.1", 1, "confirmed", {1, 2}), ("0.1", 1.1, "confirmed", {2}), ("0.1", 1.2, "named", {1, 2}))


def test_a_service_that_was_stopped_between_answer_and_beat_is_no_wrongdoer() -> None:
    assert not beaten(("0.1", 1, "confirmed", {1}), ("0.1", 60, "named", {1}))
    assert not beaten(("0.1", 1, "confirmed", {1}), ("0.1", 60, "confirmed", set()), ("0.1", 60.1, "named", {1}))


def test_a_beat_that_was_not_carried_out_may_be_sent_again_and_no_other() -> None:
    first = (("0.1", 1, "confirmed", {1}), ("0.1", 1.1, "named", {1}))
    again = (("0.1", 60, "confirmed", set[int]()), ("0.1", 60.1, "named", {1}))
    assert not beaten(*first, *again)
    assert beaten(*first, ("0.1", 1.2, "done", {1}), *again)


def test_a_beat_that_names_what_was_not_confirmed_is_seen() -> None:
    assert beaten(("0.1", 1, "confirmed", {1}), ("0.1", 60, "confirmed", {2}), ("0.1", 60.1, "named", {1, 2}))
    assert beaten(("0.1", 1, "confirmed", {1}), ("0.2", 1.1, "named", {1}))
    assert beaten(("0.1", 1, "named", {1}))


def cancelled(text: str, code: str | None = None, *, answer: int | None, **changes: Any) -> set[str]:
    """The rules that this story breaks whose user got this answer to a cancel; None is for one who sent none."""
    h = ended_as(text, **changes)
    logs = [log(e.fence, e.event, code) for e in h.events if e.event == "cancelled" and e.fence]
    rows = [download(status=h.jobs[0]["state"])]
    asking = Asking(WISH, "accepted", {"d1"}, cancel=answer)
    quiet = replace(h, downloads=rows, logs=logs, askings=[asking], swept_media=set(), fetched=[])
    return {violation.rule for violation in check(quiet)}


@pytest.mark.parametrize("answer", [None, 409, 404])
def test_a_job_that_nobody_cancelled_does_not_end_as_cancelled(answer: int | None) -> None:
    for text in ("submit0 cancelled0", "submit0 claim1 cancel1 cancelled1"):
        assert cancelled(text, answer=answer) == {"only_what_was_cancelled_is_cancelled"}


@pytest.mark.parametrize("answer", [202, 0, 503])
def test_a_cancel_that_may_have_been_carried_out_explains_one_job(answer: int) -> None:
    for text in ("submit0 cancelled0", "submit0 claim1 cancel1 cancelled1"):
        assert cancelled(text, answer=answer) == set()
    jobs = [job(state="cancelled"), job(id=2, state="cancelled")]
    asking = Asking(WISH, "accepted", {"d1"}, cancel=answer, retry=202)
    assert "only_what_was_cancelled_is_cancelled" in broken(jobs=jobs, askings=[asking])


def test_what_was_said_to_be_cancelled_does_not_end_otherwise() -> None:
    said = Asking(WISH, "accepted", {"d1"}, cancel=202)
    assert broken(askings=[said]) == {"only_what_was_cancelled_is_cancelled"}
    assert broken(askings=[replace(said, cancel=409)]) == set()


def failed(code: str | None, tries: int = 1, video: str = "plain_00001", told: str | None = None) -> set[str]:
    """The rules broken by a download that failed for good in its last try, after others that a killed child ended."""
    waits = "".join(f"claim{n} retry_wait{n} " for n in range(1, tries))
    h = ended_as(f"submit0 {waits}claim{tries} failed{tries}", tries=tries)
    logs = [log(n, "failed", "child_killed") for n in range(1, tries)] + [log(tries, "failed", code)]
    row = download(status="failed", video_id=video, error={"code": told or code})
    asking = Asking(replace(WISH, video=video), "accepted", {"d1"})
    quiet = replace(h, downloads=[row], logs=logs, askings=[asking], swept_media=set(), fetched=[])
    return {violation.rule for violation in check(quiet)}


@pytest.mark.parametrize("code", ["disk_full", "rate_limited", "bot_check", "processing_failed", "video_private", None])
def test_a_download_does_not_fail_for_good_by_what_no_fault_explains(code: str | None) -> None:
    assert "failures_are_explained" in failed(code)
    assert "failures_are_explained" in failed(code, MAX_TRIES)
    assert failed("internal", MAX_TRIES) == {"failures_are_explained", "no_attempt_met_a_bug"}


def test_faults_fail_a_download_only_after_all_its_tries() -> None:
    assert failed("upstream_error", MAX_TRIES) == set()
    assert failed("upstream_error", MAX_TRIES - 1) == {"failures_are_explained"}


def test_a_video_that_cannot_be_had_fails_with_its_own_code_and_its_user_is_told_that() -> None:
    assert failed("video_private", video="private_001") == set()
    assert failed("geo_blocked", video="private_001") == {"failures_are_explained"}
    assert failed("video_private", video="private_001", told="geo_blocked") == {"failures_are_explained"}


@pytest.mark.parametrize(
    ("text", "tries", "logs"),
    [
        # A lost one, one handed back and one put off use up none.
        ("submit0 claim1 reap1 claim2 completed2", 1, [log(1, "lost"), log(2, "completed")]),
        ("submit0 claim1 yield1 claim2 completed2", 1, [log(1, "yielded", "disk_full"), log(2, "completed")]),
        # A failed one uses up one, no more.
        ("submit0 claim1 retry_wait1 claim2 completed2", 0, [log(1, "failed", "child_killed"), log(2, "completed")]),
        ("submit0 claim1 retry_wait1 claim2 completed2", 2, [log(1, "failed", "child_killed"), log(2, "completed")]),
        ("submit0 claim1 cancel1 cancelled1", 1, [log(1, "cancelled")]),
        ("submit0 claim1 cancel1 cancelled1", 0, [log(1, "cancelled", "child_killed")]),
        ("submit0 claim1 cancel1 cancelled1", 1, [log(1, "cancelled", "disk_full")]),
    ],
)
def test_tries_that_are_not_the_failures_are_seen(text: str, tries: int, logs: list[dict[str, Any]]) -> None:
    h = replace(ended_as(text, tries=tries), logs=logs)
    assert "tries_are_failures" in {v.rule for v in check(h)}
    right_one = 1 if "child_killed" in str(logs) else 0
    assert "tries_are_failures" not in {v.rule for v in check(replace(h, jobs=[h.jobs[0] | {"tries": right_one}]))}


@pytest.mark.parametrize(
    "end",
    [
        life(code=0),
        life(code=1),
        life(code=-11),
        life(code=-9),
        life(signal.SIGTERM, code=-9),
        life(signal.SIGTERM, code=1),
        life(signal.SIGTERM, code=130),
        life(signal.SIGTERM, code=-15),
        life(code=1, ready=False),
        life(signal.SIGTERM, code=0, late=True),
        replace(life(code=None), ended=None),
    ],
)
def test_an_end_of_a_service_that_nothing_explains_is_seen(end: Life) -> None:
    assert broken(lives=[end]) == {"services_end_as_they_are_made_to"}


@pytest.mark.parametrize(
    "end",
    [
        life(signal.SIGKILL, code=-9),
        life(signal.SIGTERM, signal.SIGKILL, code=-9),
        life(signal.SIGTERM, code=0),
        life(signal.SIGTERM, signal.SIGTERM, code=130),
        life(signal.SIGTERM, code=-15, ready=False),
    ],
)
def test_an_end_that_a_service_was_made_to_take_is_right(end: Life) -> None:
    assert broken(lives=[end]) == set()
