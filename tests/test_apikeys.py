"""API keys: what they open and what they never do, and that their end reaches everywhere at once."""

import asyncio
import dataclasses
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.conftest import Person, Service, running
from tests.following import Told, ask, told
from tests.signing_in import hearing, listening
from ytdl import apikeys, errors, log, metrics
from ytdl.api.keys import API_KEYS, DB, DENIALS, EVENTS
from ytdl.config import Config
from ytdl.crypto import digest
from ytdl.db import Row
from ytdl.routes import ROUTES
from ytdl.sql import Query

KEYS = Query("test.keys", "many", "", b"SELECT * FROM api_keys")
USED = Query("test.used", "value", "", b"SELECT xmin::text || ' ' || last_used_at FROM api_keys")
AGE = Query("test.age", "exec", "", b"UPDATE api_keys SET last_used_at = last_used_at - interval '61 seconds'")
EXPIRE = Query("test.expire", "exec", "", b"UPDATE api_keys SET expires_at = now() - make_interval(days => %(days)s)")
EXPIRE_SOON = Query("test.soon", "exec", "", b"UPDATE api_keys SET expires_at = now() + interval '1 minute'")
TRAIL = Query("test.events", "many", "", b"SELECT * FROM audit_events ORDER BY at")
INACTIVE = Query("test.inactive", "exec", "", b"UPDATE users SET is_active = false WHERE username = 'alice'")


async def made(person: Person, **wish: Any) -> Any:
    answer = await person.post("/auth/api-keys", {"name": "backup"} | wish)
    assert answer.status == 201
    return await answer.json()


