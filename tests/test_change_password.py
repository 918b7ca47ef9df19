"""Change of password: what it wants, what it ends, and what it leaves."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import PASSWORD, Person, Service, running
from tests.signing_in import change, login, opens, refresh, second_process, trail, until
from ytdl import auth, errors, metrics, users
from ytdl.api.keys import AUTH, EVENTS
from ytdl.api.keys import DB as DB_KEY
from ytdl.auth import Auth, PasswordChange
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB, Statements
from ytdl.events import Mailbox, Reader
from ytdl.sql import Query

NEW = "Another-horse-10"
PENDING = Query("test.pending", "one", "", b"SELECT pending, failures FROM sign_in_attempts")
HASH = Query("test.hash", "value", "", b"SELECT password_hash FROM users WHERE username = 'alice'")
MANY = """
    INSERT INTO sessions (id, user_id, expires_at)
    SELECT gen_random_uuid(), users.id, now() + interval '1 day' FROM users, generate_series(1, 300)
    WHERE username = 'alice'
"""


async def change_password(person: Person, current: str = PASSWORD, new: str = NEW) -> tuple[int, Any]:
    body = {"current_password": current, "new_password": new}
    answer = await person.post("/auth/change-password", body)
    return answer.status, await answer.json() if answer.status != 204 else None


async def test_the_new_password_signs_in_and_the_old_one_does_not(service: Service, alice: Person) -> None:
    assert await change_password(alice) == (204, None)
    assert (await login(service, "alice", NEW))[0] == 200
    assert (await login(service, "alice", PASSWORD))[0] == 401


async def test_of_a_huge_new_password_no_more_is_looked_at_than_its_length(alice: Person) -> None:
    status, problem = await change_password(alice, new="a" * 1_000_000)
    fault = {"field": "new_password", "message": "must have at most 128 characters"}
    assert (status, problem["errors"]) == (422, [fault])


async def test_every_other_session_ends_at_once_with_its_tickets_and_this_one_stays(
    service: Service, alice: Person, bob: Person
) -> None:
    _, elsewhere = await login(service)
    other = await service.app[AUTH].identify(elsewhere["access_token"])
    ticket = await service.app[AUTH].issue_ticket(other)
    assert (await change_password(alice))[0] == 204
    assert not await opens(service, elsewhere["access_token"])
    assert (await refresh(service, elsewhere["refresh_token"]))[0] == 401
    with pytest.raises(errors.Unauthorized):
        await service.app[AUTH].redeem(ticket.ticket)
    for person in (alice, bob):
        assert await opens(service, person.token)
        assert (await refresh(service, person.refresh_token))[0] == 200


async def test_the_end_of_many_sessions_is_one_word(service: Service, alice: Person, database_url: str) -> None:
    await change(database_url, MANY)
    before = metrics.REGISTRY.get_sample_value("ytdl_kv_call_seconds_count", {"call": "tell"}) or 0.0
    assert (await change_password(alice))[0] == 204
    [event] = await trail(service.app[DB_KEY], "authn_token_revoked")
    assert event["detail"] == {"reason": "password", "sessions": 300}
    assert metrics.REGISTRY.get_sample_value("ytdl_kv_call_seconds_count", {"call": "tell"}) == before + 1


async def is_refused(auth: Auth, token: str) -> bool:
    try:
        await auth.identify(token)
    except errors.Unauthorized:
        return True
    return False


async def test_other_sessions_end_in_other_processes_and_so_do_their_streams(
    service: Service, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What ends them is the word of it, not that they are looked at again.
    monkeypatch.setattr(auth, "BELIEVED_SECONDS", 600.0)
    _, elsewhere = await login(service)
    async with second_process(service) as other:
        identity = await other.identify(elsewhere["access_token"])
        reader = Reader(alice.user_id, identity.credential_id, "")
        with service.app[EVENTS].subscribe(alice.user_id, reader) as stream:
            assert (await change_password(alice))[0] == 204
            assert isinstance(stream, Mailbox) and stream.closed
        await until(lambda: is_refused(other, elsewhere["access_token"]))
        assert await other.identify(alice.token)


async def test_a_sign_in_under_way_with_the_old_password_opens_nothing(service: Service, alice: Person) -> None:
    auth = service.app[AUTH]
    entered, changed, own = asyncio.Event(), asyncio.Event(), auth.hasher

    class Slow(Hasher):
        """Is not done with the first password before it has changed."""

        async def verify(self, password: str, hashed: str) -> bool:
            right = await super().verify(password, hashed)
            if not entered.is_set():
                entered.set()
                await changed.wait()
            return right

    auth.hasher = Slow(cost=4)
    signing_in = asyncio.create_task(login(service))
    await entered.wait()
    assert (await change_password(alice))[0] == 204
    changed.set()
    assert (await signing_in)[0] == 401
    auth.hasher.close()
    auth.hasher = own


@pytest.mark.parametrize(
    ("current", "new", "field"),
    [
        ("wrong", NEW, "current_password"),
        (PASSWORD, PASSWORD, "new_password"),
        (PASSWORD, "short", "new_password"),
        (PASSWORD, "Xx-alice-99", "new_password"),
        (PASSWORD, "Password-1", "new_password"),
        (PASSWORD, "x" * 1025, "new_password"),
        ("x" * 1025, NEW, "current_password"),
    ],
)
async def test_a_bad_change_names_the_field_and_changes_nothing(
    service: Service, alice: Person, current: str, new: str, field: str
) -> None:
    status, problem = await change_password(alice, current, new)
    assert (status, problem["code"]) == (422, "invalid")
    assert {fault["field"] for fault in problem["errors"]} == {field}
    assert (await login(service))[0] == 200


@pytest.fixture
async def strict(config: Config) -> AsyncIterator[Service]:
    async with running(dataclasses.replace(config, max_login_attempts=3)) as service:
        yield service


async def test_wrong_current_passwords_count_like_failed_sign_ins(strict: Service) -> None:
    async with strict.person("carol") as carol:
        for _ in range(2):
            assert (await change_password(carol, "wrong"))[0] == 422
        assert (await login(strict, "carol", "wrong"))[0] == 401
        status, problem = await change_password(carol)
        assert (status, problem["code"]) == (423, "locked")
        assert (await login(strict, "carol"))[0] == 423
        assert await opens(strict, carol.token)


class Meeting:
    """Has as many changes as it is told of wait for each other once they have read the password in force."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read = users.credentials
        self._monkeypatch = monkeypatch

    def of(self, number: int) -> None:
        self._barrier = asyncio.Barrier(number)
        self._monkeypatch.setattr(users, "credentials", self._meet)

    async def _meet(self, db: Statements, username: str) -> users.Credentials | None:
        account = await self._read(db, username)
        async with asyncio.timeout(60):
            await self._barrier.wait()
        return account


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Meeting:
    return Meeting(monkeypatch)


