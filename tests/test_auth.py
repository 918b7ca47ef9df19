"""Sign-in, access tokens and tickets through the real server."""

import asyncio
import dataclasses
import itertools
import logging
import threading
import time
from typing import Any

import bcrypt
import psycopg
import pytest

from tests.conftest import PASSWORD, SECRET, Person, Service, running
from tests.signing_in import change, lines, login, opens, post, refresh, second_process
from tests.test_tokens import REFUSED, signed
from ytdl import auth, errors, janitor
from ytdl.api.keys import AUTH
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB

NO_TEXT: tuple[Any, ...] = (None, 1, True, ["x"], {})


async def test_a_login_answers_a_pair_that_works(service: Service, alice: Person) -> None:
    status, tokens = await login(service)
    assert status == 200
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 30 * 60)
    assert await opens(service, tokens["access_token"])
    profile = await (await alice.get("/auth/profile")).json()
    assert profile["last_login"] >= profile["created_at"]


async def test_a_name_signs_in_in_any_case(service: Service, alice: Person) -> None:
    assert (await login(service, "ALICE"))[0] == 200


async def test_an_address_is_not_a_name(service: Service, alice: Person) -> None:
    assert (await login(service, "alice@example.org"))[0] == 401


async def test_every_failed_login_looks_the_same(
    service: Service, alice: Person, bob: Person, database_url: str
) -> None:
    await change(database_url, "UPDATE users SET is_active = false WHERE username = 'bob'")
    tries = [("alice", "wrong"), ("nobody", PASSWORD), ("bob", PASSWORD), ("bob", "wrong"), ("a b", PASSWORD)]
    answers = [await login(service, *attempt) for attempt in [*tries, ("", ""), ("x" * 254, "x" * 1024)]]
    for _, problem in answers:
        del problem["request_id"]
    assert answers == [answers[0]] * len(answers)
    assert (answers[0][0], answers[0][1]["code"]) == (401, "unauthorized")


BODIES: dict[str, dict[str, tuple[str, ...]]] = {
    "/auth/login": {"username": ("x" * 255, "a\0b"), "password": ("x" * 1025, "a\0b")},
    "/security/token": {
        "username": ("x" * 255,), "password": ("x" * 1025,), "grant_type": ("client_credentials", ""),
        "scope": ("x" * 1025,), "client_id": ("x" * 255,), "client_secret": ("x" * 255,),
    },
    "/security/refresh": {"refresh_token": ("x" * 513, "a\0b")},
}  # fmt: skip
REQUIRED = ("username", "password", "refresh_token")


async def test_every_bad_field_is_named(service: Service) -> None:
    for path, fields in BODIES.items():
        good = {name: "x" for name in fields if name in REQUIRED}
        bad = [(name, good | {name: v}) for name, values in fields.items() for v in (*NO_TEXT, *values)]
        bad += [(name, {n: v for n, v in good.items() if n != name}) for name in good]
        bad += [("surprise", good | {"surprise": 1})]
        for name, body in bad:
            status, problem = await post(service, path, body)
            assert (status, problem["code"]) == (422, "invalid"), (path, body)
            assert [fault["field"] for fault in problem["errors"]] == [name], (path, body)


async def test_a_body_that_is_no_object_is_refused(service: Service) -> None:
    bodies = ((b"[]", 422), (b'"x"', 422), (b"{", 400), (b"\xff", 400), (b"", 400))
    headers = {"Content-Type": "application/json"}
    for path, (raw, status) in itertools.product(("/auth/register", *BODIES), bodies):
        async with service.client.post(f"/api/v1{path}", data=raw, headers=headers) as answer:
            assert answer.status == status, (path, raw)


async def test_the_token_route_takes_a_form_and_json(service: Service, alice: Person) -> None:
    grant = {"grant_type": "password", "username": "alice", "password": PASSWORD, "scope": ""}
    short = {"username": "alice", "password": PASSWORD}
    for how in ({"data": grant}, {"data": short}, {"json": grant}, {"json": short}):
        status, tokens = await post(service, "/security/token", **how)
        assert status == 200
        assert await opens(service, tokens["access_token"])
    status, _ = await post(service, "/security/token", data=grant | {"password": "wrong"})
    assert status == 401


