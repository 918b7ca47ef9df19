"""The audit trail, against a real PostgreSQL: what is written, and that it is written with the change it tells of."""

from ipaddress import ip_address
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
