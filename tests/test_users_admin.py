"""What admins do with accounts: looking, changing, limiting, shutting out, removing. One admin always stays."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import PASSWORD, Person, Service, running
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, fetched, told
from tests.signing_in import listening
from tests.test_apikeys import made, recorded, script
from tests.test_cancel_times import begun, nothing_is_left
from ytdl import downloads, users
from ytdl.api.keys import AUTH, DB, EVENTS
from ytdl.config import Config
from ytdl.db import VIOLATIONS
from ytdl.sql import Query

LEFT = Query(
    "test.left", "one", "",
    b"SELECT (SELECT count(*) FROM downloads) AS downloads, (SELECT count(*) FROM sessions) AS sessions,"
    b" (SELECT count(*) FROM api_keys) AS keys, (SELECT count(*) FROM users WHERE username = 'ann') AS users,"
    b" (SELECT count(*) FROM download_logs) AS logs",
)  # fmt: skip
RUNNING = Query("test.running", "value", "", b"SELECT count(*) FROM jobs WHERE state = 'running' AND user_id = %(id)s")
JOBS = Query("test.jobs", "many", "", b"SELECT DISTINCT state FROM jobs")
REFERENCES = Query(
    "test.references", "many", "",
    b"SELECT conname FROM pg_constraint WHERE contype = 'f'"
    b" AND confrelid IN ('users'::regclass, 'sessions'::regclass, 'api_keys'::regclass)",
)  # fmt: skip
# As when somebody tries a download again while it is being removed: a job that no record speaks of.
LATE_FUNCTION = Query(
    "test.late", "exec", "",
    b"CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO jobs (kind, subject, user_id)"
    b" VALUES (''download'', OLD.id, OLD.user_id); RETURN NULL; END'",
)  # fmt: skip
LATE_TRIGGER = Query(
    "test.late", "exec", "",
    b"CREATE TRIGGER late AFTER DELETE ON downloads FOR EACH ROW EXECUTE FUNCTION late()",
)  # fmt: skip
# As when the database takes too long over one record, and as when another admin changes their mind meanwhile.
STUCK_FUNCTION = Query(
    "test.stuck", "exec", "",
    b"CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS"
    b" 'BEGIN RAISE ''too slow'' USING ERRCODE = ''query_canceled''; END'",
)  # fmt: skip
STUCK_TRIGGER = Query(
    "test.stuck", "exec", "",
    b"CREATE TRIGGER stuck BEFORE DELETE ON downloads FOR EACH ROW WHEN (OLD.video_id = 'many_920003')"
    b" EXECUTE FUNCTION stuck()",
)  # fmt: skip
UNSTUCK = Query("test.unstuck", "exec", "", b"DROP TRIGGER stuck ON downloads")
BACK_FUNCTION = Query(
    "test.back", "exec", "",
    b"CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS"
    b" 'BEGIN UPDATE users SET is_active = true WHERE id = OLD.user_id; RETURN NULL; END'",
)  # fmt: skip
BACK_TRIGGER = Query(
    "test.back", "exec", "",
    b"CREATE TRIGGER back AFTER DELETE ON downloads FOR EACH ROW EXECUTE FUNCTION back()",
)  # fmt: skip
ADMINS = Query("test.admins", "value", "", b"SELECT count(*) FROM users WHERE role = 'admin' AND is_active")


async def listed(person: Person, **query: Any) -> list[str]:
    answer = await person.get("/auth/users", params=query)
    assert answer.status == 200
    return [item["username"] for item in (await answer.json())["items"]]


async def changed(root: Person, whom: Person, **wish: Any) -> Any:
    answer = await root.put(f"/auth/users/{whom.user_id}", wish)
    assert answer.status == 200
    return await answer.json()


async def test_users_are_listed_filtered_and_paged(root: Person, alice: Person, bob: Person) -> None:
    assert await listed(root) == ["bob", "alice", "root", "admin"]
    assert await listed(root, role="admin") == ["root", "admin"]
    assert await listed(root, q="ALICE@exam") == ["alice"] and await listed(root, q="Bob") == ["bob"]
    assert await listed(root, q="%") == await listed(root, q="_") == []
    await changed(root, bob, is_active=False)
    assert await listed(root, is_active="false") == ["bob"] and "bob" not in await listed(root, is_active="true")
    first = await (await root.get("/auth/users", params={"limit": 3})).json()
    rest = await (await root.get("/auth/users", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [u["username"] for u in first["items"] + rest["items"]] == ["bob", "alice", "root", "admin"]
    assert rest["next_cursor"] is None


async def test_an_account_is_shown_without_its_password(root: Person, alice: Person, service: Service) -> None:
    answer = await root.get(f"/auth/users/{alice.user_id}")
    account = await answer.json()
    limits = {"concurrent_downloads": None, "requests_per_minute": None, "file_bytes": None}
    assert account.items() >= {"username": "alice", "role": "user", "limits": limits, "locked_until": None}.items()
    assert "password" not in str(account)
    [read] = await recorded(service, "sensitive_read")
    assert (read["object_id"], read["user_id"]) == (str(alice.user_id), root.user_id)


async def test_reading_oneself_is_no_reading_of_another(root: Person, service: Service) -> None:
    await root.get(f"/auth/users/{root.user_id}")
    assert await recorded(service, "sensitive_read") == []


async def test_what_is_given_is_changed_and_the_rest_stays(root: Person, alice: Person, service: Service) -> None:
    before = await (await root.get(f"/auth/users/{alice.user_id}")).json()
    after = await changed(root, alice, email="new@example.org", limits={"file_bytes": 1000})
    assert after == before | {"email": "new@example.org", "limits": before["limits"] | {"file_bytes": 1000}}
    assert await changed(root, alice, full_name=" Alice II ", limits={"requests_per_minute": 5}) == after | {
        "full_name": "Alice II", "limits": after["limits"] | {"requests_per_minute": 5}
    }  # fmt: skip
    events = [e for e in await recorded(service, "user_updated") if e["object_id"] == str(alice.user_id)]
    assert [e["detail"]["fields"] for e in events] == [["email", "file_bytes"], ["full_name", "requests_per_minute"]]
    assert (await alice.get("/auth/profile")).status == 200


BAD: list[dict[str, Any]] = [
    {"email": "x"}, {"full_name": "\u202e"}, {"role": "root"}, {"is_active": "no"}, {"locked": True}, {"username": "x"},
    {"password": PASSWORD}, {"limits": {"file_bytes": 0}}, {"limits": {"requests_per_minute": -1}}, {"id": "x"},
    {"limits": {"concurrent_downloads": 10_001}}, {"limits": {"x": 1}}, {"limits": None}, {"role": None},
]  # fmt: skip


@pytest.mark.parametrize("wish", BAD, ids=str)
async def test_a_bad_field_is_named_and_changes_nothing(root: Person, alice: Person, wish: dict[str, Any]) -> None:
    before = await (await root.get(f"/auth/users/{alice.user_id}")).json()
    answer = await root.put(f"/auth/users/{alice.user_id}", {"is_active": False} | wish)
    [fault] = (await answer.json())["errors"]
    assert answer.status == 422 and fault["field"].partition(".")[0] in wish
    assert await (await root.get(f"/auth/users/{alice.user_id}")).json() == before


async def test_a_taken_address_is_refused(root: Person, alice: Person, bob: Person) -> None:
    answer = await root.put(f"/auth/users/{alice.user_id}", {"email": "BOB@example.org"})
    assert answer.status == 409


async def test_nobody_else_administers(alice: Person, bob: Person, root: Person, service: Service) -> None:
    one = f"/auth/users/{bob.user_id}"
    for method, path in (("GET", "/auth/users"), ("GET", one), ("PUT", one), ("DELETE", one)):
        assert (await alice.request(method, path, json={"role": "admin"})).status == 403
    assert [e["detail"]["reason"] for e in await recorded(service, "authz_fail")] == ["role"] * 4
    assert (await root.get(f"/auth/users/{uuid4()}")).status == 404
    assert (await root.put(f"/auth/users/{uuid4()}", {})).status == 404
    assert (await root.delete(f"/auth/users/{uuid4()}")).status == 404


@pytest.mark.parametrize("scope", ["read", "write"])
async def test_an_admins_key_looks_at_accounts_and_touches_none(
    service: Service, root: Person, alice: Person, scope: str
) -> None:
    path = f"/auth/users/{alice.user_id}"
    async with script(service, root, (await made(root, scope=scope))["key"]) as client:
        assert (await client.get("/auth/users")).status == 200
        before = await (await client.get(path)).json()
        for answer in (await client.put(path, {"role": "admin"}), await client.delete(path)):
            assert answer.status == 403
            assert "an API key cannot do it" in (await answer.json())["detail"]
        assert await (await client.get(path)).json() == before
    assert {e["detail"]["reason"] for e in await recorded(service, "authz_fail")} == {"session"}


@pytest.mark.parametrize("wish", [{"is_active": False}, {"role": "admin"}], ids=str)
async def test_who_is_shut_out_is_out_everywhere_at_once(
    service: Service, config: Config, root: Person, alice: Person, wish: dict[str, Any]
) -> None:
    key = (await made(alice, scope="write"))["key"]
    async with (
        running(config) as other,
        script(other, alice, key) as client,
        script(other, alice, alice.token) as there,
    ):
        await listening(other.app[EVENTS])
        streams = [told(await person.get("/downloads/events")) for person in (client, there, alice)]
        assert [(await anext(stream)).type for stream in streams] == ["snapshot"] * 3
        await changed(root, alice, **wish)
        async with asyncio.timeout(10):
            assert [e for stream in streams for e in [e async for e in stream]] == []
        assert [(await p.get("/auth/profile")).status for p in (client, there, alice)] == [401] * 3
        refresh = await service.client.post("/api/v1/security/refresh", json={"refresh_token": alice.refresh_token})
        assert refresh.status == 401
    assert len(await recorded(service, "authn_token_revoked")) == 2


async def test_who_was_deactivated_comes_back_with_nothing_old(service: Service, root: Person, alice: Person) -> None:
    key = (await made(alice))["key"]
    await changed(root, alice, is_active=False)
    login = {"username": "alice", "password": PASSWORD}
    assert (await service.client.post("/api/v1/auth/login", json=login)).status == 401
    await changed(root, alice, is_active=True)
    assert (await service.client.post("/api/v1/auth/login", json=login)).status == 200
    async with script(service, alice, key) as client:
        assert (await client.get("/auth/profile")).status == (await alice.get("/auth/profile")).status == 401


async def test_a_change_of_role_is_on_record(service: Service, root: Person, alice: Person) -> None:
    await changed(root, alice, role="admin")
    [event] = await recorded(service, "privilege_permissions_changed")
    assert (event["user_id"], event["object_id"]) == (root.user_id, str(alice.user_id))
    assert event["detail"] == {"former": "user", "role": "admin"}
    await changed(root, alice, role="admin")
    assert len(await recorded(service, "privilege_permissions_changed")) == 1


async def alone(root: Person) -> None:
    """Makes root the only admin."""
    [first] = (await (await root.get("/auth/users", params={"q": "admin@localhost"})).json())["items"]
    assert (await root.delete(f"/auth/users/{first['id']}")).status == 204


async def test_the_last_admin_stays(root: Person, alice: Person) -> None:
    await alone(root)
    me = f"/auth/users/{root.user_id}"
    for wish in ({"role": "user"}, {"is_active": False}):
        assert (await root.put(me, wish)).status == 409
    assert (await root.delete(me)).status == 409
    await changed(root, alice, role="admin", is_active=False)
    # An admin who cannot sign in is none.
    assert (await root.delete(me)).status == 409
    await changed(root, alice, is_active=True)
    assert (await root.delete(me)).status == 204


@pytest.mark.parametrize("deed", ["demote", "deactivate", "delete", "both"])
async def test_of_two_admins_who_remove_each_other_one_stays(service: Service, root: Person, deed: str) -> None:
    await alone(root)
    async with service.person("rita", role="admin") as rita:

        async def act(who: Person, whom: Person, deed: str) -> int:
            path = f"/auth/users/{whom.user_id}"
            wish: dict[str, Any] = {"role": "user"} if deed == "demote" else {"is_active": False}
            return (await (who.delete(path) if deed == "delete" else who.put(path, wish))).status

        second = "delete" if deed == "both" else deed
        first = "demote" if deed == "both" else deed
        done = await asyncio.gather(act(root, rita, first), act(rita, root, second))
    assert sorted(done) in ([200, 409], [204, 409], [200, 401], [204, 401], [200, 403])
    assert await service.app[DB].value(ADMINS) == 1


async def test_only_who_changes_who_rules_waits_for_another_who_does(
    service: Service, root: Person, alice: Person
) -> None:
    async with service.app[DB].transaction() as tx:
        await users.hold_admins(tx)
        await asyncio.wait_for(changed(root, alice, full_name="A", limits={"file_bytes": 1000}), 20)
        ruling = asyncio.create_task(changed(root, alice, role="admin"))
        await asyncio.wait({ruling}, timeout=0.3)
        assert not ruling.done()
    assert (await ruling)["role"] == "admin"


async def test_a_locked_account_is_shown_and_unlocked(service: Service, root: Person, alice: Person) -> None:
    wrong = {"username": "alice", "password": "Wrong-horse-9"}
    while (await service.client.post("/api/v1/auth/login", json=wrong)).status != 423:
        pass
    assert (await (await root.get(f"/auth/users/{alice.user_id}")).json())["locked_until"]
    assert (await changed(root, alice, locked=False))["locked_until"] is None
    login = {"username": "alice", "password": PASSWORD}
    assert (await service.client.post("/api/v1/auth/login", json=login)).status == 200
    assert len(await recorded(service, "user_unlocked")) == 1


async def test_a_profile_shows_the_limits_in_force(service: Service, root: Person, alice: Person) -> None:
    limits = {"concurrent_downloads": 3, "requests_per_minute": 7000, "file_bytes": 10**9}
    before = (await (await alice.get("/auth/profile")).json())["limits"]
    await changed(root, alice, limits=limits)
    assert (await (await alice.get("/auth/profile")).json())["limits"] == limits
    await changed(root, alice, limits=dict.fromkeys(limits))
    assert (await (await alice.get("/auth/profile")).json())["limits"] == before


async def test_an_identity_says_what_its_user_may_ask(service: Service, root: Person, alice: Person) -> None:
    await changed(root, alice, limits={"requests_per_minute": 7000})
    key = (await made(alice))["key"]
    auth = service.app[AUTH]
    tickets = await auth.issue_ticket(await auth.identify(alice.token))
    for identity in (await auth.identify(alice.token), await auth.redeem(tickets.ticket)):
        assert identity.requests_per_minute == 7000
    async with script(service, alice, key) as client:
        assert (await client.get("/auth/profile")).status == 200


@pytest.fixture
def downloading_config(downloading_config: Config) -> Config:
    """A beat is far away, so it is not what brings the end of a download."""
    return dataclasses.replace(downloading_config, download_lease_seconds=120.0)


async def test_a_removed_account_leaves_nothing_running_and_nothing_of_its_own(
    downloading: Service, ann: Person, youtube: YouTube
) -> None:
    await fetched(ann, youtube.url("ordinary"), quality="144p")
    await made(ann)
    youtube.misbehave("*", media_throttle=5_000)
    # Four run, two wait.
    await asyncio.gather(*(begun(ann) for _ in range(4)))
    for n in range(2):
        await ask(ann, f"https://youtu.be/many_80000{n}")
    async with downloading.person("root", role="admin") as root:
        assert (await root.delete(f"/auth/users/{ann.user_id}")).status == 204
        await nothing_is_left(downloading)
        assert (await root.get(f"/auth/users/{ann.user_id}")).status == 404
    db = downloading.app[DB]
    assert await db.one(LEFT) == {"downloads": 0, "sessions": 1, "keys": 0, "users": 0, "logs": 5}
    assert {row["state"] for row in await db.many(JOBS)} == {"completed", "cancelled"}
    assert list((downloading.config.data_dir / "media").iterdir()) == []
    assert (await ann.get("/auth/profile")).status == 401
    [event] = await recorded(downloading, "user_deleted")
    assert (event["object_id"], event["detail"]) == (str(ann.user_id), {"files": 1})


async def test_what_is_asked_for_while_an_account_goes_does_not_stay(service: Service, root: Person) -> None:
    async with service.person("ann") as ann:
        asking = [ann.post("/downloads", {"url": f"https://youtu.be/many_9000{n:02}"}) for n in range(20)]
        answers = await asyncio.gather(*asking[:10], root.delete(f"/auth/users/{ann.user_id}"), *asking[10:])
    assert {a.status for a in answers} <= {202, 204, 401} and answers[10].status == 204
    assert (await service.app[DB].one(LEFT))["downloads"] == 0
    assert {row["state"] for row in await service.app[DB].many(JOBS)} <= {"cancelled"}


async def test_a_job_that_came_at_the_very_last_moment_is_cancelled(service: Service, root: Person) -> None:
    db = service.app[DB]
    await db.exec(LATE_FUNCTION)
    await db.exec(LATE_TRIGGER)
    async with service.person("ann") as ann:
        await ask(ann, "https://youtu.be/many_910000")
        assert (await root.delete(f"/auth/users/{ann.user_id}")).status == 204
    assert [row["state"] for row in await db.many(JOBS)] == ["cancelled"]


@pytest.fixture
async def ann_of_five(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Person]:
    """She has five downloads, where accounts go two at a time."""
    monkeypatch.setattr(downloads, "AT_ONCE", 2)
    async with service.person("ann") as ann:
        for n in range(5):
            await ask(ann, f"https://youtu.be/many_92000{n}")
        yield ann


async def test_an_account_goes_in_steps_and_what_broke_off_is_done_again(
    service: Service, root: Person, ann_of_five: Person
) -> None:
    db, path = service.app[DB], f"/auth/users/{ann_of_five.user_id}"
    await db.exec(STUCK_FUNCTION)
    await db.exec(STUCK_TRIGGER)
    assert (await root.delete(path)).status == 503
    left = await db.one(LEFT)
    assert (left["downloads"], left["users"]) == (3, 1) and await listed(root, is_active="false") == ["ann"]
    await db.exec(UNSTUCK)
    assert (await root.delete(path)).status == 204
    left = await db.one(LEFT)
    assert (left["downloads"], left["users"]) == (0, 0)
    assert [row["state"] for row in await db.many(JOBS)] == ["cancelled"]


async def test_who_is_let_in_again_meanwhile_keeps_what_is_left(
    service: Service, root: Person, ann_of_five: Person
) -> None:
    db = service.app[DB]
    await db.exec(BACK_FUNCTION)
    await db.exec(BACK_TRIGGER)
    assert (await root.delete(f"/auth/users/{ann_of_five.user_id}")).status == 409
    left = await db.one(LEFT)
    assert (left["downloads"], left["users"]) == (3, 1)


async def test_whatever_refers_to_who_asks_says_so_when_they_are_gone(service: Service) -> None:
    names = {row["conname"] for row in await service.app[DB].many(REFERENCES)}
    assert names and names <= VIOLATIONS.keys()


async def test_a_limit_of_concurrent_downloads_holds_and_ends(
    downloading: Service, ann: Person, ben: Person, youtube: YouTube
) -> None:
    youtube.misbehave("*", media_throttle=5_000)
    async with downloading.person("root", role="admin") as root:
        await changed(root, ann, limits={"concurrent_downloads": 1})
        for n in range(3):
            await ask(ann, f"https://youtu.be/many_81000{n}", quality="360p")
        await asyncio.gather(begun(ben), begun(ben))
        assert await running_of(downloading, ann) == 1
        await changed(root, ann, limits={"concurrent_downloads": 2})
        await until_runs(downloading, ann, 2)


async def until_runs(service: Service, person: Person, number: int) -> None:
    async with asyncio.timeout(10):
        while await running_of(service, person) != number:  # noqa: ASYNC110 - it waits for a worker
            await asyncio.sleep(0.05)


async def running_of(service: Service, person: Person) -> int:
    return int(await service.app[DB].value(RUNNING, id=person.user_id))


async def test_a_limit_of_a_files_size_holds(downloading: Service, ann: Person, ben: Person, youtube: YouTube) -> None:
    async with downloading.person("root", role="admin") as root:
        await changed(root, ann, limits={"file_bytes": 1000})
    ids = [(person, (await ask(person, youtube.url("ordinary"), quality="144p"))["id"]) for person in (ann, ben)]
    small, usual = [await ended(person, id) for person, id in ids]
    assert (small["status"], small["error"]["code"], usual["status"]) == ("failed", "file_too_large", "completed")
