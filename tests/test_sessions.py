"""Sessions: ended at once in every process, listed, noted as used, and remembered by where they came from."""

import asyncio
import dataclasses
import time
from typing import Any

import psycopg
import pytest

from tests.conftest import PASSWORD, Person, Service, running
from tests.redises import OwnRedis
from tests.signing_in import change, counted, login, opens, post, refresh, second_process, trail, until
from ytdl import errors, events, sessions
from ytdl.api.keys import AUTH, EVENTS
from ytdl.auth import BELIEVED_SECONDS, Auth
from ytdl.config import Config
from ytdl.db import DB

# What PostgreSQL says to a write when its disk is full.
FULL = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full_disk BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def test_a_logout_ends_the_session_at_once(service: Service, alice: Person) -> None:
    _, elsewhere = await login(service)
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    assert await opens(service, alice.token)
    assert (await alice.post("/auth/logout")).status == 204
    assert not await opens(service, alice.token)
    assert (await alice.post("/auth/logout")).status == 401
    assert (await refresh(service, alice.refresh_token))[0] == 401
    with pytest.raises(errors.Unauthorized):
        await service.app[AUTH].redeem(ticket)
    assert await opens(service, elsewhere["access_token"])


async def test_a_logout_reaches_other_processes(service: Service, alice: Person) -> None:
    async with second_process(service) as other:
        assert (await other.identify(alice.token)).user_id == alice.user_id
        await alice.post("/auth/logout")
        await until(lambda: heard(other))
        with pytest.raises(errors.Unauthorized):
            await other.identify(alice.token)


