"""The audit trail, against a real PostgreSQL: what is written, and that it is written with the change it tells of."""

import logging
import secrets
from ipaddress import ip_address
from typing import Any
from uuid import uuid4

import pytest

from ytdl import audit, log
from ytdl.db import DB, Row
from ytdl.sql import Query

EVERY = Query("test.audit", "many", "", b"SELECT * FROM audit_events ORDER BY at")


async def written(db: DB) -> list[Row]:
    return await db.many(EVERY)


async def test_an_event_says_who_did_what_on_what_from_where(db: DB) -> None:
    user = uuid4()
    log.client_ip.set("192.0.2.7")
    log.request_id.set("r-1")
    await audit.record(db, "authn_login_lock", result="denied", user_id=user, object=("user", user), failures=5)
    (event,) = await written(db)
    assert (event["type"], event["severity"], event["result"]) == ("authn_login_lock", "warning", "denied")
    assert (event["user_id"], event["object_kind"], event["object_id"]) == (user, "user", str(user))
    assert (event["ip"], event["request_id"], event["detail"]) == (ip_address("192.0.2.7"), "r-1", {"failures": 5})


async def test_an_event_shares_the_fate_of_its_change(db: DB) -> None:
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await audit.record(tx, "user_deleted")
            raise RuntimeError("the change did not happen")
    assert await written(db) == []


async def test_a_type_that_is_not_listed_is_a_mistake(db: DB) -> None:
    with pytest.raises(KeyError):
        await audit.record(db, "something_happened")


async def test_a_secret_in_a_detail_is_left_out_of_the_table_and_of_the_log(
    db: DB, caplog: pytest.LogCaptureFixture
) -> None:
    """By the name it has, or by how it looks; a number under such a name is none."""
    caplog.set_level(logging.INFO)
    token = secrets.token_urlsafe(32)
    deep = {"refresh_token": "hunter2", "said": [f"it was {token}"]}
    await audit.record(db, "user_updated", object=("link", token), password="hunter2", deep=deep, tokens=3)
    (event,) = await written(db)
    hidden = {"refresh_token": "***", "said": ["it was ***"]}
    assert event["detail"] == {"password": "***", "deep": hidden, "tokens": 3}
    assert event["object_id"] == "***"
    assert not any(secret in str(vars(line)) for line in caplog.records for secret in (token, "hunter2"))


async def test_a_text_that_hides_others_or_cannot_be_stored_is_made_plain(db: DB) -> None:
    await audit.record(db, "user_updated", object=("name", "a\0b"), said={"k\u200b": "x\u202ey\ud800\n"})
    (event,) = await written(db)
    assert (event["object_id"], event["detail"]) == ("a\ufffdb", {"said": {"k\ufffd": "x\ufffdy\ufffd\ufffd"}})


@pytest.mark.parametrize(
    "detail",
    [{"a": "x" * 2048}, {"a": {"b": {"c": {"d": {}}}}}, {"message": "x"}, {"object": ("name", "x" * 201)}],
    ids=["large", "deep", "a name of logging's own", "long"],
)
async def test_a_detail_out_of_bounds_is_a_mistake(db: DB, detail: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        await audit.record(db, "user_updated", **detail)
    assert await written(db) == []


async def test_the_log_line_says_what_the_event_says(db: DB, caplog: pytest.LogCaptureFixture) -> None:
    user = uuid4()
    await audit.record(db, "user_deleted", result="denied", user_id=user, object=("user", 7), ip="192.0.2.9", why="x")
    (line,) = (vars(record) for record in caplog.records if record.message == "user_deleted")
    expected = {"result": "denied", "user_id": str(user), "object": "user 7", "ip": "192.0.2.9", "why": "x"}
    assert expected.items() <= line.items() and line["levelname"] == "WARNING"


async def test_a_log_line_is_as_bad_as_its_event(db: DB, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for type in audit.TYPES:
        await audit.record(db, type)
    logged = {record.message: record.levelname for record in caplog.records if record.name == "ytdl.audit"}
    levels = {"info": "INFO", "warning": "WARNING", "critical": "ERROR"}
    assert logged == {type: levels[severity] for type, severity in audit.TYPES.items()}


async def test_an_event_that_did_not_happen_is_not_logged(db: DB, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await audit.record(tx, "user_deleted")
            raise RuntimeError("the change did not happen")
    assert not [record for record in caplog.records if record.message == "user_deleted"]