FAILURES = ("authn_password_change_fail", "authn_login_lock")


async def test_of_right_changes_at_once_one_is_made_and_the_others_count_for_nothing(
    strict: Service, db: DB, meeting: Meeting
) -> None:
    async with strict.person("carol") as carol:
        meeting.of(6)
        answers = await asyncio.gather(*(change_password(carol, new=f"Another-horse-1{n}") for n in range(6)))
        assert sorted((status, problem and problem["code"]) for status, problem in answers) == [
            (204, None), *[(409, "conflict")] * 5
        ]  # fmt: skip
        assert await db.one(PENDING) == {"pending": [], "failures": 0}
        assert await trail(db, *FAILURES) == []


async def test_of_changes_at_two_processes_one_is_made(strict: Service, db: DB, meeting: Meeting) -> None:
    async with strict.person("carol") as carol, second_process(strict) as other:
        identity = await other.identify(carol.token)
        meeting.of(2)
        change = PasswordChange(PASSWORD, "A-third-horse-11")
        changes = (auth.change_password(identity, change) for auth in (strict.app[AUTH], other))
        made, refused = sorted(await asyncio.gather(*changes, return_exceptions=True), key=bool)
        assert made is None and isinstance(refused, errors.Conflict) and refused.offence is None
        assert await trail(db, *FAILURES) == []


async def test_of_wrong_changes_at_once_each_counts(strict: Service, db: DB, meeting: Meeting) -> None:
    async with strict.person("carol") as carol:
        meeting.of(6)
        answers = await asyncio.gather(*(change_password(carol, "wrong") for _ in range(6)))
        assert sorted(status for status, _ in answers) == [422] * 3 + [423] * 3
        assert len(await trail(db, *FAILURES)) == 4


async def test_a_weak_new_password_is_no_failure(strict: Service) -> None:
    async with strict.person("carol") as carol:
        for _ in range(5):
            assert (await change_password(carol, new="weak"))[0] == 422
        assert (await change_password(carol))[0] == 204


async def test_changes_are_on_record(service: Service, alice: Person, db: DB) -> None:
    await login(service)
    await change_password(alice, "wrong")
    await change_password(alice)
    types = ("authn_password_change_fail", "authn_password_change", "authn_token_revoked")
    events = await trail(db, *types)
    assert [event["type"] for event in events] == list(types)
    assert {event["user_id"] for event in events} == {alice.user_id}
    assert events[2]["detail"] == {"reason": "password", "sessions": 1}
    assert PASSWORD not in str(events) and NEW not in str(events)


async def test_a_wrong_current_password_is_held_against_the_address(service: Service, alice: Person) -> None:
    identity = await service.app[AUTH].identify(alice.token)
    with pytest.raises(errors.Invalid) as refused:
        await service.app[AUTH].change_password(identity, PasswordChange("wrong", NEW))
    assert refused.value.offence == "login"


async def test_a_hash_of_another_cost_is_made_anew_at_the_next_sign_in(service: Service, alice: Person, db: DB) -> None:
    auth, own = service.app[AUTH], service.app[AUTH].hasher
    before = await db.value(HASH)
    await login(service)
    assert await db.value(HASH) == before
    auth.hasher = Hasher(cost=5)
    assert (await login(service, "alice", "wrong"))[0] == 401
    assert await db.value(HASH) == before
    for _ in range(2):
        assert (await login(service))[0] == 200
    after = await db.value(HASH)
    assert after.startswith("$2b$05$")
    assert (await login(service))[0] == 200 and await db.value(HASH) == after
    auth.hasher.close()
    auth.hasher = own


async def test_sign_ins_at_once_survive_the_change_of_cost(service: Service, alice: Person) -> None:
    auth, own = service.app[AUTH], service.app[AUTH].hasher
    auth.hasher = Hasher(cost=5)
    answers = await asyncio.gather(*(login(service) for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    auth.hasher.close()
    auth.hasher = own