async def test_without_events_every_request_asks_the_database(
    service: Service, alice: Person, database_url: str
) -> None:
    async with second_process(service) as other:
        assert await other.identify(alice.token)
        await other.sessions._events.stop()
        await change(database_url, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
        assert (await other.identify(alice.token)).role == "admin"
        await change(database_url, "UPDATE sessions SET revoked_at = now()")
        with pytest.raises(errors.Unauthorized):
            await other.identify(alice.token)


async def test_a_change_that_nobody_told_is_believed_after_a_while(
    service: Service, alice: Person, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with second_process(service) as other:
        monkeypatch.setattr(other._known, "_seconds", 60.0)
        assert (await other.identify(alice.token)).role == "user"
        await change(database_url, "UPDATE users SET role = 'admin' WHERE username = 'alice'")
        assert (await other.identify(alice.token)).role == "user"
        monkeypatch.setattr(other._known, "_seconds", 0.0)
        assert (await other.identify(alice.token)).role == "admin"


async def waits_for_a_lock(database_url: str) -> bool:
    """The look at a session; rounds of the service may wait as well."""
    waiting = f"pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '-- {sessions.q.identity.name}%'"
    return bool(await counted(database_url, waiting))


async def heard(auth: Auth) -> bool:
    return auth._known.changes > 0


async def test_what_was_read_while_a_revocation_came_is_not_remembered(
    service: Service, alice: Person, database_url: str
) -> None:
    async with second_process(service) as other:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(other.identify(alice.token))
            await until(lambda: waits_for_a_lock(database_url))
            await service.app[EVENTS].tell("revoked", "another session")
            await until(lambda: heard(other))
        await reading
        await change(database_url, "UPDATE sessions SET revoked_at = now()")
        with pytest.raises(errors.Unauthorized):
            await other.identify(alice.token)


async def test_a_session_remembers_where_it_came_from(service: Service, alice: Person, database_url: str) -> None:
    headers = {"User-Agent": "curl/8 " + "x" * 1000}
    body = {"username": "alice", "password": PASSWORD}
    assert (await post(service, "/auth/login", body, headers=headers))[0] == 200
    tokens = await service.app[AUTH].sign_in("alice", PASSWORD, ip="2001:db8::1", agent="\udcff\0")
    assert tokens.access_token
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await connection.execute("SELECT host(ip), user_agent FROM sessions ORDER BY id DESC LIMIT 2")
        assert await rows.fetchall() == [("2001:db8::1", "?"), ("127.0.0.1", headers["User-Agent"][:400])]


async def believed(auth: Auth, token: str) -> bool:
    try:
        await auth.identify(token)
    except errors.Unauthorized:
        return False
    return True


async def test_a_logout_reaches_other_processes_within_three_seconds_without_redis(
    config: Config, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only once Redis' silence is noticed, which takes a minute here."""
    assert BELIEVED_SECONDS <= 3
    monkeypatch.setattr(events, "SILENCE_SECONDS", 30.0)
    config = dataclasses.replace(config, redis_url=own_redis.url)
    async with running(config) as service, service.person("carol") as carol, second_process(service) as other:
        assert (await other.identify(carol.token)).user_id == carol.user_id
        own_redis.hang()
        begun = time.monotonic()
        assert (await carol.post("/auth/logout")).status == 204
        while await believed(other, carol.token):
            assert time.monotonic() - begun < 20
            await asyncio.sleep(0.05)


async def listed(person: Person, **query: Any) -> Any:
    answer = await person.get("/auth/sessions", params=query)
    assert answer.status == 200
    return await answer.json()


async def test_sessions_are_listed_with_where_they_came_from(service: Service, alice: Person, bob: Person) -> None:
    body = {"username": "alice", "password": PASSWORD}
    await post(service, "/auth/login", body, headers={"User-Agent": "a phone"})
    page = await listed(alice)
    phone, own = page["items"]
    assert (phone["user_agent"], phone["ip"], phone["current"]) == ("a phone", "127.0.0.1", False)
    assert own["current"] and own["created_at"] <= own["last_used_at"] < own["expires_at"]
    assert set(own) == {"id", "ip", "user_agent", "created_at", "last_used_at", "expires_at", "current"}
    assert page["next_cursor"] is None


async def test_a_long_list_of_sessions_comes_in_pages(service: Service, alice: Person) -> None:
    for _ in range(4):
        await login(service)
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    for _ in range(3):
        page = await listed(alice, limit=2, **cursor)
        seen += [item["id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen)) == 5
    assert (seen, cursor) == (sorted(seen, reverse=True), {"cursor": None})


async def test_a_session_that_ended_is_not_listed(service: Service, alice: Person, database_url: str) -> None:
    for _ in range(2):
        await login(service)
    gone, expired, own = (item["id"] for item in (await listed(alice))["items"])
    assert (await alice.delete(f"/auth/sessions/{gone}")).status == 204
    await change(database_url, f"UPDATE sessions SET expires_at = now() WHERE id = '{expired}'")
    assert [item["id"] for item in (await listed(alice))["items"]] == [own]


async def test_ending_a_session_elsewhere_ends_it_at_once(service: Service, alice: Person, db: DB) -> None:
    _, elsewhere = await login(service)
    assert await opens(service, elsewhere["access_token"])
    other, _ = (await listed(alice))["items"]
    assert (await alice.delete(f"/auth/sessions/{other['id']}")).status == 204
    assert not await opens(service, elsewhere["access_token"])
    assert (await refresh(service, elsewhere["refresh_token"]))[0] == 401
    assert await opens(service, alice.token)
    assert [event["object_id"] for event in await trail(db, "authn_token_revoked")] == [other["id"]]


async def test_bob_cannot_end_alices_session(service: Service, alice: Person, bob: Person, root: Person) -> None:
    own = (await listed(alice))["items"][0]["id"]
    for person in (bob, root):
        assert (await person.delete(f"/auth/sessions/{own}")).status == 404
    assert await opens(service, alice.token)
    for unknown in ("not-an-id", str(bob.user_id)):
        assert (await alice.delete(f"/auth/sessions/{unknown}")).status == 404
    assert (await alice.delete(f"/auth/sessions/{own}")).status == 204
    assert not await opens(service, alice.token)


async def test_use_is_noted_once_a_minute(service: Service, alice: Person, database_url: str) -> None:
    used_again = "sessions WHERE last_used_at > now() - interval '30 seconds'"
    await change(database_url, "UPDATE sessions SET last_used_at = now() - interval '45 seconds'")
    async with second_process(service) as other:
        await other.identify(alice.token)
    assert await counted(database_url, used_again) == 0
    await change(database_url, "UPDATE sessions SET last_used_at = now() - interval '61 seconds'")
    async with second_process(service) as other:
        await other.identify(alice.token)
    assert await counted(database_url, used_again) == 1


async def test_of_two_processes_one_notes_a_use(service: Service, alice: Person, db: DB, database_url: str) -> None:
    session = (await service.app[AUTH].identify(alice.token)).session_id
    await change(database_url, "UPDATE sessions SET last_used_at = now() - interval '61 seconds'")
    assert [await db.exec(sessions.q.note_use, session_id=session) for _ in range(2)] == [1, 0]


async def test_a_database_that_takes_no_writes_keeps_nobody_from_looking(
    service: Service, alice: Person, database_url: str
) -> None:
    await change(database_url, "UPDATE sessions SET last_used_at = now() - interval '61 seconds'")
    await change(database_url, FULL)
    async with second_process(service) as other:
        assert (await other.identify(alice.token)).user_id == alice.user_id
