-- What dashboards may know: views for a role that reads nothing else (`ytdl grafana-role` makes it). No address, no
-- e-mail, no secret, and nowhere who asked for which video: an admin who looks at that is on record, a dashboard's
-- reader would not be.
CREATE SCHEMA analytics;

-- Each download with its user and without its video.
CREATE VIEW analytics.downloads AS
SELECT d.created_at, d.started_at, d.finished_at, d.status, d.extractor, d.quality, d.format, d.height,
    d.duration_seconds, d.file_bytes, d.error ->> 'code' AS error_code, u.username
FROM downloads d JOIN users u ON u.id = d.user_id;

-- Each video by the day it was asked for, without its users.
CREATE VIEW analytics.videos AS
SELECT date_trunc('day', created_at, 'UTC') AS day, extractor, video_id, max(title) AS title, max(uploader) AS uploader,
    count(*) AS downloads, count(*) FILTER (WHERE status = 'completed') AS completed, sum(file_bytes) AS file_bytes
FROM downloads GROUP BY 1, 2, 3;

-- Each attempt, also of downloads and users that are gone.
CREATE VIEW analytics.attempts AS
SELECT started_at, finished_at, status, error_code, format, quality, retries, downloaded_bytes, file_bytes,
    speed_bytes_per_second, peak_memory_bytes, cpu_seconds
FROM download_logs;

CREATE VIEW analytics.accounts AS
SELECT username, role, is_active, created_at, last_login FROM users;

-- What has not ended yet, and for whom.
CREATE VIEW analytics.waiting AS
SELECT j.state, j.waiting, j.priority, j.run_at, j.created_at, j.tries, j.crashes, u.username
FROM jobs j JOIN users u ON u.id = j.user_id WHERE j.finished_at IS NULL;
