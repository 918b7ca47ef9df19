-- name: insert :exec
-- Records what was asked for; its job is already there, in the same transaction.
INSERT INTO downloads (id, user_id, session_id, job_id, url, canonical_url, extractor, video_id, quality, format, options,
    ip, user_agent, request_headers)
VALUES (%(id)s, %(user_id)s, %(session_id)s, %(job_id)s, %(url)s, %(canonical_url)s, %(extractor)s, %(video_id)s,
    %(quality)s, %(format)s, %(options)s, %(ip)s, %(user_agent)s, %(headers)s);

-- name: by_id :maybe
-- A download that the user owns, or any for an admin, with its job's figures.
SELECT d.*, j.tries, j.max_tries, j.priority, j.state AS job_state, j.run_at, j.fence, j.waiting, j.run_at > now() AS early,
    e.paused AS egress_paused, e.until AS egress_until
FROM downloads d JOIN jobs j ON j.id = d.job_id CROSS JOIN egress e
WHERE d.id = %(id)s AND (d.user_id = %(user_id)s OR %(admin)s);

-- name: page :many
-- The user's downloads, newest first, from a cursor on; a filter that is null lets all pass.
SELECT d.*, j.tries, j.max_tries, j.priority, j.state AS job_state, j.run_at, j.fence, j.waiting, j.run_at > now() AS early,
    e.paused AS egress_paused, e.until AS egress_until
FROM downloads d JOIN jobs j ON j.id = d.job_id CROSS JOIN egress e
WHERE d.user_id = %(user_id)s
    AND (%(before)s::uuid IS NULL OR d.id < %(before)s)
    AND (%(statuses)s::text[] IS NULL OR d.status = ANY(%(statuses)s))
    AND (%(title)s::text IS NULL OR position(lower(%(title)s) IN lower(d.title)) > 0)
    AND (%(since)s::timestamptz IS NULL OR d.created_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR d.created_at < %(until)s)
ORDER BY d.id DESC LIMIT %(limit)s;

-- name: open_of :many
-- The user's downloads that have not come to an end, for the start of a stream.
SELECT d.*, j.tries, j.max_tries, j.priority, j.state AS job_state, j.run_at, j.fence, j.waiting, j.run_at > now() AS early,
    e.paused AS egress_paused, e.until AS egress_until
FROM downloads d JOIN jobs j ON j.id = d.job_id CROSS JOIN egress e
WHERE d.user_id = %(user_id)s AND j.state IN ('queued', 'running', 'retry_wait') ORDER BY d.id DESC LIMIT 200;

-- name: lock :maybe
-- Holds a download for a change. Its job's row is what is locked, as in every other change, so that two cannot wait in
-- a circle; what the wait brought is read by the next statement.
SELECT d.id FROM downloads d JOIN jobs j ON j.id = d.job_id
WHERE d.id = %(id)s AND (d.user_id = %(user_id)s OR %(admin)s) FOR UPDATE OF j;

-- name: cancelled :exec
-- Waiting downloads ended by their user.
UPDATE downloads SET status = 'cancelled', stage = 'cancelled', error = NULL, finished_at = now()
WHERE job_id = ANY(%(jobs)s::bigint[]);

-- name: requeue :exec
-- Back to the start with a new job, after an end that was not a success.
UPDATE downloads SET job_id = %(job_id)s, status = 'queued', stage = 'queued', error = NULL, percent = 0, downloaded_bytes = 0,
    speed_bytes_per_second = NULL, eta_seconds = NULL, finished_at = NULL, started_at = NULL, expires_at = NULL,
    file_name = NULL, file_bytes = NULL, file_type = NULL, file_sha256 = NULL
WHERE id = %(id)s AND job_id = %(old)s;

-- name: delete :exec
-- The record goes; its log rows and the job's history stay.
DELETE FROM downloads WHERE id = %(id)s;

-- name: uncancelled_of :many
-- Jobs of a user that have not ended and were not cancelled, with or without a record; some at a time.
SELECT id AS job_id, subject AS id, user_id FROM jobs
WHERE user_id = %(user_id)s AND state IN ('queued', 'retry_wait')
UNION ALL
SELECT id, subject, user_id FROM jobs
WHERE user_id = %(user_id)s AND state = 'running' AND cancel_requested_at IS NULL
LIMIT %(limit)s;

