"""Downloads over HTTP: asking, looking, changing one's mind, and what others may not see."""

import asyncio
import uuid
from typing import Any

import pytest

from tests.conftest import Person, Service
from tests.fakes.youtube import YouTube
from tests.following import ask, ended, fetched, look, until
from ytdl.api.keys import DB
from ytdl.sql import Query

URL = "https://youtu.be/dQw4w9WgXcQ"

WRONG_BODIES: list[tuple[dict[str, Any], str]] = [
    ({}, "url"),
    ({"url": 7}, "url"),
    ({"url": None}, "url"),
    ({"url": ""}, "url"),
    ({"url": "x" * 3000}, "url"),
    ({"url": "https://example.org/"}, "url"),
    ({"url": ":ytsubs"}, "url"),
    ({"url": "ytsearch5:cats"}, "url"),
    ({"url": URL, "quality": "1081p"}, "quality"),
    ({"url": URL, "quality": 720}, "quality"),
    ({"url": URL, "format": "exe"}, "format"),
    ({"url": URL, "format": ["mp4"]}, "format"),
    ({"url": URL, "embed_metadata": "yes"}, "embed_metadata"),
    ({"url": URL, "priority": 10}, "priority"),
    ({"url": URL, "priority": -1}, "priority"),
    ({"url": URL, "priority": 1.5}, "priority"),
    ({"url": URL, "ytdl_options": {"exec": "id"}}, "ytdl_options"),
]


@pytest.mark.parametrize(("body", "field"), WRONG_BODIES)
async def test_a_wrong_body_is_refused_with_the_field_named(alice: Person, body: dict[str, Any], field: str) -> None:
    response = await alice.post("/downloads", body)
    problem = await response.json()
    assert (response.status, problem["code"]) == (422, "invalid")
    assert [e["field"] for e in problem["errors"]] == [field]


async def test_an_accepted_download_says_where_it_is(alice: Person) -> None:
    response = await alice.post("/downloads", {"url": URL, "quality": "720p"})
    body = await response.json()
    assert response.status == 202
    assert response.headers["Location"] == f"/api/v1/downloads/{body['id']}"
    assert uuid.UUID(body["id"]).version == 7
    assert (body["status"], body["quality"], body["format"], body["video_id"]) == (
        "queued",
        "720p",
        "mp4",
        "dQw4w9WgXcQ",
    )


async def test_nobody_downloads_without_signing_in(service: Service) -> None:
    async with service.client.post("/api/v1/downloads", json={"url": URL}) as response:
        assert response.status == 401


ROUTES_OF_ONE = [
    *[("GET", suffix) for suffix in ("", "/file", "/logs", "/events", "/ws")],
    *[("POST", suffix) for suffix in ("/cancel", "/retry")],
    ("DELETE", ""),
]


@pytest.mark.parametrize(("method", "suffix"), ROUTES_OF_ONE)
async def test_bob_cannot_reach_alices_download(alice: Person, bob: Person, method: str, suffix: str) -> None:
    id = (await ask(alice, URL))["id"]
    response = await bob.request(method, f"/downloads/{id}{suffix}")
    assert (response.status, (await response.json())["code"]) == (404, "not_found")
    assert (await look(alice, id))["status"] == "queued"


@pytest.mark.parametrize("id", ["7", "x", "00000000-0000-0000-0000-000000000000", "%00", "../profile"])
async def test_a_malformed_id_is_as_unknown_as_any_other(alice: Person, id: str) -> None:
    assert (await alice.get(f"/downloads/{id}/logs")).status == 404


async def test_an_admin_sees_alices_download_but_not_in_the_own_list(alice: Person, root: Person) -> None:
    id = (await ask(alice, URL))["id"]
    assert (await look(root, id))["id"] == id
    assert (await (await root.get("/downloads")).json())["items"] == []