async def test_a_form_may_hold_parameters_that_nobody_here_knows_and_json_may_not(
    service: Service, alice: Person
) -> None:
    grant = {"username": "alice", "password": PASSWORD, "audience": "x", "grant_type": "", "scope": ""}
    assert (await post(service, "/security/token", data=grant))[0] == 200
    status, problem = await post(
        service, "/security/token", {"username": "alice", "password": PASSWORD, "audience": ""}
    )
    assert (status, problem["errors"][0]["field"]) == (422, "audience")


@pytest.mark.parametrize("name", ["username", "password", "grant_type", "audience"])
async def test_a_form_with_a_parameter_that_comes_twice_is_refused(service: Service, alice: Person, name: str) -> None:
    form = [("grant_type", "password"), ("username", "alice"), ("password", PASSWORD), ("audience", "x"), (name, "")]
    status, problem = await post(service, "/security/token", data=form)
    assert (status, problem["errors"][0]["field"]) == (422, name)


async def test_a_form_is_not_taken_where_json_is_wanted(service: Service, alice: Person) -> None:
    status, _ = await post(service, "/auth/login", data={"username": "alice", "password": PASSWORD})
    assert status == 415


async def test_bad_tokens_are_refused_by_the_server(service: Service, alice: Person) -> None:
    vectors = {name: make(SECRET.encode()) for name, make in REFUSED.items()}
    for name in ("huge", "not ASCII", "half a surrogate", "empty"):
        del vectors[name]  # HTTP itself refuses these, or has no way to say them
    identity = await service.app[AUTH].identify(alice.token)
    session, user = str(identity.session_id), str(identity.user_id)
    vectors["of a session that never was"] = signed(SECRET.encode(), sub=user)
    vectors["of another's session"] = signed(SECRET.encode(), sid=session)
    assert await opens(service, signed(SECRET.encode(), sub=user, sid=session))
    for name, token in vectors.items():
        assert not await opens(service, token), name
    assert await opens(service, alice.token)


async def test_a_change_of_the_key_ends_no_session(config: Config) -> None:
    async with running(config) as service, service.person("carol") as carol:
        pass
    config = dataclasses.replace(config, jwt_secret_key=SECRET[::-1], jwt_secret_key_previous=SECRET)
    async with running(config) as service:
        assert await opens(service, carol.token)
        _, pair = await refresh(service, carol.refresh_token)
        assert await opens(service, pair["access_token"])


async def test_a_huge_header_is_answered(service: Service) -> None:
    headers = {"Authorization": "Bearer " + "x" * 7000}
    async with service.client.get("/api/v1/auth/profile", headers=headers) as answer:
        assert answer.status == 401


async def test_a_strange_header_is_no_sign_in(service: Service) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic YTpi", "Bearer \xff\xfe", "bearer x y"):
        headers = {"Authorization": header}
        async with service.client.get("/api/v1/auth/profile", headers=headers) as answer:
            assert answer.status == 401, header
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_no_token_is_taken_for_one_of_another_kind(service: Service, alice: Person) -> None:
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    assert not await opens(service, alice.refresh_token)
    assert not await opens(service, ticket)
    for wrong in (alice.token, ticket):
        assert (await refresh(service, wrong[:512]))[0] == 401
    for wrong in (alice.token, alice.refresh_token):
        with pytest.raises(errors.Unauthorized):
            await service.app[AUTH].redeem(wrong)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET expires_at = now()",
        "UPDATE sessions SET revoked_at = now()",
        "UPDATE users SET is_active = false",
        "DELETE FROM users WHERE username = 'alice'",
    ],
)
async def test_a_session_that_ended_gives_nothing(
    service: Service, alice: Person, database_url: str, statement: str
) -> None:
    ticket = await service.app[AUTH].issue_ticket(await service.app[AUTH].identify(alice.token))
    await change(database_url, statement)
    assert (await refresh(service, alice.refresh_token))[0] == 401
    with pytest.raises(errors.Unauthorized):
        await service.app[AUTH].redeem(ticket.ticket)
    async with second_process(service) as other:
        with pytest.raises(errors.Unauthorized):
            await other.identify(alice.token)


async def test_knowing_who_asks_costs_next_to_nothing(service: Service, alice: Person) -> None:
    async with second_process(service) as other:
        # Another process may hold both cores for a while; a question to the database would cost more every time.
        for _ in range(1000):
            begun = time.perf_counter()
            for _ in range(100):
                await other.identify(alice.token)
            cost = (time.perf_counter() - begun) / 100
            if cost < 100e-6:
                break
    assert cost < 100e-6