-- name: delete_of :many
-- So many records of a user go; their log rows and the jobs' history stay.
DELETE FROM downloads
WHERE id IN (SELECT id FROM downloads WHERE user_id = %(user_id)s ORDER BY id LIMIT %(limit)s)
RETURNING file_name;

-- name: start :many
-- Marks what was just leased as running and opens a log row for each attempt.
WITH started AS (
    UPDATE downloads d SET status = 'downloading', stage = 'extracting', started_at = coalesce(started_at, now()), error = NULL
    FROM jobs j WHERE j.id = d.job_id AND j.id = ANY(%(jobs)s::bigint[])
    RETURNING d.*, j.fence, j.tries
), logged AS (
    INSERT INTO download_logs (download_id, job_id, fence, user_id, session_id, url, title, duration_seconds, format, quality,
        retries, ip, user_agent, request_headers, format_preference)
    SELECT id, job_id, fence, user_id, session_id, url, title, duration_seconds, format, quality, tries, ip, user_agent,
        request_headers, quality || '/' || format
    FROM started
)
SELECT id, job_id, user_id, canonical_url, quality, format, options, percent, needs_account,
    (SELECT file_bytes FROM users WHERE users.id = started.user_id) AS max_file_bytes
FROM started;

-- name: describe :exec
-- What the video is, as soon as it is known; only for the attempt that holds the lease.
UPDATE downloads d SET title = %(title)s, uploader = %(uploader)s, duration_seconds = %(duration_seconds)s,
    thumbnail_url = %(thumbnail_url)s, width = %(width)s, height = %(height)s
FROM jobs j WHERE j.id = d.job_id AND j.id = %(job)s AND j.fence = %(fence)s AND j.state = 'running';

-- name: progress :exec
-- Where the running downloads are; a row of a lost attempt changes nothing. The jobs' rows are locked, because an
-- attempt that is ending at this very moment would otherwise be judged by what it was before; that one is left out.
WITH held AS (
    SELECT j.id, j.fence FROM jobs j
    JOIN unnest(%(jobs)s::bigint[], %(fences)s::bigint[]) AS h(id, fence) ON j.id = h.id AND j.fence = h.fence
    WHERE j.state = 'running' FOR SHARE OF j SKIP LOCKED
), told AS (
    SELECT p.* FROM unnest(%(jobs)s::bigint[], %(fences)s::bigint[], %(statuses)s::text[], %(stages)s::text[],
            %(percents)s::float8[], %(downloaded)s::bigint[], %(fetched)s::bigint[], %(totals)s::bigint[],
            %(speeds)s::float8[], %(etas)s::float8[])
        AS p(job, fence, status, stage, percent, downloaded_bytes, fetched_bytes, total_bytes, speed, eta)
    JOIN held ON held.id = p.job AND held.fence = p.fence
), logged AS (
    UPDATE download_logs l SET percent = t.percent, downloaded_bytes = t.fetched_bytes
    FROM told t WHERE l.job_id = t.job AND l.fence = t.fence
)
UPDATE downloads d SET status = t.status, stage = t.stage, percent = t.percent, downloaded_bytes = t.downloaded_bytes,
    total_bytes = t.total_bytes, speed_bytes_per_second = t.speed, eta_seconds = t.eta
FROM told t WHERE d.job_id = t.job;

-- name: complete :maybe
-- The file is in the store; the lease was checked by the job's own change in this transaction.
UPDATE downloads SET status = 'completed', stage = 'completed', percent = 100, file_name = %(file_name)s,
    file_bytes = %(size_bytes)s, file_type = %(content_type)s, file_sha256 = %(sha256)s, width = %(width)s, height = %(height)s,
    duration_seconds = coalesce(duration_seconds, %(duration_seconds)s), downloaded_bytes = %(size_bytes)s,
    total_bytes = %(size_bytes)s, speed_bytes_per_second = NULL, eta_seconds = NULL, error = NULL, finished_at = now()
WHERE job_id = %(job)s
RETURNING extract(epoch FROM now() - created_at)::float8 AS seconds;

