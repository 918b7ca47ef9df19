"""Refresh tokens: one use, one successor, and the end of the session when a thief shows."""

import asyncio
from collections import Counter

import pytest

from tests.conftest import SECRET, Person, Service
from tests.signing_in import change, counted, lines, login, opens, post, refresh, second_process, trail
from ytdl import errors
from ytdl.api.keys import AUTH
from ytdl.auth import Auth
from ytdl.db import DB

NEW = "the-key-after-a-change-of-it-0123456789"
LATER = "UPDATE refresh_tokens SET used_at = used_at - interval '11 seconds'"


async def test_a_refresh_answers_a_new_pair_of_the_same_session(service: Service, alice: Person) -> None:
    status, pair = await post(service, "/security/refresh", {"refresh_token": alice.refresh_token})
    assert status == 200
    assert pair["refresh_token"] != alice.refresh_token
    assert await opens(service, pair["access_token"])
    assert await opens(service, alice.token)
    assert (await refresh(service, pair["refresh_token"]))[0] == 200


async def test_a_client_that_lost_the_answer_gets_the_same_token_again(service: Service, alice: Person) -> None:
    _, first = await refresh(service, alice.refresh_token)
    status, again = await refresh(service, alice.refresh_token)
    assert (status, again["refresh_token"]) == (200, first["refresh_token"])
    assert await opens(service, again["access_token"])
    assert (await refresh(service, again["refresh_token"]))[0] == 200


async def test_a_token_that_was_spent_a_while_ago_ends_its_session_and_no_other(
    service: Service, alice: Person, db: DB, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, elsewhere = await login(service)
    _, pair = await refresh(service, alice.refresh_token)
    assert await opens(service, pair["access_token"])
    await change(database_url, LATER)
    status, problem = await refresh(service, alice.refresh_token)
    assert (status, problem["code"]) == (401, "unauthorized")
    assert not await opens(service, pair["access_token"])
    assert (await refresh(service, pair["refresh_token"]))[0] == 401
    assert await opens(service, elsewhere["access_token"])
    (line,) = lines(caplog, "authn_token_reuse")
    (event,) = await trail(db, "authn_token_reuse")
    assert line["user_id"] == str(event["user_id"]) == str(alice.user_id)
    assert (event["severity"], event["result"], event["object_kind"]) == ("critical", "denied", "session")


async def test_a_token_before_the_last_ends_the_session_however_soon_it_comes(service: Service, alice: Person) -> None:
    _, second = await refresh(service, alice.refresh_token)
    _, third = await refresh(service, second["refresh_token"])
    assert (await refresh(service, alice.refresh_token))[0] == 401
    for dead in (alice.token, second["access_token"], third["access_token"]):
        assert not await opens(service, dead)
    assert (await refresh(service, third["refresh_token"]))[0] == 401


async def test_the_last_token_gets_nothing_once_its_session_has_ended(service: Service, alice: Person) -> None:
    await refresh(service, alice.refresh_token)
    await alice.post("/auth/logout")
    assert (await refresh(service, alice.refresh_token))[0] == 401


async def test_a_reuse_is_recorded_once_however_often_it_comes(
    service: Service, alice: Person, db: DB, database_url: str
) -> None:
    auth: Auth = service.app[AUTH]
    await auth.refresh(alice.refresh_token)
    await change(database_url, LATER)
    for _ in range(3):
        with pytest.raises(errors.Unauthorized) as refused:
            await auth.refresh(alice.refresh_token)
        assert refused.value.offence == "reuse"
    assert len(await trail(db, "authn_token_reuse")) == 1


async def test_a_client_that_lost_the_answer_gets_it_again_after_a_change_of_the_key(
    service: Service, alice: Person
) -> None:
    _, first = await refresh(service, alice.refresh_token)
    async with second_process(service, NEW, previous=SECRET) as changed:
        again = await changed.refresh(alice.refresh_token)
        assert again.refresh_token == first["refresh_token"]
        assert await changed.identify(again.access_token)
        assert (await changed.refresh(again.refresh_token)).refresh_token != first["refresh_token"]


async def test_a_process_with_the_old_key_takes_nobody_for_a_thief(service: Service, alice: Person, db: DB) -> None:
    async with second_process(service, NEW, previous=SECRET) as changed:
        first = await changed.refresh(alice.refresh_token)
        assert (await refresh(service, alice.refresh_token))[0] == 503
        assert (await changed.refresh(alice.refresh_token)).refresh_token == first.refresh_token
        await changed.refresh(first.refresh_token)
        assert (await refresh(service, alice.refresh_token))[0] == 401
    assert len(await trail(db, "authn_token_reuse")) == 1


async def test_a_token_that_was_never_given_is_no_reuse(service: Service, alice: Person, db: DB) -> None:
    with pytest.raises(errors.Unauthorized) as refused:
        await service.app[AUTH].refresh("x" * 43)
    assert refused.value.offence is None
    assert await trail(db, "authn_token_reuse") == []


async def test_of_fifty_refreshes_at_once_one_family_lives_with_one_successor(
    service: Service, alice: Person, database_url: str
) -> None:
    answers = await asyncio.gather(*(refresh(service, alice.refresh_token) for _ in range(50)))
    assert Counter(status for status, _ in answers) == {200: 50}
    (successor,) = {pair["refresh_token"] for _, pair in answers}
    assert all([await opens(service, pair["access_token"]) for _, pair in answers[:5]])
    assert await counted(database_url, "sessions WHERE revoked_at IS NULL") == 1
    assert await counted(database_url, "refresh_tokens WHERE used_at IS NULL") == 1
    assert (await refresh(service, successor))[0] == 200


async def test_a_refresh_does_not_prolong_the_session(service: Service, alice: Person, database_url: str) -> None:
    await change(database_url, "UPDATE sessions SET expires_at = now() + interval '1 minute'")
    _, pair = await refresh(service, alice.refresh_token)
    await change(database_url, "UPDATE sessions SET expires_at = expires_at - interval '1 minute'")
    assert (await refresh(service, pair["refresh_token"]))[0] == 401