@asynccontextmanager
async def script(service: Service, person: Person, key: str) -> AsyncIterator[Person]:
    """A client with a key instead of a token."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(service.url, headers=headers) as session:
        yield dataclasses.replace(person, session=session)


@pytest.fixture
async def reading(service: Service, alice: Person) -> AsyncIterator[Person]:
    async with script(service, alice, (await made(alice))["key"]) as client:
        yield client


@pytest.fixture
async def writing(service: Service, alice: Person) -> AsyncIterator[Person]:
    async with script(service, alice, (await made(alice, scope="write"))["key"]) as client:
        yield client


def lookups() -> float:
    """How often the database was asked whose a key is."""
    return metrics.REGISTRY.get_sample_value("ytdl_db_queries_total", {"query": "apikeys.identify"}) or 0.0


async def rest(stream: AsyncIterator[Told]) -> list[Told]:
    """What a stream that is about to end still says. Without the word of it a heartbeat would end it after 15 s."""
    async with asyncio.timeout(10):
        return [event async for event in stream]


async def recorded(service: Service, type: str) -> list[Row]:
    await service.app[DENIALS].close()
    return [event for event in await service.app[DB].many(TRAIL) if event["type"] == type]


async def test_a_key_is_shown_once_and_kept_as_a_hash(alice: Person, service: Service) -> None:
    key = await made(alice, name=" nightly ", expires_in_days=7)
    assert re.fullmatch(r"ytdl_[0-9A-Za-z]{38}", key["key"]) and key["key"].startswith(key["prefix"])
    assert (key["name"], key["scope"], key["last_used_at"]) == ("nightly", "read", None)
    [row] = await service.app[DB].many(KEYS)
    assert row["hash"] == digest(key.pop("key")) and (row["expires_at"] - row["created_at"]).days == 7
    answer = await alice.get("/auth/api-keys")
    assert await answer.json() == {"items": [key], "next_cursor": None}


@pytest.mark.parametrize(
    "wish",
    [
        {"name": ""}, {"name": " "}, {"name": "x" * 101}, {"name": "a\u202eb"}, {"name": 1}, {"scope": "admin"},
        {"expires_in_days": 0}, {"expires_in_days": 3651}, {"expires_in_days": 1.5}, {"role": "admin"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_wish_out_of_its_rules_is_refused(alice: Person, wish: Any) -> None:
    answer = await alice.post("/auth/api-keys", {"name": "x"} | wish)
    [fault] = (await answer.json())["errors"]
    assert (answer.status, fault["field"]) == (422, *wish)


async def test_a_key_that_may_read_changes_nothing(reading: Person, alice: Person, service: Service) -> None:
    id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    for path in ("/auth/profile", "/downloads", f"/downloads/{id}", f"/downloads/{id}/logs"):
        assert (await reading.get(path)).status == 200
    assert (await reading.request("HEAD", "/downloads")).status == 200
    calls = (("POST", "/downloads"), ("POST", f"/downloads/{id}/cancel"), ("DELETE", f"/downloads/{id}"))
    for method, path in calls:
        answer = await reading.request(method, path, json={"url": "https://youtu.be/dQw4w9WgXcQ"})
        assert (answer.status, (await answer.json())["detail"]) == (403, "This API key may only read.")
    denied = await recorded(service, "authz_fail")
    assert [e["detail"]["reason"] for e in denied] == ["scope"] * 3 and denied[0]["result"] == "denied"
    assert "POST /api/v1/downloads/{id}/cancel" in {e["detail"]["route"] for e in denied}


async def test_what_is_refused_again_and_again_is_on_record_once_and_always_counted(
    reading: Person, alice: Person, service: Service
) -> None:
    counted = metrics.access_denied.labels("scope")
    before = counted._value.get()
    for _ in range(30):
        assert (await reading.request("POST", "/downloads")).status == 403
    assert len(await recorded(service, "authz_fail")) == 1
    assert counted._value.get() - before == 30
    assert (await alice.get("/auth/users")).status == 403
    assert [e["detail"]["reason"] for e in await recorded(service, "authz_fail")] == ["scope", "role"]


async def test_a_key_that_may_write_asks_for_downloads(writing: Person) -> None:
    id = (await ask(writing, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    assert (await writing.delete(f"/downloads/{id}")).status == 204


async def test_no_key_makes_another_or_touches_the_account(writing: Person, alice: Person, service: Service) -> None:
    id = (await made(alice))["id"]
    calls = [
        ("GET", "/auth/api-keys"), ("POST", "/auth/api-keys"), ("DELETE", f"/auth/api-keys/{id}"),
        ("PUT", "/auth/profile"), ("POST", "/auth/logout"),
    ]  # fmt: skip
    for method, path in calls:
        answer = await writing.request(method, path, json={"name": "x"})
        assert (answer.status, (await answer.json())["code"]) == (403, "forbidden"), path
    assert [e["detail"]["reason"] for e in await recorded(service, "authz_fail")] == ["session"] * len(calls)


def test_every_row_of_the_account_is_closed_to_keys() -> None:
    own = ("/auth/api-keys", "/auth/sessions", "/auth/change-password", "/auth/logout")
    rows = [row for row in ROUTES if row.path.startswith(own)]
    assert rows and all(row.session for row in rows)
    assert all(row.needs == "write" for row in ROUTES if row.method != "GET" and row.scope is None)


async def test_an_admins_key_is_an_admins(service: Service, root: Person, alice: Person) -> None:
    id = (await ask(alice, "https://youtu.be/dQw4w9WgXcQ"))["id"]
    async with script(service, root, (await made(root))["key"]) as client:
        assert (await client.get(f"/downloads/{id}")).status == 200


async def test_a_deleted_key_opens_nothing_and_its_stream_ends(service: Service, config: Config, alice: Person) -> None:
    key = await made(alice)
    async with running(config) as other, script(other, alice, key["key"]) as client:
        # Else the word may come before anybody listens, or the stream begins anew once it is listened.
        await listening(other.app[EVENTS])
        stream = told(await client.get("/downloads/events"))
        assert (await anext(stream)).type == "snapshot"
        assert (await alice.delete(f"/auth/api-keys/{key['id']}")).status == 204
        assert await rest(stream) == []
        assert (await client.get("/auth/profile")).status == 401
    assert (await alice.delete(f"/auth/api-keys/{key['id']}")).status == 404


async def test_what_was_believed_of_a_key_ends_with_it_everywhere(
    service: Service, config: Config, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await made(alice)
    async with running(config) as other, script(other, alice, key["key"]) as there:
        await listening(other.app[EVENTS])
        # Longer than is waited for the word, so that it is not forgotten by itself.
        monkeypatch.setattr(other.app[API_KEYS]._known, "_seconds", 120.0)
        heard = hearing(other.app[EVENTS], "revoked")
        assert (await there.get("/auth/profile")).status == 200
        await alice.delete(f"/auth/api-keys/{key['id']}")
        # What was believed is forgotten before this is called.
        assert await asyncio.wait_for(heard, 30) == key["id"]
        assert (await there.get("/auth/profile")).status == 401


async def test_bob_cannot_see_or_end_alices_key(alice: Person, bob: Person, root: Person) -> None:
    id = (await made(alice))["id"]
    assert (await (await bob.get("/auth/api-keys")).json())["items"] == []
    for person in (bob, root):
        assert (await person.delete(f"/auth/api-keys/{id}")).status == 404


async def test_a_key_that_is_none_is_refused(service: Service, alice: Person) -> None:
    key = (await made(alice))["key"]
    swapped = key[:-1] + ("a" if key[-1] != "a" else "b")
    for text in (swapped, key + "x", key[:-1], key.upper(), apikeys.mint(), "ytdl_", "ytdl_\u00fc", f"{key}\udc80"):
        async with script(service, alice, text.encode("utf-8", "surrogateescape").decode("latin-1")) as client:
            answer = await client.get("/auth/profile")
            assert answer.status == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_a_typo_is_refused_without_the_database(service: Service) -> None:
    before = lookups()
    with pytest.raises(errors.Unauthorized) as refused:
        await service.app[API_KEYS].identify(apikeys.mint()[:-1] + "-")
    assert refused.value.offence == "forgery"
    assert lookups() == before


async def test_a_key_that_has_expired_is_refused_and_swept_later(
    service: Service, alice: Person, reading: Person
) -> None:
    db = service.app[DB]
    await db.exec(EXPIRE, days=0)
    assert (await reading.get("/auth/profile")).status == 401
    assert await apikeys.sweep(db) == {"api_keys": 0}
    await db.exec(EXPIRE, days=31)
    assert await apikeys.sweep(db) == {"api_keys": 1}


async def test_a_key_that_expires_is_not_believed_longer(
    service: Service, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, key = service.app[API_KEYS], (await made(alice))["key"]
    await service.app[DB].exec(EXPIRE_SOON)
    await keys.identify(key)
    monkeypatch.setattr(apikeys, "time", SimpleNamespace(time=lambda: time.time() + 61))
    with pytest.raises(errors.Unauthorized):
        await keys.identify(key)


async def test_an_inactive_users_key_opens_nothing(service: Service, reading: Person) -> None:
    await service.app[DB].exec(INACTIVE)
    assert (await reading.get("/auth/profile")).status == 401


async def test_use_is_noted_once_a_minute(service: Service, alice: Person) -> None:
    db, keys, key = service.app[DB], service.app[API_KEYS], (await made(alice))["key"]
    id = str((await keys.identify(key)).key_id)
    first = await db.value(USED)
    keys._known.forget(id)
    await keys.identify(key)
    assert await db.value(USED) == first is not None
    await db.exec(AGE)
    keys._known.forget(id)
    aged = await db.value(USED)
    await keys.identify(key)
    assert await db.value(USED) != aged


async def test_a_key_that_was_read_a_moment_ago_costs_no_query(service: Service, alice: Person) -> None:
    keys, key = service.app[API_KEYS], (await made(alice))["key"]
    await listening(service.app[EVENTS])
    before = lookups()
    known = await keys.identify(key)
    assert await keys.identify(key) is known
    assert lookups() == before + 1


async def test_there_is_a_limit_of_keys_however_fast_they_are_asked_for(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apikeys, "MOST_KEYS", 3)
    answers = await asyncio.gather(*(alice.post("/auth/api-keys", {"name": "x"}) for _ in range(8)))
    assert sorted(a.status for a in answers) == [201] * 3 + [409] * 5


async def test_a_session_that_ended_makes_no_key(service: Service, alice: Person) -> None:
    keys = service.app[API_KEYS]
    identity = await keys.identify((await made(alice))["key"])
    with pytest.raises(errors.Unauthorized):
        await keys.create(identity, apikeys.NewKey("x"))


async def test_a_ticket_of_a_key_is_as_good_as_the_key(service: Service, alice: Person, reading: Person) -> None:
    await listening(service.app[EVENTS])
    tickets = [(await (await reading.post("/auth/ticket")).json())["ticket"] for _ in range(2)]
    async with service.client.get("/api/v1/downloads/events", params={"ticket": tickets[0]}) as response:
        stream = told(response)
        assert (await anext(stream)).type == "snapshot"
        [key] = (await (await alice.get("/auth/api-keys")).json())["items"]
        await alice.delete(f"/auth/api-keys/{key['id']}")
        assert await rest(stream) == []
    async with service.client.get("/api/v1/downloads/events", params={"ticket": tickets[1]}) as response:
        assert response.status == 401


async def test_keys_are_on_record_and_never_in_clear(service: Service, alice: Person) -> None:
    key = await made(alice)
    await alice.delete(f"/auth/api-keys/{key['id']}")
    events = await recorded(service, "authn_token_created") + await recorded(service, "authn_token_revoked")
    assert [(e["object_kind"], e["object_id"], e["user_id"]) for e in events] == [
        ("api_key", key["id"], alice.user_id)
    ] * 2
    assert key["key"] not in str(await service.app[DB].many(TRAIL)) + str(await service.app[DB].many(KEYS))
    assert log.redact(f"sent {key['key']}, twice") == "sent ytdl_***, twice"


def test_a_checksum_finds_every_single_typo() -> None:
    key = apikeys.mint()
    typos = {key[:i] + c + key[i + 1 :] for i in range(5, len(key)) for c in "aA0" if c != key[i]}
    assert apikeys.is_whole(key) and not any(map(apikeys.is_whole, typos))
