"""Accounts: the rules of registration, the own profile and the first admin."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.conftest import Person, Service
from ytdl import errors, passwords, texts, users
from ytdl.api.keys import CONFIG
from ytdl.config import Config
from ytdl.crypto import Hasher
from ytdl.db import DB

PASSWORD = "Corr3ct-Horse"
CAROL = {"username": "carol", "email": "carol@example.org", "password": PASSWORD, "full_name": "Carol C."}


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher(cost=4)
    yield hasher
    hasher.close()


async def register(service: Service, **changed: Any) -> tuple[int, Any]:
    body = {name: value for name, value in (CAROL | changed).items() if value is not MISSING}
    async with service.client.post("/api/v1/auth/register", json=body) as answer:
        return answer.status, await answer.json()


def blamed(problem: Any) -> set[str]:
    return {fault["field"] for fault in problem["errors"]}


async def test_registration_answers_the_profile(service: Service) -> None:
    status, profile = await register(service)
    assert status == 201
    assert (profile["username"], profile["role"], profile["is_active"]) == ("carol", "user", True)
    assert profile["last_login"] is None
    assert profile["created_at"].endswith("Z")
    assert profile["usage"] == {"downloads": 0, "active_downloads": 0, "stored_bytes": 0}
    assert profile["limits"]["concurrent_downloads"] == service.app[CONFIG].download_user_concurrency
    assert "password" not in str(profile)


MISSING = object()
BAD_VALUES: tuple[Any, ...] = (
    MISSING,
    None,
    1,
    True,
    ["carol"],
    {},
    "x" * 300,
    "",
    "car\x00ol",
    "\x1b[2J",
    "\u2028",
)
BAD_FIELDS = [(f, v) for f in CAROL for v in BAD_VALUES] + [("role", "admin"), ("is_active", True)]


async def test_a_bad_field_of_a_registration_is_named(service: Service) -> None:
    for field, value in BAD_FIELDS:
        status, problem = await register(service, **{field: value})
        assert (status, problem["code"], blamed(problem)) == (422, "invalid", {field}), value


async def test_all_broken_rules_show_at_once(service: Service) -> None:
    bad = {"username": "a b", "email": "carol", "password": "short", "full_name": " "}
    status, problem = await register(service, **bad)
    assert status == 422
    assert blamed(problem) == set(bad)
    assert sum(fault["field"] == "password" for fault in problem["errors"]) == 4


GOOD_NAMES = ["abc", "A.b-c_9", "x" * 50, "..."]
BAD_NAMES = ["ab", "x" * 51, "a b c", "carol\n", "cärol", "carol@x", "carol/..", "c\u0430rol"]


def test_user_names() -> None:
    refused = [name for name in GOOD_NAMES + BAD_NAMES if users.name_faults(name)]
    assert refused == BAD_NAMES


GOOD_ADDRESSES = ["a@b.co", "first.last+tag@sub.example.org", "x" * 64 + "@example.org"]
BAD_ADDRESSES = [
    "carol", "@example.org", "carol@", "carol@localhost", "carol@@example.org", "ca rol@example.org",
    "carol@example.org\n", "carol@-example.org", "carol@example..org", "carol@[127.0.0.1]", "carol@127.0.0.1",
    ".carol@example.org", "carol.@example.org", "ca..rol@example.org",
    "x" * 65 + "@example.org", "x." * 32 + "x@example.org", "carol@" + "x" * 64 + ".org", "carol@" + "x." * 125 + "org",
]  # fmt: skip


def test_addresses() -> None:
    refused = [a for a in GOOD_ADDRESSES + BAD_ADDRESSES if users.email_faults(a)]
    assert refused == BAD_ADDRESSES


PASSWORDS = {
    PASSWORD: 0,
    "Xk9#29481756!": 0,
    "Ünïcode-ß9": 0,
    "p" * 5 + "A1-": 0,
    "Ab1-" * 32: 0,
    "Ab1-" * 32 + "x": 1,
    "Sh0rt-x": 1,
    "corr3ct-horse": 1,
    "CORR3CT-HORSE": 1,
    "Correct-Horse": 1,
    "Corr3ctHorse": 1,
    "Corr3ct Horse": 1,
    "": 6,
    "1-carolX": 1,
    "1-CAROLx": 1,
    "Mailbox-99": 1,
    "P@ssw0rd": 1,
    "Password123!": 1,
    "Pass@word1": 1,
    "!Qwerty123": 1,
    "Welc0me!2026": 1,
    "1qaz@WSX": 1,
    "Abcd@1234": 1,
    "Summer2026!": 1,
    "Aaaaaaa1!": 1,
    "Adm1n@12": 1,
}


@pytest.mark.parametrize("password", PASSWORDS)
def test_passwords(password: str) -> None:
    faults = passwords.faults(password, "Carol", "mailbox@example.org")
    assert len(faults) == PASSWORDS[password], faults


def test_names_that_could_play_tricks_are_refused() -> None:
    for name in ("Carol\u202eC", "a\nb", "a\u2028b", "x" * 101, "a\tb", "\x7f", ""):
        assert users.full_name_faults(name), name


def test_names_of_all_scripts_are_welcome() -> None:
    for name in ("Ö", "José Ñandú", "x" * 100, "李小龙", "\u0645\u06cc\u200c\u062e", "O'Neil-Smith"):
        assert users.full_name_faults(name) == [], name


async def test_space_around_a_name_is_taken_off(service: Service) -> None:
    status, profile = await register(service, full_name="  Carol C.  ")
    assert (status, profile["full_name"]) == (201, "Carol C.")


async def test_a_name_is_taken_in_any_case(service: Service) -> None:
    await register(service)
    status, problem = await register(service, username="CaRoL", email="other@example.org")
    assert (status, problem["code"], blamed(problem)) == (409, "conflict", {"username"})


async def test_an_address_is_taken_in_any_case(service: Service) -> None:
    await register(service)
    status, problem = await register(service, username="other", email="Carol@EXAMPLE.org")
    assert (status, blamed(problem)) == (409, {"email"})


async def test_of_two_who_want_a_name_at_once_one_gets_it(service: Service) -> None:
    answers = await asyncio.gather(register(service), register(service, email="c@example.org"))
    assert sorted(status for status, _ in answers) == [201, 409]


async def test_closed_registration_is_refused(db: DB, hasher: Hasher, config: Config) -> None:
    closed = Config(registration_open=False)
    with pytest.raises(errors.Forbidden):
        await users.register(db, hasher, closed, users.Registration(**CAROL))
    assert await users.register(db, hasher, config, users.Registration(**CAROL))


async def test_a_profile_is_read_and_changed(alice: Person) -> None:
    changed = {"email": "new@example.org", "full_name": "Alice II"}
    answer = await alice.put("/auth/profile", changed)
    assert answer.status == 200
    answer = await alice.get("/auth/profile")
    profile = await answer.json()
    assert profile.items() >= changed.items()
    assert profile["id"] == str(alice.user_id)


async def test_what_is_left_out_of_a_profile_stays(alice: Person) -> None:
    before = await (await alice.get("/auth/profile")).json()
    after = await (await alice.put("/auth/profile", {"full_name": "Alice II"})).json()
    assert after == before | {"full_name": "Alice II"}
    assert await (await alice.put("/auth/profile", {})).json() == after


HUGE = 1_000_000
LONGEST = {"username": 50, "email": 254, "password": 128, "full_name": 100}


@pytest.mark.parametrize(("field", "longest"), LONGEST.items())
async def test_of_a_huge_value_no_more_is_looked_at_than_its_length(
    service: Service, alice: Person, root: Person, field: str, longest: int
) -> None:
    """It breaks every other rule as well, of which nothing is said."""
    wish = {field: "\x7f" * HUGE}
    asked = [(service.client.post, "/api/v1/auth/register", CAROL | wish)]
    if field in ("email", "full_name"):
        asked += [(alice.session.put, "/api/v1/auth/profile", wish)]
        asked += [(root.session.put, f"/api/v1/auth/users/{alice.user_id}", wish)]
    for ask, path, body in asked:
        async with ask(path, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"}) as answer:
            fault = {"field": field, "message": f"must have at most {longest} characters"}
            assert (answer.status, (await answer.json())["errors"]) == (422, [fault])


def test_rules_end_at_the_length_of_what_is_too_long() -> None:
    looked_at = Looked("\x7f" * HUGE)
    assert passwords.faults(looked_at, "carol", "carol@example.org") == ["must have 8 to 128 characters"]
    assert texts.faults(looked_at, 100) == ["must have 1 to 100 characters"]
    assert looked_at.characters == 0


class Looked(str):
    """Counts how many of its characters were looked at, one by one or in a copy."""

    characters = 0

    def __iter__(self) -> Iterator[str]:
        for character in super().__iter__():
            self.characters += 1
            yield character

    def lower(self) -> str:
        self.characters += len(self)
        return super().lower()


BAD_CHANGES = [
    *((field, value) for field in ("email", "full_name") for value in BAD_VALUES[1:]),
    *(("role", "admin"), ("username", "root"), ("is_active", False), ("password", PASSWORD)),
]


async def test_a_bad_field_of_a_change_is_named(alice: Person) -> None:
    before = await (await alice.get("/auth/profile")).json()
    for field, value in BAD_CHANGES:
        answer = await alice.put("/auth/profile", {field: value})
        assert (answer.status, blamed(await answer.json())) == (422, {field}), value
    assert await (await alice.get("/auth/profile")).json() == before


async def test_bob_cannot_take_alices_address(alice: Person, bob: Person) -> None:
    profile = await (await alice.get("/auth/profile")).json()
    answer = await bob.put("/auth/profile", {"email": profile["email"].upper()})
    assert answer.status == 409


async def test_a_profile_needs_a_sign_in(service: Service) -> None:
    async with service.client.get("/api/v1/auth/profile") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_the_first_admin_gets_a_password_once(db: DB, hasher: Hasher) -> None:
    password = await users.first_admin(db, hasher, username="chief", password="")
    assert password
    assert passwords.faults(password, "chief", "") == []
    account = await users.credentials(db, "chief")
    assert account and await hasher.verify(password, account.password_hash)
    assert (await users.by_id(db, account.id)).role == "admin"
    assert await users.first_admin(db, hasher, username="chief", password="") is None


async def test_the_operators_password_stands(db: DB, hasher: Hasher, caplog: pytest.LogCaptureFixture) -> None:
    assert await users.first_admin(db, hasher, username="chief", password="simple") is None
    account = await users.credentials(db, "chief")
    assert account and await hasher.verify("simple", account.password_hash)
    assert "user_password_weak" in caplog.messages
    assert "simple" not in caplog.text


async def test_of_two_processes_one_makes_the_first_admin(db: DB, hasher: Hasher) -> None:
    names = ("chief", "boss", "head", "owner")
    made = await asyncio.gather(*(users.first_admin(db, hasher, username=n, password="") for n in names))
    assert sum(password is not None for password in made) == 1
    assert sum([await users.credentials(db, name) is not None for name in names]) == 1


async def test_an_ordinary_account_is_not_made_admin(db: DB, hasher: Hasher) -> None:
    await users.create(db, hasher, **CAROL)  # type: ignore[arg-type]
    with pytest.raises(errors.Conflict):
        await users.first_admin(db, hasher, username="Carol", password="")


async def test_nothing_secret_is_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await register(service)
    logged = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("ytdl"))
    assert "user_created" in logged
    assert PASSWORD not in logged
    assert "carol@example.org" not in logged
