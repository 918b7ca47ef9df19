"""A database that only reads, as a standby does: whoever is signed in goes on looking, and changes get 503."""

import time
from urllib.parse import urlsplit

import pytest

from tests.conftest import Person, Service
from tests.signing_in import change
from tests.test_apikeys import made, script
from ytdl.api.keys import AUTH

OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
AGE = "UPDATE sessions SET last_used_at = now() - interval '61 seconds'"


@pytest.fixture
async def reads_only(service: Service, alice: Person) -> str:
    """A key that has not been used; then every connection is made anew, to a database that only reads."""
    key = str((await made(alice))["key"])
    url = service.config.database_url
    await change(url, AGE)
    await change(url, f"ALTER DATABASE {urlsplit(url).path[1:]} SET default_transaction_read_only = on")
    await change(url, OTHERS)
    service.app[AUTH]._known._known.clear()
    return key


async def settled(person: Person) -> int:
    """The first answer that is not of a connection that was cut."""
    begun = time.monotonic()
    while (status := (await person.get("/auth/profile")).status) == 503:
        assert time.monotonic() - begun < 30
    return status


async def test_sessions_and_keys_go_on_reading_and_changes_get_503(
    service: Service, alice: Person, reads_only: str
) -> None:
    assert await settled(alice) == 200
    async with script(service, alice, reads_only) as client:
        assert await settled(client) == 200
    answer = await alice.post("/auth/api-keys", {"name": "another"})
    assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")
    assert "takes no changes" in await answer.text()
