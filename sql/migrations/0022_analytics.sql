-- What dashboards may know: views for a role that reads nothing else (`ytdl grafana-role` makes it). No address, no
-- e-mail, no secret, and nowhere who asked for which video, also not by joining views: an admin who looks at that is on
-- record, a dashboard's reader would not be. So a name stands beside sums of days, and never beside what tells one
-- download from another; and a video stands beside nothing but a week.
CREATE SCHEMA analytics;

-- Each download, without its user and its video.
CREATE VIEW analytics.downloads AS
SELECT created_at, started_at, finished_at, status, extractor, quality, format, height,
    round(file_bytes / 1000000.0)::bigint AS megabytes, error ->> 'code' AS error_code
FROM downloads;

-- The days of each user on which they asked for something. Exact sizes would tell files.
CREATE VIEW analytics.users AS
SELECT u.username, date_trunc('day', d.created_at, 'UTC') AS day, count(*) AS downloads,
    count(*) FILTER (WHERE d.status = 'completed') AS completed, count(*) FILTER (WHERE d.status = 'failed') AS failed,
    round(sum(d.file_bytes) FILTER (WHERE d.status = 'completed') / 1000000.0)::bigint AS megabytes,
    round(sum(extract(epoch FROM d.finished_at - d.created_at)) FILTER (WHERE d.status = 'completed')) AS seconds
FROM downloads d JOIN users u ON u.id = d.user_id GROUP BY 1, 2;

-- What three users or more asked for in the same week, once that is over: whoever looked again and again would see who
-- asked just when a video comes. Without the barrier a condition that fails on a row which is left out would show it.
CREATE VIEW analytics.videos WITH (security_barrier) AS
SELECT date_trunc('week', created_at, 'UTC') AS week, extractor, video_id, max(title) AS title,
    max(uploader) AS uploader, count(DISTINCT user_id) AS askers, count(*) AS times
FROM downloads WHERE created_at < date_trunc('week', now(), 'UTC')
GROUP BY 1, 2, 3 HAVING count(DISTINCT user_id) >= 3;

-- Each attempt, also of downloads and users that are gone.
CREATE VIEW analytics.attempts AS
SELECT started_at, finished_at, status, error_code, format, quality, retries, downloaded_bytes, file_bytes,
    speed_bytes_per_second, peak_memory_bytes, cpu_seconds
FROM download_logs;

CREATE VIEW analytics.accounts AS
SELECT username, role, is_active, created_at, last_login FROM users;

-- What has not ended yet; its moment would tell which download is whose.
CREATE VIEW analytics.waiting AS
SELECT state, waiting, priority, run_at, created_at, tries, crashes FROM jobs WHERE finished_at IS NULL;
