"""The dashboards' SQL, executed against a real PostgreSQL as the role that Grafana has, with something to show."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests import dashboards
from tests.dashboards import DASHBOARDS, panels
from tests.reading import Reading, dropped, reading
from tests.servers import Servers
from ytdl import readers

ASKED = [
    (panel, target) for dashboard in DASHBOARDS.values() for panel in panels(dashboard) for target in panel["targets"]
    if "rawSql" in target
]  # fmt: skip
every_statement = pytest.mark.parametrize(("panel", "target"), ASKED, ids=[panel["title"] for panel, _ in ASKED])
# alice has had a video twice and failed once, bob waits; all of it today.
FILLED = b"""
    INSERT INTO users (id, username, email, full_name, password_hash, last_login) VALUES
        ('00000000-0000-0000-0000-00000000000a', 'alice', 'a@example.org', 'Alice', 'x', now()),
        ('00000000-0000-0000-0000-00000000000b', 'bob', 'b@example.org', 'Bob', 'x', NULL);
    INSERT INTO jobs (id, kind, subject, user_id, state, finished_at) OVERRIDING SYSTEM VALUE
        SELECT n, 'download', gen_random_uuid(), '00000000-0000-0000-0000-00000000000a', s, now()
        FROM (VALUES (1, 'completed'), (2, 'completed'), (3, 'failed')) AS j (n, s);
    INSERT INTO jobs (id, kind, subject, user_id) OVERRIDING SYSTEM VALUE
        VALUES (4, 'download', gen_random_uuid(), '00000000-0000-0000-0000-00000000000b');
    INSERT INTO downloads (id, user_id, job_id, url, canonical_url, extractor, video_id, status, quality, format, title,
        uploader, height, file_name, file_bytes, error, finished_at)
        SELECT gen_random_uuid(), j.user_id, j.id, '', '', 'youtube', v.video, j.state, '720p', 'mp4', v.title,
            'Studio', 720, v.file, v.size, v.error::jsonb, j.finished_at
        FROM jobs j JOIN (VALUES
            (1, 'film', 'A film', 'f1', 1000, NULL), (2, 'film', 'A film', 'f2', 500, NULL),
            (3, 'clip', NULL, NULL, NULL, '{"code": "not_found"}'), (4, 'clip', NULL, NULL, NULL, NULL)
        ) AS v (job, video, title, file, size, error) ON v.job = j.id;
    INSERT INTO download_logs (download_id, job_id, fence, user_id, url, format, quality, finished_at, status,
        speed_bytes_per_second, peak_memory_bytes, cpu_seconds)
        SELECT d.id, d.job_id, 1, d.user_id, '', d.format, d.quality, d.finished_at, d.status, 100, 2000, 3
        FROM downloads d WHERE d.finished_at IS NOT NULL"""


@pytest.fixture(scope="module")
def grafana(servers: Servers) -> Iterator[Reading]:
    url = servers.clone()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(FILLED)
    with dropped(url) as name:
        asyncio.run(readers.make(url, name, "twelve letters and more"))
        with reading(url, name) as connection:
            yield connection
    servers.drop(url)


def executed(connection: Reading, title: str) -> list[tuple[Any, ...]]:
    [target] = [target for panel, target in ASKED if panel["title"] == title]
    return connection.execute(dashboards.sql(target["rawSql"]).encode()).fetchall()


@every_statement
def test_a_statement_answers_with_what_its_panel_shows(
    grafana: Reading, panel: dict[str, Any], target: dict[str, Any]
) -> None:
    cursor = grafana.execute(dashboards.sql(target["rawSql"]).encode())
    rows = cursor.fetchall()
    assert rows and any(value is not None for value in rows[0])
    names = [column.name for column in cursor.description or []]
    assert {one["matcher"]["options"] for one in panel["fieldConfig"].get("overrides") or []} <= set(names)
    assert (names[0] == "time") is (target["format"] == "time_series")


def test_popular_videos_are_counted_over_all_users_and_days(grafana: Reading) -> None:
    assert executed(grafana, "Popular videos") == [
        ("A film", "Studio", "youtube", 2, 2, 1500), (None, "Studio", "youtube", 2, 0, None),
    ]  # fmt: skip


def test_users_are_shown_with_what_became_of_what_they_asked_for(grafana: Reading) -> None:
    rows = executed(grafana, "Users")
    assert [row[:5] for row in rows] == [("alice", 3, 2, 1, 1500), ("bob", 1, 0, 0, None)]


def test_who_waits_is_shown_until_it_is_over(grafana: Reading) -> None:
    assert [row[:2] for row in executed(grafana, "Waiting longest")] == [("bob", "queued")]


def test_a_window_of_another_day_shows_nothing_of_today(grafana: Reading) -> None:
    [target] = [target for panel, target in ASKED if panel["title"] == "Formats"]
    (today,) = grafana.execute("SELECT now()").fetchone() or (None,)
    assert today
    text = dashboards.sql(target["rawSql"], "1h", today.replace(year=today.year - 1))
    assert grafana.execute(text.encode()).fetchall() == []
