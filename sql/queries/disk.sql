-- name: lock :one
-- One asks at a time, over all processes; the lock goes with the transaction.
SELECT pg_advisory_xact_lock(%(lock)s);

-- name: promised :many
-- What running attempts other than this job's were promised: how large their folders may become.
SELECT j.id AS job, j.fence, j.subject, r.reserved_bytes FROM reservations r
JOIN jobs j ON j.id = r.job_id AND j.fence = r.fence
WHERE j.state = 'running' AND r.reserved_bytes IS NOT NULL AND j.id <> %(job)s;

-- name: ahead :value
-- What the oldest of the older jobs wants that was refused and that may fit once what runs has ended. It keeps its place
-- while the attempt that asks anew is still finding out what the video is.
SELECT r.wanted_bytes FROM reservations r JOIN jobs j ON j.id = r.job_id
WHERE r.reserved_bytes IS NULL AND r.job_id < %(job)s AND r.wanted_bytes <= %(hope)s
    AND j.state IN ('queued', 'running') AND j.fence <= r.fence + 1 AND j.cancel_requested_at IS NULL
    AND j.waiting IS DISTINCT FROM 'egress'
ORDER BY r.job_id LIMIT 1;

-- name: ask :maybe
-- Notes what an attempt wants and, unless null, was promised; no row when its lease was lost.
INSERT INTO reservations (job_id, fence, wanted_bytes, reserved_bytes)
SELECT id, fence, %(wanted)s::bigint, %(reserved)s::bigint FROM jobs
WHERE id = %(job)s AND fence = %(fence)s AND state = 'running'
ON CONFLICT (job_id) DO UPDATE SET fence = excluded.fence, wanted_bytes = excluded.wanted_bytes,
    reserved_bytes = excluded.reserved_bytes
RETURNING job_id;

-- name: refused_before :value
-- What the attempt before this one wanted and did not get.
SELECT wanted_bytes FROM reservations WHERE job_id = %(job)s AND fence = %(fence)s - 1 AND reserved_bytes IS NULL;

-- name: give_up :exec
-- An attempt that found the disk full after all: what it had goes, so it wants all of it.
UPDATE reservations SET wanted_bytes = reserved_bytes, reserved_bytes = NULL
WHERE job_id = %(job)s AND fence = %(fence)s AND reserved_bytes IS NOT NULL;

-- name: line :many
-- Jobs that wait for the disk, the oldest first, with what they want; where that is not known, anything will do.
SELECT j.id, coalesce(r.wanted_bytes, 1) AS wanted_bytes FROM jobs j
LEFT JOIN reservations r ON r.job_id = j.id AND r.reserved_bytes IS NULL
WHERE j.waiting = 'disk' AND j.state = 'queued' ORDER BY j.id LIMIT 1000;

-- name: idle :many
-- Of these downloads those that have partial files nobody is working on, the first to give way first.
SELECT d.id, j.id AS job, j.fence FROM downloads d JOIN jobs j ON j.id = d.job_id
WHERE d.id = ANY(%(ids)s::uuid[]) AND j.state IN ('queued', 'retry_wait', 'failed')
ORDER BY j.state = 'failed' DESC, j.id DESC;

-- name: hold_idle :maybe
-- Keeps a job from being leased until the transaction ends; no row when it was changed meanwhile.
SELECT id FROM jobs WHERE id = %(job)s AND fence = %(fence)s AND state IN ('queued', 'retry_wait', 'failed')
FOR UPDATE SKIP LOCKED;

-- name: forget :exec
-- Rows of jobs that have ended.
DELETE FROM reservations r USING jobs j
WHERE j.id = r.job_id AND j.state IN ('completed', 'failed', 'cancelled');
