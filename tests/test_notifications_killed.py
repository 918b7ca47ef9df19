"""A service that is killed while it changes who is told: the next one puts file and Alertmanager right."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests import watching
from tests.alerting import PATH
from tests.conftest import SECRET
from tests.fakes import chat
from tests.instance import serving, signed_in
from ytdl import routing

pytestmark = [watching.needs_alertmanager, pytest.mark.slow]
HOOK = {"kind": "webhook", "name": "hook", "url": "http://127.0.0.1:9999" + chat.WEBHOOK_PATH}


async def until_changed(file: Path, text: str) -> None:
    async with asyncio.timeout(30):
        while file.read_text() == text:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)


async def test_a_change_that_was_cut_off_was_none(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Killed while Alertmanager is asked, which then takes what nobody has committed."""
    file = tmp_path / "alertmanager.yml"
    file.write_text(routing.shipped())
    (tmp_path / "one").mkdir()
    async with watching.alertmanager(tmp_path / "watched", file) as alertmanager:
        settings = {
            "DATABASE_URL": database_url, "REDIS_URL": redis_url, "REDIS_PREFIX": tmp_path.name,
            "JWT_SECRET_KEY": SECRET, "DOWNLOAD_CONCURRENCY": "0", "ALERTMANAGER_URL": alertmanager.url,
            "ALERTMANAGER_CONFIG_FILE": str(file), "ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8",
            "ALERT_CHECK_INTERVAL": "0.3",
        }  # fmt: skip
        # Only the round at its start: a later one that Alertmanager leaves waiting would keep the change waiting too.
        once = settings | {"ALERT_CHECK_INTERVAL": "300"}
        async with serving(tmp_path / "one", **once) as instance, signed_in(instance) as client:
            async with client.post(f"/api/v1{PATH}", json={"channels": [HOOK]}) as answer:
                assert (await answer.json())["version"] == 1
            wanted = file.read_text()
            alertmanager.signal(signal.SIGSTOP)
            change = asyncio.create_task(client.post(f"/api/v1{PATH}", json={"channels": []}))
            await until_changed(file, wanted)
            unwanted = file.read_text()
            os.kill(instance.pid, signal.SIGKILL)
            alertmanager.signal(signal.SIGCONT)
            with pytest.raises(aiohttp.ClientError):
                await change
        assert file.read_text() == unwanted
        async with serving(tmp_path / "one", **settings):
            await until_changed(file, unwanted)
            assert file.read_text() == wanted
            async with asyncio.timeout(30):
                while {"name": "channel-hook"} not in await alertmanager.get("/api/v2/receivers"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
