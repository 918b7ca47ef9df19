"""Cookie files and what the API shows of them: their state, and never what stands in them."""

import re
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Person, Service
from tests.cookiefiles import SID, line, signed_in
from tests.queueing import sql
from ytdl import errors, netscape
from ytdl.api.keys import DB

NOW = time.time()


def parse(text: str) -> netscape.CookieFile:
    return netscape.parse(text, NOW)


def fault(text: str) -> str:
    with pytest.raises(errors.Invalid) as caught:
        parse(text)
    return caught.value.message


# the file


def test_the_cookies_of_a_signed_in_user_are_read() -> None:
    file = parse(signed_in())
    assert [(c.host, c.subdomains, c.path, c.secure, c.name) for c in file.cookies] == [
        ("youtube.com", True, "/", True, name) for name in ("SID", "LOGIN_INFO", "SAPISID")
    ]
    assert file.cookies[0].value == SID


def test_windows_lines_a_byte_order_mark_and_hidden_cookies_are_read() -> None:
    text = signed_in().replace(".youtube.com\tTRUE\t/\tTRUE", "#HttpOnly_.youtube.com\tTRUE\t/\tTRUE")
    windows = "\ufeff" + text.replace("\n", "\r\n")
    assert parse(windows).cookies == parse(signed_in()).cookies


def test_a_cookie_of_one_host_stays_with_that() -> None:
    kept = parse(signed_in(SID, line("PREF", "a=b", domain="music.youtube.com"))).cookies[-1]
    assert (kept.host, kept.subdomains) == ("music.youtube.com", False)


OTHERS = (
    *(".google.com", "accounts.google.com", ".googlevideo.com", "youtube.com.evil.test", "notyoutube.com"),
    *(".bank.test", "youtu.be", "", "[::1]", "youtube.com\x00.evil.test"),
)


@pytest.mark.parametrize("domain", OTHERS)
def test_cookies_of_other_sites_are_dropped_and_counted(domain: str) -> None:
    file = parse(signed_in(SID, line("SESSION", "not for you", domain=domain)))
    assert (file.other_sites, len(file.cookies)) == (1, 3)


def test_expired_cookies_are_dropped_and_counted() -> None:
    file = parse(signed_in(SID, line("OLD", "1", expires=int(NOW) - 1), line("SOON", "2", expires=int(NOW) + 60)))
    assert (file.expired, [c.name for c in file.cookies][-1]) == (1, "SOON")


def test_the_first_of_the_cookies_that_sign_in_decides_the_end() -> None:
    soon = int(NOW) + 3600
    assert parse(signed_in(SID, line("VISITOR", "1", expires=int(NOW) + 60))).expires != int(NOW) + 60
    assert parse(signed_in(SID, line("__Secure-3PSID", "1", expires=soon))).expires == soon


@pytest.mark.parametrize("end", ["", "0", "0.5"])
def test_cookies_that_end_with_the_browser_have_no_end(end: str) -> None:
    file = parse(signed_in(expires=end))
    assert (file.expires, {c.expires for c in file.cookies}) == (None, {None})


def test_of_two_cookies_by_one_name_the_later_counts() -> None:
    values = [c.value for c in parse(signed_in(SID, line("SID", "newer"))).cookies if c.name == "SID"]
    assert values == ["newer"]


