"""Lockout: no more passwords are looked at than allowed, whoever has the name, and right ones lock nobody out."""

import asyncio
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.conftest import PASSWORD, Service, running
from tests.signing_in import change, counted, login, post, second_process, trail
from ytdl import errors, lockout, metrics
from ytdl.api.keys import AUTH
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB
from ytdl.sql import Query

ATTEMPTS = 5
EVERYTHING = Query(
    "test.everything", "many", "",
    b"SELECT t::text FROM audit_events t UNION ALL SELECT t::text FROM sign_in_attempts t",
)  # fmt: skip


class Counting(Hasher):
    """The real thing; says how often it was asked."""

    verified = 0

    async def verify(self, password: str, hashed: str) -> bool:
        self.verified += 1
        return await super().verify(password, hashed)


@pytest.fixture
async def strict(config: Config, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service that counts as it does in production; all others in these tests would, too. A hundred tries at once
    may take their time."""
    monkeypatch.setattr(lockout, "WAIT_SECONDS", 60.0)
    config = dataclasses.replace(config, max_login_attempts=ATTEMPTS, lockout_duration_minutes=15.0)
    async with running(config) as service, service.person("ann"):
        own = service.app[AUTH].hasher
        service.app[AUTH].hasher = Counting(cost=4)
        yield service
        service.app[AUTH].hasher.close()
        service.app[AUTH].hasher = own


def verified(service: Service) -> int:
    hasher = service.app[AUTH].hasher
    assert isinstance(hasher, Counting)
    return hasher.verified


async def attempt(service: Service, username: str, password: str = "wrong") -> tuple[int, str]:
    """Status and Retry-After."""
    body = {"username": username, "password": password}
    async with service.client.post("/api/v1/auth/login", json=body) as answer:
        return answer.status, answer.headers.get("Retry-After", "")


async def fail(service: Service, username: str = "ann", times: int = ATTEMPTS) -> None:
    for _ in range(times):
        assert (await login(service, username, "wrong"))[0] == 401


async def pass_time(service: Service, seconds: float) -> None:
    """As if it were so much later."""
    await change(
        service.config.database_url,
        f"UPDATE sign_in_attempts SET locked_until = locked_until - make_interval(secs => {seconds}),"
        f" expires_at = expires_at - make_interval(secs => {seconds}),"
        f" pending = ARRAY(SELECT began - make_interval(secs => {seconds}) FROM unnest(pending) AS began)",
    )


@pytest.mark.parametrize("username", ["ann", "nobody", "no name at all"])
async def test_a_name_is_locked_after_so_many_failures_whoever_has_it(strict: Service, username: str) -> None:
    await fail(strict, username)
    async with strict.client.post(
        "/api/v1/auth/login", json={"username": username.upper(), "password": PASSWORD}
    ) as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (423, "locked")
        assert 890 <= int(answer.headers["Retry-After"]) <= 900
    assert verified(strict) == ATTEMPTS


async def test_a_lock_says_the_same_whoever_has_the_name(strict: Service) -> None:
    answers = []
    for username in ("ann", "nobody"):
        await fail(strict, username)
        status, problem = await login(strict, username)
        del problem["request_id"]
        answers.append((status, problem))
    assert answers[0] == answers[1]


async def test_the_token_route_counts_to_the_same_lock(strict: Service) -> None:
    grant = {"username": "ann", "password": "wrong"}
    await fail(strict, times=3)
    for _ in range(2):
        assert (await post(strict, "/security/token", data=grant))[0] == 401
    assert (await post(strict, "/security/token", data=grant | {"password": PASSWORD}))[0] == 423
    assert (await attempt(strict, "ann", PASSWORD))[0] == 423


@pytest.mark.parametrize("username", ["ann", "nobody"])
async def test_of_a_hundred_wrong_passwords_at_once_no_more_are_looked_at_than_allowed(
    strict: Service, username: str
) -> None:
    answers = Counter(await asyncio.gather(*(attempt(strict, username) for _ in range(100))))
    assert Counter({status: n for (status, _), n in answers.items() if status == 401}) == {401: ATTEMPTS}
    assert sum(n for (status, _), n in answers.items() if status == 423) == 100 - ATTEMPTS
    assert verified(strict) == ATTEMPTS


def asked() -> float:
    """How often PostgreSQL was asked for a try, by this whole process."""
    return metrics.REGISTRY.get_sample_value("ytdl_db_queries_total", {"query": "lockout.reserve"}) or 0


class Held(Counting):
    """Answers for no password before it is told to."""

    def __init__(self) -> None:
        super().__init__(cost=4)
        self.free = asyncio.Event()

    async def verify(self, password: str, hashed: str) -> bool:
        right = await super().verify(password, hashed)
        await self.free.wait()
        return right


async def test_tries_that_wait_for_others_do_not_ask_again_and_again(strict: Service) -> None:
    own, hasher = strict.app[AUTH].hasher, Held()
    strict.app[AUTH].hasher = hasher
    before = asked()
    answers = asyncio.gather(*(attempt(strict, "ann") for _ in range(60)))
    async with asyncio.timeout(30):
        while hasher.verified < ATTEMPTS:  # noqa: ASYNC110 - it counts and tells nobody
            await asyncio.sleep(0.01)
    await asyncio.sleep(5 * lockout.ASK_SECONDS)
    assert asked() - before == ATTEMPTS
    hasher.free.set()
    assert Counter(status for status, _ in await answers) == {401: ATTEMPTS, 423: 60 - ATTEMPTS}
    hasher.close()
    strict.app[AUTH].hasher = own


async def test_a_hundred_wrong_passwords_at_two_processes_are_no_more_either(strict: Service) -> None:
    async with second_process(strict) as other:
        other.hasher.close()
        other.hasher = Counting(cost=4)
        tries = [auth.sign_in("ann", "wrong") for _ in range(50) for auth in (strict.app[AUTH], other)]
        outcomes = Counter(map(type, await asyncio.gather(*tries, return_exceptions=True)))
        assert outcomes == {errors.Unauthorized: ATTEMPTS, errors.Locked: 100 - ATTEMPTS}
        assert verified(strict) + other.hasher.verified == ATTEMPTS


async def test_the_right_password_among_wrong_ones_signs_in_while_tries_are_left(strict: Service) -> None:
    passwords = ["wrong"] * 4 + [PASSWORD]
    answers = await asyncio.gather(*(attempt(strict, "ann", password) for password in passwords))
    assert sorted(status for status, _ in answers) == [200, 401, 401, 401, 401]


async def test_twenty_right_passwords_at_once_all_sign_in(strict: Service) -> None:
    answers = Counter(await asyncio.gather(*(attempt(strict, "ann", PASSWORD) for _ in range(20))))
    assert answers == {(200, ""): 20}
    assert (await counted(strict.config.database_url, "sign_in_attempts WHERE pending <> '{}' OR failures <> 0")) == 0


async def test_twenty_right_passwords_at_two_processes_all_sign_in(strict: Service) -> None:
    async with second_process(strict) as other:
        tries = [auth.sign_in("ann", PASSWORD) for _ in range(10) for auth in (strict.app[AUTH], other)]
        assert len(await asyncio.gather(*tries)) == 20


async def test_a_success_makes_failures_before_it_forgotten(strict: Service) -> None:
    for _ in range(3):
        await fail(strict, times=ATTEMPTS - 1)
        assert (await attempt(strict, "ann", PASSWORD))[0] == 200


async def test_failures_are_forgotten_after_the_time_of_a_lock(strict: Service) -> None:
    await fail(strict, times=ATTEMPTS - 1)
    await pass_time(strict, 901)
    await fail(strict, times=ATTEMPTS - 1)
    assert (await attempt(strict, "ann", PASSWORD))[0] == 200


async def locks(service: Service, number: int, failures: int) -> list[int]:
    """How many minutes each of so many locks in a row lasts, for somebody who goes on guessing when one has ended."""
    locked = []
    for _ in range(number):
        await fail(service, times=failures)
        status, wait = await attempt(service, "ann", PASSWORD)
        assert status == 423
        locked.append(round(int(wait) / 60))
        await pass_time(service, int(wait) + 1)
    return locked


async def test_a_lock_ends_and_the_next_lasts_twice_as_long_up_to_an_hour(strict: Service) -> None:
    assert await locks(strict, 5, ATTEMPTS) == [15, 30, 60, 60, 60]
    assert (await attempt(strict, "ann", PASSWORD))[0] == 200
    await fail(strict)
    assert round(int((await attempt(strict, "ann"))[1]) / 60) == 15


@pytest.mark.parametrize(("minutes", "lasting"), [(25.0, [25, 50, 60, 60]), (90.0, [90, 90, 90, 90])])
async def test_a_longer_setting_stays_as_it_is_set(config: Config, minutes: float, lasting: list[int]) -> None:
    config = dataclasses.replace(config, max_login_attempts=1, lockout_duration_minutes=minutes)
    async with running(config) as service, service.person("ann"):
        assert await locks(service, len(lasting), failures=1) == lasting


async def test_a_lock_is_as_short_as_the_settings_say(config: Config) -> None:
    config = dataclasses.replace(config, max_login_attempts=1, lockout_duration_minutes=1 / 6)
    async with running(config) as service, service.person("ann"):
        await fail(service, times=1)
        status, wait = await attempt(service, "ann", PASSWORD)
        assert status == 423 and 1 <= int(wait) <= 10
        await pass_time(service, 10)
        assert (await attempt(service, "ann", PASSWORD))[0] == 200


async def test_a_process_that_dies_at_a_password_locks_nobody_for_ever(
    strict: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout, "WAIT_SECONDS", 0.3)
    for _ in range(ATTEMPTS):
        dying = strict.app[AUTH].lockout.attempt("ann")
        await dying.__aenter__()
    assert await counted(strict.config.database_url, f"sign_in_attempts WHERE cardinality(pending) = {ATTEMPTS}") == 1
    async with second_process(strict) as other:
        with pytest.raises(errors.Unavailable):
            await other.sign_in("ann", PASSWORD)
        await pass_time(strict, 61)
        assert await other.sign_in("ann", PASSWORD)


async def test_what_dead_processes_left_runs_out_while_the_name_is_in_use(strict: Service) -> None:
    for _ in range(ATTEMPTS - 1):
        await strict.app[AUTH].lockout.attempt("ann").__aenter__()
    for _ in range(3):
        await pass_time(strict, 25)
        assert (await attempt(strict, "ann", PASSWORD))[0] == 200
    assert [(await attempt(strict, "ann"))[0] for _ in range(ATTEMPTS - 1)] == [401] * (ATTEMPTS - 1)
    assert (await attempt(strict, "ann", PASSWORD))[0] == 200
    assert await counted(strict.config.database_url, "sign_in_attempts WHERE pending <> '{}'") == 0


async def test_a_try_ends_only_itself(strict: Service, db: DB) -> None:
    doors = strict.app[AUTH].lockout
    tries = [doors.attempt("bob") for _ in range(4)]
    first, *others = [await entered.__aenter__() for entered in tries]
    await first.right(db)
    await first.right(db)
    assert await counted(strict.config.database_url, "sign_in_attempts WHERE cardinality(pending) = 3") == 1
    for other in others:
        await other.wrong(db, None)
    assert await counted(strict.config.database_url, "sign_in_attempts WHERE pending = '{}' AND failures = 3") == 1


async def test_a_try_under_way_is_not_swept_however_short_a_lock_is(strict: Service, db: DB) -> None:
    await strict.app[AUTH].lockout.attempt("bob").__aenter__()
    await change(strict.config.database_url, "UPDATE sign_in_attempts SET expires_at = now() - interval '1 second'")
    # Rows are counted, as the janitor's own round may be quicker.
    await lockout.sweep(db)
    assert await counted(strict.config.database_url, "sign_in_attempts") == 1
    await pass_time(strict, 61)
    await lockout.sweep(db)
    assert await counted(strict.config.database_url, "sign_in_attempts") == 0


async def test_a_try_in_which_no_password_was_looked_at_is_given_back(strict: Service) -> None:
    with pytest.raises(errors.Unavailable):
        async with strict.app[AUTH].lockout.attempt("ann"):
            raise errors.Unavailable("The waiting room is full.")
    assert await counted(strict.config.database_url, "sign_in_attempts WHERE pending = '{}' AND failures = 0") == 1


async def test_a_full_waiting_room_turns_away_before_anything_is_written(strict: Service) -> None:
    auth, own = strict.app[AUTH], strict.app[AUTH].hasher
    auth.hasher, free = Hasher(cost=4, threads=1, waiting=0), threading.Event()
    busy = asyncio.create_task(auth.hasher._run(lambda: free.wait(30)))
    await asyncio.sleep(0)
    assert (await attempt(strict, "nobody"))[0] == 503
    free.set()
    await busy
    auth.hasher.close()
    auth.hasher = own
    # The row of ann, who has signed in.
    assert await counted(strict.config.database_url, "sign_in_attempts") == 1


async def test_an_admin_unlocks_a_name_and_sees_which_are_locked(strict: Service, db: DB) -> None:
    doors = strict.app[AUTH].lockout
    await fail(strict)
    locked = await doors.locked_until(db, ["ann", "bob", "nobody"])
    assert list(locked) == ["ann"] and 890 < locked["ann"].timestamp() - time.time() <= 900
    await doors.unlock(db, "ann")
    assert await doors.locked_until(db, ["ann"]) == {}
    assert (await attempt(strict, "ann", PASSWORD))[0] == 200


async def test_failures_and_locks_are_on_record_without_the_name_that_was_typed(strict: Service, db: DB) -> None:
    await fail(strict, "ann")
    await fail(strict, "my-password-in-the-wrong-field")
    failed = await trail(db, "authn_login_fail")
    ann = failed[0]["user_id"]
    assert [row["user_id"] for row in failed] == [ann] * ATTEMPTS + [None] * ATTEMPTS
    assert {str(row["ip"]) for row in failed} == {"127.0.0.1"}
    assert [row["user_id"] for row in await trail(db, "authn_login_lock")] == [ann, None]
    kept = await db.many(EVERYTHING)
    assert "my-password" not in str(kept) and "authn_login_lock" in str(kept)


async def test_a_failed_login_is_held_against_the_address(strict: Service) -> None:
    for username in ("ann", "nobody"):
        with pytest.raises(errors.Unauthorized) as refused:
            await strict.app[AUTH].sign_in(username, "wrong")
        assert refused.value.offence == "login"
