"""The API against its own document, briefly; `make fuzz` takes its time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import running
from tests.fuzz import api
from tests.servers import Servers
from ytdl import users
from ytdl.config import Config

# Always the same requests: what chance finds is for `make fuzz`, whose seed can be asked again.
# That making them takes long says something of the machine only.
BRIEFLY = (
    "--max-examples=4", "--seed=1", "--generation-deterministic", "--no-shrink", "--suppress-health-check=too_slow"
)  # fmt: skip


@pytest.fixture
def settings(servers: Servers, tmp_path: Path) -> Iterator[Config]:
    config = api.settings(servers, tmp_path)
    yield config
    servers.drop(config.database_url)


# The edges of every field are tried as the one who may do everything.
PHASES: dict[users.Role, str] = {"admin": "examples,coverage,fuzzing,stateful", "user": "fuzzing,stateful"}


@pytest.mark.slow
@pytest.mark.parametrize("role", PHASES)
async def test_the_service_does_what_its_document_says(settings: Config, role: users.Role) -> None:
    async with running(settings) as service:
        outcome = await api.against(service, role, [*BRIEFLY, f"--phases={PHASES[role]}"])
    assert not outcome.found, outcome.said
    assert outcome.cases > 200