SECRET = "s3cr3t-that-no-answer-may-have"
BAD_LINES = {
    "fields": f".youtube.com\tTRUE\t/\tTRUE\t0\t{SECRET}",
    "spaces": f".youtube.com TRUE / TRUE 0 NAME {SECRET}",
    "eight": f".youtube.com\tTRUE\t/\tTRUE\t0\tNAME\t{SECRET}\tmore",
    "host": f"-.youtube.com\tFALSE\t/\tTRUE\t0\tNAME\t{SECRET}",
    "flag": f".youtube.com\tyes\t/\tTRUE\t0\tNAME\t{SECRET}",
    "wide": f"www.youtube.com\tTRUE\t/\tTRUE\t0\tNAME\t{SECRET}",
    "narrow": f".youtube.com\tFALSE\t/\tTRUE\t0\tNAME\t{SECRET}",
    "path": f".youtube.com\tTRUE\t{SECRET}\tTRUE\t0\tNAME\tx",
    "secure": f".youtube.com\tTRUE\t/\t{SECRET}\t0\tNAME\tx",
    "expiry": f".youtube.com\tTRUE\t/\tTRUE\t{SECRET}\tNAME\tx",
    "milliseconds": f".youtube.com\tTRUE\t/\tTRUE\t1735689600000\tNAME\t{SECRET}",
    "microseconds": f".youtube.com\tTRUE\t/\tTRUE\t13350000000000000\tNAME\t{SECRET}",
    "eastern digits": f".youtube.com\tTRUE\t/\tTRUE\t\u0661\u0662\u0663\tNAME\t{SECRET}",
    "no name": f".youtube.com\tTRUE\t/\tTRUE\t0\t\t{SECRET}",
    "odd name": f".youtube.com\tTRUE\t/\tTRUE\t0\tNA ME\t{SECRET}",
    "second cookie": f".youtube.com\tTRUE\t/\tTRUE\t0\tNAME\tx; Domain=evil.test; y={SECRET}",
    "header": f".youtube.com\tTRUE\t/\tTRUE\t0\tNAME\tx\r{SECRET}",
    "not ascii": f".youtube.com\tTRUE\t/\tTRUE\t0\tNAME\té{SECRET}",
    "too long": f".youtube.com\tTRUE\t/\tTRUE\t0\tNAME\t{SECRET}{'x' * 4096}",
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_out_of_form_is_told_by_its_number_and_not_shown(bad: str) -> None:
    said = fault(signed_in() + bad + "\n")
    assert "line 7 " in said
    assert SECRET not in said and "NAME" not in said


def test_ten_faults_are_enough() -> None:
    with pytest.raises(errors.Invalid) as caught:
        parse(signed_in() + "x\n" * 50)
    assert [f.message.split()[1] for f in caught.value.faults] == [str(n) for n in range(7, 17)]


STRANGERS = {
    "nothing": ("# Netscape HTTP Cookie File\n", "has no cookies of youtube.com"),
    "another site": (line("a", "b", domain=".bank.test"), "has no cookies of youtube.com"),
    "nobody": (line("VISITOR_INFO1_LIVE", "x"), "not the cookies of a signed-in user"),
    "half a user": (line("LOGIN_INFO", "x"), "not the cookies of a signed-in user"),
    "elsewhere": (signed_in().replace(".youtube.com\tTRUE", "tv.youtube.com\tFALSE"), "not the cookies of a signed"),
    "long ago": (signed_in(expires=1), "they have expired"),
    "json": ('[{"domain": ".youtube.com", "name": "SID", "value": "x"}]', "not JSON"),
    "a crowd": (signed_in(SID, *(line(f"c{n}", "x") for n in range(200))), "more than 200 cookies"),
    "a load": (signed_in(SID, *(line(f"c{n}", "x" * 4000) for n in range(9))), "more than fits a request"),
}


@pytest.mark.parametrize(("text", "words"), STRANGERS.values(), ids=STRANGERS)
def test_a_file_of_nobody_is_refused(text: str, words: str) -> None:
    assert words in fault(text)


def test_a_cookie_shows_no_value_where_it_is_printed() -> None:
    assert SID not in repr(parse(signed_in())) + str(parse(signed_in()).cookies[0])


WORD = st.one_of(st.sampled_from([".youtube.com", ".evil.test", "TRUE", "/", "0", ""]), st.text(max_size=12))
NEARLY = st.builds(".youtube.com\tTRUE\t{}\tTRUE\t{}\t{}\t{}".format, st.just("/"), st.just("0"), WORD, WORD)
FIELDS = st.lists(WORD, min_size=6, max_size=8).map("\t".join)
LINES = st.lists(NEARLY | FIELDS, max_size=4).map("\n".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LINES | NEARLY | st.text())
def test_whatever_is_read_of_any_text_fits_a_header_and_the_site(text: str) -> None:
    try:
        found = parse(signed_in() + text).cookies
    except errors.Invalid:
        return
    for cookie in found:
        assert re.fullmatch(r"([a-z0-9.-]+\.)?youtube\.com", cookie.host)
        assert re.fullmatch(r"[!-~]+=[ -:<-~]*", f"{cookie.name}={cookie.value}") and cookie.path.startswith("/")


# over HTTP


async def upload(person: Person, text: str | None = None) -> dict[str, Any]:
    response = await person.put("/cookies", {"cookies": text or signed_in()})
    body: dict[str, Any] = await response.json()
    assert response.status == 200, body
    return body


async def test_an_upload_answers_with_its_state_and_what_was_not_kept(alice: Person) -> None:
    said = await upload(alice, signed_in(SID, line("NID", "mail", domain=".google.com")))
    assert (said["site"], said["status"], said["cookie_count"]) == ("youtube", "unproven", 3)
    assert (said["dropped_other_sites"], said["dropped_expired"], said["last_used_at"]) == (1, 0, None)
    looked = await (await alice.get("/cookies")).json()
    assert looked == {name: said[name] for name in said if not name.startswith("dropped")}
    assert SID not in str(said) + str(looked)


async def test_another_user_has_no_part_in_them(alice: Person, bob: Person, root: Person) -> None:
    await upload(alice)
    for other in (bob, root):
        assert (await other.get("/cookies")).status == 404
        assert (await other.delete("/cookies")).status == 404
    assert (await alice.get("/cookies")).status == 200


async def test_removed_cookies_are_gone_sealed_and_all(alice: Person, bob: Person, service: Service) -> None:
    await upload(alice)
    await upload(bob)
    assert (await alice.delete("/cookies")).status == 204
    assert (await alice.get("/cookies")).status == 404
    assert (await alice.delete("/cookies")).status == 404
    owners = await sql(service.app[DB], "SELECT owner FROM sealed_values")
    assert owners == [(bob.user_id,)]


async def test_what_is_stored_cannot_be_read(alice: Person, service: Service) -> None:
    await upload(alice)
    ((sealed,),) = await sql(service.app[DB], "SELECT sealed FROM sealed_values")
    assert not re.search(rb"SID|youtube|right|login", bytes(sealed))


async def test_a_new_upload_begins_anew(alice: Person, service: Service) -> None:
    first = await upload(alice)
    await sql(service.app[DB], "UPDATE cookies SET refused_at = now(), last_used_at = now(), accepted_at = now()")
    assert (await (await alice.get("/cookies")).json())["status"] == "refused"
    again = await upload(alice)
    assert (again["status"], again["refused_at"], again["last_used_at"]) == ("unproven", None, None)
    assert again["uploaded_at"] > first["uploaded_at"]


async def test_cookies_expire_by_themselves(alice: Person, service: Service) -> None:
    await upload(alice)
    await sql(service.app[DB], "UPDATE cookies SET accepted_at = now()")
    assert (await (await alice.get("/cookies")).json())["status"] == "valid"
    await sql(service.app[DB], "UPDATE cookies SET expires_at = now()")
    assert (await (await alice.get("/cookies")).json())["status"] == "expired"


async def test_a_bad_file_is_answered_without_what_stands_in_it(alice: Person) -> None:
    response = await alice.put("/cookies", {"cookies": signed_in() + BAD_LINES["second cookie"]})
    problem = await response.text()
    assert response.status == 422 and "line 7 has a name or a value" in problem
    assert SECRET not in problem and SID not in problem


async def test_a_file_has_a_largest_size(alice: Person) -> None:
    response = await alice.put("/cookies", {"cookies": "#" * (netscape.LARGEST + 1)})
    assert (response.status, "at most 262144 characters" in await response.text()) == (422, True)


async def test_changes_are_in_the_audit_trail_without_what_was_changed(alice: Person, service: Service) -> None:
    await upload(alice)
    await upload(alice)
    await alice.delete("/cookies")
    rows = await sql(
        service.app[DB],
        "SELECT type, user_id, detail::text FROM audit_events WHERE object_kind = 'cookies' ORDER BY at",
    )
    assert [(type, user) for type, user, _ in rows] == [
        (f"sensitive_{what}", alice.user_id) for what in ("create", "update", "delete")
    ]
    assert SID not in str(rows)


async def test_cookies_go_with_their_users_account(alice: Person, service: Service) -> None:
    await upload(alice)
    await sql(service.app[DB], "DELETE FROM users WHERE id = %s", alice.user_id)
    assert await sql(service.app[DB], "SELECT 1 FROM sealed_values UNION ALL SELECT 1 FROM cookies") == []
