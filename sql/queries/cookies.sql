-- name: put :exec
-- Takes note of an upload; nothing of an earlier one stays.
INSERT INTO cookies (user_id, upload, cookie_count, expires_at)
VALUES (%(user_id)s, %(upload)s, %(cookie_count)s, to_timestamp(%(expires)s::float8))
ON CONFLICT (user_id) DO UPDATE SET upload = excluded.upload, cookie_count = excluded.cookie_count,
    expires_at = excluded.expires_at, uploaded_at = now(), last_used_at = NULL, accepted_at = NULL, refused_at = NULL;

-- name: state :maybe
-- What is known of a user's cookies.
SELECT cookie_count, expires_at, uploaded_at, last_used_at, refused_at, status
FROM cookie_states WHERE user_id = %(user_id)s;

-- name: remove :exec
-- Forgets what was known of them.
DELETE FROM cookies WHERE user_id = %(user_id)s;

-- name: lend :maybe
-- Whose cookies an attempt may have: those of its job's own user, and no row once its lease is lost. What the site said
-- of the video is kept for the next attempt. The job's row is locked first, as in every other change.
WITH held AS (
    SELECT d.id, d.user_id FROM jobs j JOIN downloads d ON d.job_id = j.id
    WHERE j.id = %(job)s AND j.fence = %(fence)s AND j.state = 'running' FOR SHARE OF j
), noted AS (
    UPDATE downloads d SET needs_account = true FROM held WHERE d.id = held.id AND %(needed)s
)
SELECT held.user_id, s.upload, coalesce(s.status, 'none') AS status
FROM held LEFT JOIN cookie_states s ON s.user_id = held.user_id;

-- name: used :exec
-- An attempt got them.
UPDATE cookies SET last_used_at = now() WHERE user_id = %(user_id)s AND upload = %(upload)s;

-- name: accepted :exec
-- The site took them; also where another attempt thought otherwise.
UPDATE cookies SET accepted_at = now(), refused_at = NULL WHERE user_id = %(user_id)s AND upload = %(upload)s;

-- name: refused :maybe
-- The site does not take them; no row when that was known, or others have been uploaded.
UPDATE cookies SET refused_at = now()
WHERE user_id = %(user_id)s AND upload = %(upload)s AND refused_at IS NULL
RETURNING upload;

-- name: by_status :many
-- How many users' cookies are in which state, for the gauge; `keys` are those that the process has.
SELECT CASE WHEN s.status IN ('valid', 'unproven') AND v.id IS NULL THEN 'unreadable' ELSE s.status END AS status,
    count(*) AS users
FROM cookie_states s
LEFT JOIN sealed_values v ON v.kind = 'cookies' AND v.owner = s.user_id AND v.key_id = ANY(%(keys)s)
GROUP BY 1;

-- name: ages :one
-- Of the cookies that may be used: when the oldest were uploaded and when the first expire, in seconds since 1970; 0 when
-- there are none.
SELECT coalesce(extract(epoch FROM min(s.uploaded_at)), 0)::float8 AS oldest_upload,
    coalesce(extract(epoch FROM min(s.expires_at)), 0)::float8 AS first_expiry
FROM cookie_states s JOIN sealed_values v ON v.kind = 'cookies' AND v.owner = s.user_id AND v.key_id = ANY(%(keys)s)
WHERE s.status IN ('valid', 'unproven');
