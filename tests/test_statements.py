"""The dashboards' SQL, executed against a real PostgreSQL as the role that Grafana has, with something to show."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
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
# Two weeks ago all three had the film and two of them the clip; today all three ask for what is new, and dave waits.
FILLED = b"""
    INSERT INTO users (id, username, email, full_name, password_hash, last_login)
        SELECT format('00000000-0000-0000-0000-00000000000%s', n)::uuid, name, name || '@example.org', name, 'x', now()
        FROM unnest('{alice,bob,carol,dave}'::text[]) WITH ORDINALITY AS u (name, n);
    INSERT INTO jobs (id, kind, subject, user_id, state, finished_at, created_at) OVERRIDING SYSTEM VALUE
        SELECT n, 'download', gen_random_uuid(), format('00000000-0000-0000-0000-00000000000%s', who)::uuid, state,
            CASE state WHEN 'queued' THEN NULL ELSE now() - days * interval '1 day' END,
            now() - days * interval '1 day' - interval '20 seconds'
        FROM (VALUES (1, 1, 'completed', 14), (2, 2, 'completed', 14), (3, 3, 'failed', 14), (4, 1, 'completed', 14),
            (5, 1, 'completed', 14), (6, 2, 'failed', 14), (7, 1, 'completed', 0), (8, 2, 'completed', 0),
            (9, 3, 'completed', 0), (10, 4, 'queued', 0)) AS j (n, who, state, days);
    INSERT INTO downloads (id, user_id, job_id, url, canonical_url, extractor, video_id, status, quality, format, title,
        uploader, height, file_name, file_bytes, error, created_at, finished_at)
        SELECT gen_random_uuid(), j.user_id, j.id, '', '', 'youtube', v.video, j.state, '720p', 'mp4', 'A ' || v.video,
            'Studio', 720, CASE j.state WHEN 'completed' THEN 'f' || j.id END,
            CASE j.state WHEN 'completed' THEN 5123456 + j.id END,
            CASE j.state WHEN 'failed' THEN '{"code": "not_found"}'::jsonb END, j.created_at, j.finished_at
        FROM jobs j CROSS JOIN LATERAL (
            SELECT CASE WHEN j.id <= 4 THEN 'film' WHEN j.id <= 6 THEN 'clip' ELSE 'news' END AS video) AS v;
    INSERT INTO download_logs (download_id, job_id, fence, user_id, url, format, quality, started_at, finished_at,
        status, file_bytes, speed_bytes_per_second, peak_memory_bytes, cpu_seconds)
        SELECT d.id, d.job_id, 1, d.user_id, '', d.format, d.quality, d.created_at, d.finished_at, d.status,
            d.file_bytes, 100, 2000, 3
        FROM downloads d WHERE d.finished_at IS NOT NULL"""
# Who asked in the week in which a video was asked for, and how many of them could be meant.
MEANT = b"""
    SELECT v.video_id, count(DISTINCT u.username)
    FROM videos v JOIN users u ON date_trunc('week', u.day, 'UTC') = v.week GROUP BY 1"""


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
    return connection.execute(dashboards.sql(target["rawSql"], "30d").encode()).fetchall()


@every_statement
def test_a_statement_answers_with_what_its_panel_shows(
    grafana: Reading, panel: dict[str, Any], target: dict[str, Any]
) -> None:
    cursor = grafana.execute(dashboards.sql(target["rawSql"], "30d").encode())
    rows = cursor.fetchall()
    assert rows and any(value is not None for value in rows[0])
    names = [column.name for column in cursor.description or []]
    assert {one["matcher"]["options"] for one in panel["fieldConfig"].get("overrides") or []} <= set(names)
    assert (names[0] == "time") is (target["format"] == "time_series")


def test_videos_that_three_asked_for_are_counted_once_their_week_is_over(grafana: Reading) -> None:
    assert executed(grafana, "Popular videos") == [("A film", "Studio", "youtube", 3, 4)]
    assert executed(grafana, "Popular uploaders") == [("Studio", 1, 4)]


def test_a_video_can_be_any_of_those_who_asked_that_week(grafana: Reading) -> None:
    assert grafana.execute(MEANT).fetchall() == [("film", 3)]


@pytest.mark.parametrize(("column", "shown"), [("video_id", "film"), ("title", "A film")])
def test_a_video_that_is_not_shown_is_not_told_by_a_fault_either(grafana: Reading, column: str, shown: str) -> None:
    """A condition that fails has the value in its message, if it is tried on rows that the view leaves out."""
    told = f"SELECT FROM videos WHERE CASE {column} WHEN '{shown}' THEN true ELSE {column}::int > 0 END"
    assert len(grafana.execute(told.encode()).fetchall()) == 1


def test_users_are_shown_with_what_became_of_what_they_asked_for(grafana: Reading) -> None:
    rows = [(*row[:5], round(row[5]) if row[5] else None) for row in executed(grafana, "Users")]
    assert rows == [
        ("alice", 4, 4, 0, 20_000_000, 20), ("bob", 3, 2, 1, 10_000_000, 20), ("carol", 2, 1, 1, 5_000_000, 20),
        ("dave", 1, 0, 0, None, None),
    ]  # fmt: skip


def test_what_waits_is_shown_until_it_is_over(grafana: Reading) -> None:
    assert [row[0] for row in executed(grafana, "Waiting longest")] == ["queued"]


def test_a_window_of_another_day_shows_nothing_of_today(grafana: Reading) -> None:
    [target] = [target for panel, target in ASKED if panel["title"] == "Formats"]
    (today,) = grafana.execute("SELECT now()").fetchone() or (None,)
    assert today
    text = dashboards.sql(target["rawSql"], "1h", today - timedelta(days=365))
    assert grafana.execute(text.encode()).fetchall() == []
