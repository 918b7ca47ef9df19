"""What browsers may keep of answers: nothing about people, and of downloads only to ask whether it changed."""

import pytest

from tests.conftest import Person
from ytdl.routes import ROUTES


@pytest.mark.parametrize(
    "path",
    [
        "/auth/profile",
        "/auth/users",
        "/auth/sessions",
        "/security/events",
        "/security/stats",
        "/security/blocks",
        "/monitoring/thresholds",
        "/monitoring/metrics",
    ],
)
async def test_what_is_about_people_is_not_stored(root: Person, path: str) -> None:
    answer = await root.get(path)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    if "ETag" in answer.headers:
        again = await root.get(path, headers={"If-None-Match": "*"})
        assert (again.status, again.headers["Cache-Control"]) == (304, "no-store")


async def test_downloads_are_asked_for_again_before_they_are_shown(alice: Person) -> None:
    answer = await alice.get("/downloads")
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_every_value_that_may_be_kept_is_of_a_download() -> None:
    assert {row.path.split("/")[1] for row in ROUTES if row.tagged and not row.private} == {"downloads"}