async def test_a_ticket_is_redeemed_once(service: Service, alice: Person) -> None:
    answer = await alice.post("/auth/ticket")
    ticket = await answer.json()
    assert (answer.status, ticket["expires_in"]) == (200, 60)
    tries = [service.app[AUTH].redeem(ticket["ticket"]) for _ in range(10)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    (identity,) = [o for o in outcomes if not isinstance(o, errors.Unauthorized)]
    assert isinstance(identity, auth.Identity) and identity.user_id == alice.user_id


async def test_a_ticket_expires(service: Service, alice: Person, database_url: str) -> None:
    ticket = (await (await alice.post("/auth/ticket")).json())["ticket"]
    await change(database_url, "UPDATE tickets SET expires_at = expires_at - interval '60 seconds'")
    with pytest.raises(errors.Unauthorized):
        await service.app[AUTH].redeem(ticket)


async def test_only_digests_are_stored(service: Service, alice: Person, db: DB) -> None:
    await alice.post("/auth/ticket")
    for table in ("refresh_tokens", "tickets", "users", "sessions"):
        async with await psycopg.AsyncConnection.connect(db.url) as connection:
            rows = await (await connection.execute(f"SELECT t::text FROM {table} t".encode())).fetchall()
        assert rows
        for secret in (alice.refresh_token, alice.refresh_token.encode().hex(), PASSWORD):
            assert secret not in str(rows)


async def test_too_many_logins_at_once_are_turned_away(service: Service, alice: Person) -> None:
    narrow, own = Hasher(threads=1, waiting=1), service.app[AUTH].hasher
    service.app[AUTH].hasher = narrow
    answers = await asyncio.gather(*(login(service, f"nobody{n}") for n in range(10)))
    service.app[AUTH].hasher = own
    narrow.close()
    assert sorted({status for status, _ in answers}) == [401, 503]
    assert {problem["code"] for status, problem in answers if status == 503} == {"unavailable"}


async def test_logins_leave_the_event_loop_free(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else is answered while passwords are looked at."""
    begun, answered, in_time, checkpw = threading.Event(), threading.Event(), list[bool](), bcrypt.checkpw

    def slowly(password: bytes, hashed: bytes) -> bool:
        begun.set()
        in_time.append(answered.wait(20))
        return checkpw(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", slowly)
    logins = asyncio.gather(*(login(service, f"nobody{n}", "wrong") for n in range(4)))
    try:
        while not begun.is_set():
            assert not logins.done()
            await asyncio.sleep(0.01)
        async with service.client.get("/healthz") as answer:
            assert answer.status == 200
    finally:
        answered.set()
    assert [status for status, _ in await logins] == [401] * 4
    assert in_time == [True] * 4


async def test_sign_ins_are_logged_without_secrets(
    service: Service, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, tokens = await login(service)
    await login(service, "alice", "my-wrong-password")
    await login(service, "my-password-in-the-name-field", "x")
    assert [line["user_id"] for line in lines(caplog, "authn_login_success")] == [str(alice.user_id)]
    failed = lines(caplog, "authn_login_fail")
    assert [line.get("user_id") for line in failed] == [str(alice.user_id), None]
    logged = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("ytdl"))
    for secret in (PASSWORD, "my-wrong", "my-password", tokens["access_token"], tokens["refresh_token"]):
        assert secret not in logged


@pytest.fixture
def no_janitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not sweep by itself meanwhile."""
    monkeypatch.setattr(janitor, "FIRST_SECONDS", 600.0)


@pytest.mark.usefixtures("no_janitor")
async def test_the_sweep_takes_only_what_nobody_can_use(
    service: Service, alice: Person, db: DB, database_url: str
) -> None:
    await alice.post("/auth/ticket")
    assert await auth.sweep(db) == {"tickets": 0, "sessions": 0, "sign_in_attempts": 0}
    await change(database_url, "UPDATE tickets SET expires_at = now() - interval '1 second'")
    assert await auth.sweep(db) == {"tickets": 1, "sessions": 0, "sign_in_attempts": 0}
    await change(database_url, "UPDATE sessions SET expires_at = now() - interval '31 days'")
    assert await auth.sweep(db) == {"tickets": 0, "sessions": 1, "sign_in_attempts": 0}
    await change(database_url, "UPDATE sign_in_attempts SET expires_at = now() - interval '1 second'")
    assert await auth.sweep(db) == {"tickets": 0, "sessions": 0, "sign_in_attempts": 1}