async def test_bobs_list_has_nothing_of_alices(alice: Person, bob: Person) -> None:
    await ask(alice, URL)
    assert (await (await bob.get("/downloads")).json())["items"] == []


# the list


async def asked(person: Person, count: int) -> list[str]:
    return [(await ask(person, f"https://youtu.be/many_{n:06}"))["id"] for n in range(count)]


async def test_pages_follow_each_other_newest_first_without_gaps(alice: Person) -> None:
    ids, seen, cursor = await asked(alice, 7), [], None
    for _ in range(4):
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = await (await alice.get("/downloads", params=params)).json()
        seen += [d["id"] for d in page["items"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (ids[::-1], None)


async def test_the_list_is_filtered_by_status(alice: Person) -> None:
    ids = await asked(alice, 3)
    await alice.post(f"/downloads/{ids[0]}/cancel")
    page = await (await alice.get("/downloads", params=[("status", "cancelled"), ("status", "failed")])).json()
    assert [d["id"] for d in page["items"]] == ids[:1]


async def test_the_list_is_filtered_by_time(alice: Person) -> None:
    first, second = [await look(alice, id) for id in await asked(alice, 2)]
    page = await (await alice.get("/downloads", params={"to": second["created_at"]})).json()
    assert [d["id"] for d in page["items"]] == [first["id"]]
    page = await (await alice.get("/downloads", params={"from": second["created_at"]})).json()
    assert [d["id"] for d in page["items"]] == [second["id"]]


WRONG_FILTERS = {
    "limit": ["0", "201", "x"],
    "cursor": ["zzz"],
    "status": ["done"],
    "from": ["yesterday", "0.5", "1700000000"],
    "order": ["asc"],
    "q": ["x" * 201],
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in WRONG_FILTERS.items() for v in values])
async def test_a_wrong_filter_is_refused_by_name(alice: Person, name: str, value: str) -> None:
    response = await alice.get("/downloads", params={name: value})
    field = (await response.json())["errors"][0]["field"]
    assert (response.status, field.partition("[")[0]) == (422, name)


# the same again


async def test_the_same_file_is_not_fetched_twice_at_a_time(alice: Person) -> None:
    first = await ask(alice, URL)
    response = await alice.post("/downloads", {"url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=9"})
    body = await response.json()
    assert (response.status, body["id"], body["deduplicated"]) == (200, first["id"], True)


async def test_two_users_do_not_share_a_download(alice: Person, bob: Person) -> None:
    assert (await ask(alice, URL))["id"] != (await ask(bob, URL))["id"]


async def test_fifty_requests_at_once_make_one_download(alice: Person) -> None:
    answers = await asyncio.gather(*(ask(alice, URL) for _ in range(50)))
    assert len({a["id"] for a in answers}) == 1
    assert sum(not a["deduplicated"] for a in answers) == 1


async def test_a_repeated_idempotency_key_gets_the_first_answer_again(alice: Person) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await alice.post("/downloads", {"url": URL}, headers=headers)
    await alice.post(f"/downloads/{(await first.json())['id']}/cancel")
    again = await alice.post("/downloads", {"url": URL}, headers=headers)
    assert (again.status, await again.json()) == (202, await first.json())
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_idempotency_key_with_another_body_is_refused(alice: Person) -> None:
    headers = {"Idempotency-Key": "k-2"}
    await alice.post("/downloads", {"url": URL}, headers=headers)
    response = await alice.post("/downloads", {"url": URL, "quality": "144p"}, headers=headers)
    assert (response.status, (await response.json())["errors"][0]["field"]) == (422, "Idempotency-Key")


async def test_an_idempotency_key_is_its_users_own(alice: Person, bob: Person) -> None:
    headers = {"Idempotency-Key": "k-3"}
    first = await (await alice.post("/downloads", {"url": URL}, headers=headers)).json()
    second = await (await bob.post("/downloads", {"url": URL}, headers=headers)).json()
    assert first["id"] != second["id"]


async def test_one_key_at_once_makes_one_download(alice: Person) -> None:
    headers = {"Idempotency-Key": "k-4"}
    answers = await asyncio.gather(*(alice.post("/downloads", {"url": URL}, headers=headers) for _ in range(20)))
    assert {a.status for a in answers} == {202}
    assert len({(await a.json())["id"] for a in answers}) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
async def test_a_wrong_idempotency_key_is_refused(alice: Person, key: str) -> None:
    response = await alice.post("/downloads", {"url": URL}, headers={"Idempotency-Key": key})
    assert (response.status, (await response.json())["errors"][0]["field"]) == (422, "Idempotency-Key")


# changing one's mind, while nothing runs


async def test_a_waiting_download_is_cancelled_at_once(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    response = await alice.post(f"/downloads/{id}/cancel")
    assert (response.status, (await response.json())["status"]) == (202, "cancelled")


async def test_a_download_that_ended_cannot_be_cancelled(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    await alice.post(f"/downloads/{id}/cancel")
    response = await alice.post(f"/downloads/{id}/cancel")
    assert (response.status, (await response.json())["code"]) == (409, "conflict")


async def test_a_cancelled_download_goes_back_to_the_queue(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    await alice.post(f"/downloads/{id}/cancel")
    response = await alice.post(f"/downloads/{id}/retry")
    assert (response.status, (await response.json())["status"]) == (202, "queued")


async def test_a_waiting_download_cannot_be_retried(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    assert (await alice.post(f"/downloads/{id}/retry")).status == 409


async def test_ten_retries_at_once_make_one_job(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    await alice.post(f"/downloads/{id}/cancel")
    answers = await asyncio.gather(*(alice.post(f"/downloads/{id}/retry") for _ in range(10)))
    assert sorted(a.status for a in answers) == [202] + [409] * 9


async def test_a_deleted_download_is_gone(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    assert (await alice.delete(f"/downloads/{id}")).status == 204
    assert (await alice.get(f"/downloads/{id}")).status == 404
    assert (await alice.delete(f"/downloads/{id}")).status == 404


async def test_there_is_no_file_before_the_end(alice: Person) -> None:
    id = (await ask(alice, URL))["id"]
    response = await alice.get(f"/downloads/{id}/file")
    assert (response.status, (await response.json())["code"]) == (409, "conflict")


async def test_an_expired_file_is_gone(alice: Person, service: Service) -> None:
    id = (await ask(alice, URL))["id"]
    await service.app[DB].exec(
        Query("test.expire", "exec", "", b"UPDATE downloads SET status = 'expired' WHERE id = %(id)s"), id=id
    )
    response = await alice.get(f"/downloads/{id}/file")
    assert (response.status, (await response.json())["code"]) == (410, "gone")


async def test_the_place_in_the_queue_is_told(alice: Person) -> None:
    ids = await asked(alice, 3)
    assert [(await look(alice, id))["queue_position"] for id in ids] == [0, 1, 2]


async def test_a_higher_priority_comes_first(alice: Person) -> None:
    await asked(alice, 2)
    urgent = await ask(alice, URL, priority=9)
    assert (await look(alice, urgent["id"]))["queue_position"] == 0


# all the way


async def test_a_video_becomes_a_file_with_everything_said_about_it(ann: Person, youtube: YouTube) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="720p")
    assert (done["title"], done["uploader"], done["duration_seconds"]) == (
        "An ordinary video",
        "The Stand-in",
        6.0,
    )
    assert done["thumbnail_url"].startswith("https://i.ytimg.com/")
    assert (done["width"], done["height"], done["progress"]["percent"]) == (1280, 720, 100)
    assert (done["file"]["content_type"], done["file"]["name"]) == ("video/mp4", "An ordinary video.mp4")
    assert done["attempts"] == 1


async def test_every_attempt_leaves_a_log_row(ann: Person, youtube: YouTube) -> None:
    youtube.misbehave("ordinary", player_status=500, times=20)
    asked = await ask(ann, youtube.url("ordinary"))
    await until(ann, asked["id"], lambda d: d["attempts"] > 1)
    youtube.behave()
    await ended(ann, asked["id"])
    rows = await (await ann.get(f"/downloads/{asked['id']}/logs")).json()
    assert [r["status"] for r in rows] == ["failed"] * (len(rows) - 1) + ["completed"]
    assert rows[0]["error_code"] == "upstream_error" and rows[-1]["file_bytes"] > 0
    assert rows[-1]["cpu_seconds"] > 0 and rows[-1]["peak_memory_bytes"] > 2**20
    assert [r["retries"] for r in rows] == list(range(len(rows)))


async def test_a_private_video_fails_at_once_with_a_hint(ann: Person, youtube: YouTube) -> None:
    download = await ended(ann, (await ask(ann, youtube.url("private")))["id"])
    assert (download["status"], download["attempts"]) == ("failed", 1)
    assert (download["error"]["code"], download["error"]["retryable"]) == ("video_private", False)
    assert "owner" in download["error"]["hint"]


async def test_a_failed_download_can_be_tried_again(ann: Person, youtube: YouTube) -> None:
    asked = await ask(ann, youtube.url("private"))
    await ended(ann, asked["id"])
    assert (await ann.post(f"/downloads/{asked['id']}/retry")).status == 202
    again = await ended(ann, asked["id"])
    assert again["error"]["code"] == "video_private"


async def test_deleting_removes_the_file_but_not_the_log(ann: Person, youtube: YouTube, downloading: Service) -> None:
    done = await fetched(ann, youtube.url("ordinary"), quality="144p")
    media = downloading.config.data_dir / "media"
    assert len(list(media.iterdir())) == 1
    await ann.delete(f"/downloads/{done['id']}")
    assert list(media.iterdir()) == []
    count = Query("test.logs", "value", "", b"SELECT count(*) FROM download_logs WHERE download_id = %(id)s")
    assert await downloading.app[DB].value(count, id=done["id"]) == 1


async def test_a_wrong_word_is_answered_with_the_right_ones(alice: Person) -> None:
    problem = await (await alice.post("/downloads", {"url": URL, "format": "avi"})).json()
    assert problem["errors"] == [
        {"field": "format", "message": "must be one of any, flac, m4a, mkv, mp3, mp4, opus, wav, webm"}
    ]
    problem = await (await alice.get("/downloads", params={"status": "done"})).json()
    assert "must be one of cancelled, completed" in problem["errors"][0]["message"]


async def test_a_moment_needs_its_offset(alice: Person) -> None:
    response = await alice.get("/downloads", params={"from": "2026-11-23T00:00:00"})
    assert (response.status, (await response.json())["errors"][0]["field"]) == (422, "from")


async def test_deleting_while_the_download_completes_leaves_no_file(alice: Person, service: Service) -> None:
    id, db = (await ask(alice, URL))["id"], service.app[DB]
    job = await db.value(Query("test.job", "value", "", b"SELECT job_id FROM downloads WHERE id = %(id)s"), id=id)
    file = service.config.data_dir / "media" / f"{job}.1.mp4"
    file.write_bytes(b"film")
    complete = b"""UPDATE downloads SET status = 'completed', file_name = %(name)s WHERE id = %(id)s"""
    async with db.transaction() as tx:
        await tx.one(Query("test.hold", "one", "", b"SELECT id FROM jobs WHERE id = %(job)s FOR UPDATE"), job=job)
        deleting = asyncio.create_task(alice.delete(f"/downloads/{id}"))
        await asyncio.sleep(0.3)
        await tx.exec(Query("test.complete", "exec", "", complete), id=id, name=file.name)
    assert (await deleting).status == 204
    assert not file.exists()
