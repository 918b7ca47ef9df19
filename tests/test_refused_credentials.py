"""Credentials that are refused: an honest client brings the same one again and again, and is not blocked for it."""

import asyncio
import dataclasses
import time
from uuid import uuid4

import pytest

from tests.conftest import Person, Service, running
from tests.redises import OwnRedis
from tests.signing_in import change, refresh
from ytdl import apikeys, metrics, offences
from ytdl.api.keys import BLOCKS, OFFENCES
from ytdl.blocks import BlockFilter
from ytdl.config import Config
from ytdl.crypto import AccessTokens
from ytdl.scores import AGAIN_SECONDS

HERE = "198.51.100.7"
OLD = b"the key before a change of it, which nobody was told of"


@pytest.fixture
def config(config: Config) -> Config:
    return dataclasses.replace(config, trusted_proxies=("127.0.0.1/32",))


def old_token(seconds: int = 3600) -> str:
    return AccessTokens(OLD, "HS256").issue(uuid4(), uuid4(), seconds=seconds)


async def profile(service: Service, credential: str) -> int:
    headers = {"X-Forwarded-For": HERE, "Authorization": f"Bearer {credential}"}
    async with service.client.get("/api/v1/auth/profile", headers=headers) as answer:
        return answer.status


async def scored(service: Service) -> bool:
    """Whether there is a block, once all that was noted is added up."""
    held = service.app[OFFENCES]
    await asyncio.sleep(2 * offences.BATCH_SECONDS)
    async with asyncio.timeout(30):
        while held._waiting or held._due or held._busy.locked():  # noqa: ASYNC110 - it only empties
            await asyncio.sleep(0.01)
    return bool((await service.app[BLOCKS].page(BlockFilter())).items)


async def test_an_office_with_tokens_of_a_former_key_is_not_blocked(service: Service) -> None:
    office = [old_token(seconds) for seconds in range(-5, 10)]
    async with running(service.config) as other:
        for token in office:
            assert {await profile(each, token) for each in (service, other) for _ in range(4)} == {401}
        assert not await scored(service) and not await scored(other)


async def test_tokens_of_which_each_is_another_lead_to_a_block(service: Service) -> None:
    for n in range(40):
        assert await profile(service, old_token(n)) in (401, 403)
    assert await scored(service)


async def test_a_key_that_was_cut_off_blocks_nobody_and_many_wrong_ones_do(service: Service) -> None:
    cut = apikeys.mint()[:-3]
    assert {await profile(service, cut) for _ in range(40)} == {401}
    assert not await scored(service)
    for _ in range(25):
        await profile(service, apikeys.mint()[:-1] + "-")
    assert await scored(service)


async def test_a_deleted_key_blocks_nobody_and_many_made_up_ones_do(service: Service, alice: Person) -> None:
    """A checksum is not hard to get right."""
    made = await (await alice.post("/auth/api-keys", {"name": "a"})).json()
    assert await profile(service, made["key"]) == 200
    assert (await alice.delete(f"/auth/api-keys/{made['id']}")).status == 204
    assert {await profile(service, made["key"]) for _ in range(40)} == {401}
    assert not await scored(service)
    for _ in range(25):
        assert await profile(service, apikeys.mint()) in (401, 403)
    assert await scored(service)


async def test_a_client_that_sticks_to_a_spent_token_is_not_blocked(
    service: Service, alice: Person, database_url: str
) -> None:
    await refresh(service, alice.refresh_token)
    await change(database_url, "UPDATE refresh_tokens SET used_at = used_at - interval '11 seconds'")
    before = metrics.blocks_offences.labels("reuse")._value.get()
    body = {"refresh_token": alice.refresh_token}
    for _ in range(10):
        async with service.client.post("/api/v1/security/refresh", json=body, headers={"X-Forwarded-For": HERE}) as a:
            assert a.status == 401
    assert metrics.blocks_offences.labels("reuse")._value.get() == before + 10
    assert not await scored(service)


async def test_without_redis_the_same_credential_counts_once_as_well(config: Config, own_redis: OwnRedis) -> None:
    async with running(dataclasses.replace(config, redis_url=own_redis.url)) as service:
        own_redis.kill()
        token = old_token()
        assert {await profile(service, token) for _ in range(40)} == {401}
        assert not await scored(service)


async def test_what_was_refused_is_remembered_of_so_many_and_so_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = service.app[OFFENCES]
    for n in range(offences.REMEMBERED + 10):
        held._known("127.0.0.1", b"%d" % n)
    assert len(held._seen) == offences.REMEMBERED
    assert held._known("127.0.0.1", b"100") and not held._known(HERE, b"100")
    later = time.monotonic() + AGAIN_SECONDS
    # For that one look only: the loop of the service goes by the same clock.
    with monkeypatch.context() as clock:
        clock.setattr(time, "monotonic", lambda: later)
        known = held._known("127.0.0.1", b"100")
    assert not known