-- name: end :exec
-- An attempt that did not succeed: back to the queue, failed or cancelled, with the reason at hand.
UPDATE downloads SET status = %(status)s, stage = %(status)s,
    error = CASE WHEN %(status)s = 'cancelled' THEN NULL ELSE coalesce(%(error)s::jsonb, error) END, speed_bytes_per_second = NULL,
    eta_seconds = NULL, finished_at = CASE WHEN %(status)s IN ('failed', 'cancelled') THEN now() END
WHERE job_id = %(job)s;

-- name: close_log :exec
-- What became of an attempt and what it cost; the download itself may have been deleted meanwhile.
UPDATE download_logs l SET finished_at = now(), status = %(status)s, error_code = %(error_code)s, error_message = %(error_message)s,
    title = coalesce(d.title, l.title), duration_seconds = coalesce(d.duration_seconds, l.duration_seconds),
    percent = coalesce(%(percent)s::float8, l.percent), file_bytes = %(file_bytes)s,
    downloaded_bytes = coalesce(%(fetched_bytes)s::bigint, l.downloaded_bytes),
    speed_bytes_per_second = coalesce(%(fetched_bytes)s::bigint, l.downloaded_bytes)::float8 / nullif(extract(epoch FROM now() - l.started_at), 0)::float8,
    file_path = %(file_path)s, output_format = %(output_format)s, peak_memory_bytes = %(peak_memory_bytes)s,
    cpu_seconds = %(cpu_seconds)s, disk_bytes = %(disk_bytes)s
FROM jobs j LEFT JOIN downloads d ON d.job_id = j.id
WHERE l.job_id = %(job)s AND l.fence = %(fence)s AND j.id = l.job_id;

-- name: logs :many
-- A download's attempts in order.
SELECT fence AS attempt, status, started_at, finished_at, error_code, error_message, retries, percent, downloaded_bytes,
    speed_bytes_per_second, file_bytes, output_format, peak_memory_bytes, cpu_seconds, disk_bytes
FROM download_logs WHERE download_id = %(id)s ORDER BY id;

-- name: remember :maybe
-- Takes an idempotency key, or one that is over a day old; no row when it is taken.
INSERT INTO idempotency_keys (user_id, key, fingerprint, answer) VALUES (%(user_id)s, %(key)s, %(fingerprint)s, '')
ON CONFLICT (user_id, key) DO UPDATE SET fingerprint = %(fingerprint)s, answer = '', created_at = now()
    WHERE idempotency_keys.created_at < now() - interval '24 hours'
RETURNING key;

-- name: answered :exec
-- Keeps the answer under its key.
UPDATE idempotency_keys SET answer = %(answer)s WHERE user_id = %(user_id)s AND key = %(key)s;

-- name: remembered :maybe
-- The first answer under a key.
SELECT fingerprint, answer FROM idempotency_keys WHERE user_id = %(user_id)s AND key = %(key)s;

-- name: forget_keys :exec
-- Idempotency keys over a day old.
DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours';

-- name: known_files :many
-- Which of these stored files a download names, or an attempt that still runs may be about to.
SELECT file_name FROM downloads WHERE file_name = ANY(%(names)s::text[])
UNION ALL
SELECT stored.name FROM unnest(%(names)s::text[]) AS stored(name)
JOIN jobs ON jobs.id = split_part(stored.name, '.', 1)::bigint AND jobs.fence = split_part(stored.name, '.', 2)::bigint
WHERE jobs.state = 'running';

-- name: working :many
-- Which of these downloads may still need their work folder: live ones, and failed ones for an hour.
SELECT d.id FROM downloads d JOIN jobs j ON j.id = d.job_id
WHERE d.id = ANY(%(ids)s::uuid[])
    AND (j.state IN ('queued', 'running', 'retry_wait') OR (d.status = 'failed' AND d.finished_at > now() - interval '1 hour'));

-- name: running_subjects :many
-- Downloads among these that an attempt is working on, deleted records included.
SELECT DISTINCT subject FROM jobs WHERE subject = ANY(%(ids)s::uuid[]) AND state = 'running';

-- name: by_status :many
-- Downloads by status with the size of their files, for the gauges: a look at one index, as it goes over all there are.
SELECT status, count(*) AS downloads, count(file_bytes) AS files, coalesce(sum(file_bytes), 0)::float8 AS bytes
FROM downloads GROUP BY status;
