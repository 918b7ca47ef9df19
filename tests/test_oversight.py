"""What admins do with other users' downloads goes on record; what users do with their own does not."""

import asyncio
from typing import Any

import pytest

from tests.conftest import Person, Service
from tests.following import ask
from tests.queueing import sql
from tests.signing_in import change
from ytdl import downloads
from ytdl.api.keys import DB

URL = "https://youtu.be/dQw4w9WgXcQ"
ON_RECORD = (
    "SELECT type, user_id, object_id, detail->>'owner', detail->>'what' FROM audit_events"
    " WHERE object_kind = 'download' ORDER BY at"
)


async def on_record(service: Service) -> list[tuple[Any, ...]]:
    return await sql(service.app[DB], ON_RECORD)


@pytest.mark.parametrize("suffix", ["", "/logs", "/file", "/events", "/ws"])
async def test_an_admin_who_looks_at_alices_download_is_on_record_once_a_minute(
    service: Service, alice: Person, root: Person, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = (await ask(alice, URL))["id"]
    looks = [root.get(f"/downloads/{id}{suffix}") for _ in range(3)]
    for answer in await asyncio.gather(*looks):
        answer.close()
    once = ("sensitive_read", root.user_id, id, str(alice.user_id), None)
    assert await on_record(service) == [once]
    monkeypatch.setattr(downloads, "NOTED_SECONDS", 0.0)
    (await root.get(f"/downloads/{id}{suffix}")).close()
    seen = await on_record(service)
    assert len(seen) > 1 and set(seen) == {once}


async def test_another_admin_and_another_download_are_each_on_record(service: Service, root: Person) -> None:
    async with service.person("ann", role="admin") as ann, service.person("ben") as ben:
        first, second = [(await ask(ben, f"https://youtu.be/many_{n:06}"))["id"] for n in range(2)]
        for admin, id in ((root, first), (ann, first), (root, second)):
            await admin.get(f"/downloads/{id}")
        assert [(user, id) for _, user, id, *_ in await on_record(service)] == [
            (root.user_id, first), (ann.user_id, first), (root.user_id, second)
        ]  # fmt: skip


async def test_an_admin_who_changes_alices_download_is_on_record_each_time(
    service: Service, alice: Person, root: Person
) -> None:
    id = (await ask(alice, URL))["id"]
    for method, what in (("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")):
        assert (await root.request(method, f"/downloads/{id}{what}")).status in (202, 204)
    by = (root.user_id, id, str(alice.user_id))
    assert await on_record(service) == [
        ("sensitive_update", *by, "cancel"), ("sensitive_update", *by, "retry"), ("sensitive_delete", *by, "delete")
    ]  # fmt: skip


async def test_a_change_that_is_refused_is_none(service: Service, alice: Person, root: Person) -> None:
    id = (await ask(alice, URL))["id"]
    assert (await root.post(f"/downloads/{id}/retry")).status == 409
    assert await on_record(service) == []


async def test_what_users_and_admins_do_with_their_own_is_nobodys_business(
    service: Service, alice: Person, root: Person
) -> None:
    for person in (alice, root):
        id = (await ask(person, URL))["id"]
        for suffix in ("", "/logs", "/file"):
            await person.get(f"/downloads/{id}{suffix}")
        await person.post(f"/downloads/{id}/cancel")
        await person.delete(f"/downloads/{id}")
    assert await on_record(service) == []


async def test_what_cannot_be_put_on_record_is_not_shown(service: Service, alice: Person, root: Person) -> None:
    id = (await ask(alice, URL))["id"]
    assert (await alice.get(f"/downloads/{id}")).status == 200
    await change(service.config.database_url, "ALTER TABLE audit_events RENAME TO away")
    try:
        assert (await root.get(f"/downloads/{id}")).status >= 500
    finally:
        await change(service.config.database_url, "ALTER TABLE away RENAME TO audit_events")
    assert (await root.get(f"/downloads/{id}")).status == 200
