-- name: submit :maybe
-- Puts a job in; no row when the user has a live one under the same dedup key.
WITH submitted AS (
    INSERT INTO jobs (kind, subject, user_id, priority, dedup_key, max_tries, traceparent)
    VALUES (%(kind)s, %(subject)s, %(user_id)s, %(priority)s, %(dedup_key)s, %(max_tries)s, %(traceparent)s)
    ON CONFLICT (user_id, dedup_key) WHERE dedup_key IS NOT NULL AND state IN ('queued', 'running', 'retry_wait') DO NOTHING
    RETURNING id, fence, priority, user_id, run_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event) SELECT id, fence, 'submit' FROM submitted
)
SELECT id, user_id, priority, run_at FROM submitted;

-- name: live_subject :value
-- What the user's live job under a dedup key is about.
SELECT subject FROM jobs
WHERE user_id = %(user_id)s AND dedup_key = %(dedup_key)s AND state IN ('queued', 'running', 'retry_wait');

-- name: claim :many
-- Makes suggested jobs this worker's; a job that is not returned was a stale suggestion, or has to wait: of jobs whose
-- next crash is their last a worker has one at a time, so that none ends for what another one does to the worker.
-- It waited for the service (`kept_seconds`) since it was due and its user ran fewer than may run at once.
WITH suspect AS (
    SELECT min(s.id) AS id FROM jobs s
    WHERE s.id = ANY(%(ids)s::bigint[]) AND s.state IN ('queued', 'retry_wait') AND s.crashes >= %(max_crashes)s - 1
        AND s.run_at <= now() AND s.cancel_requested_at IS NULL
        AND NOT EXISTS (SELECT FROM jobs r WHERE r.state = 'running' AND r.lease_owner = %(owner)s AND r.crashes >= %(max_crashes)s - 1)
), claimed AS (
    UPDATE jobs SET state = 'running', fence = fence + 1, lease_owner = %(owner)s, waiting = NULL,
        lease_until = now() + make_interval(secs => %(lease_seconds)s)
    WHERE id = ANY(%(ids)s::bigint[]) AND state IN ('queued', 'retry_wait') AND run_at <= now() AND cancel_requested_at IS NULL
        AND (crashes < %(max_crashes)s - 1 OR id = (SELECT id FROM suspect))
    RETURNING id, fence, subject, user_id, tries, deferrals, refusals, traceparent, run_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event) SELECT id, fence, 'claim' FROM claimed
)
SELECT claimed.*, extract(epoch FROM now() - run_at)::float8 AS waited_seconds,
    -- A slot may have come free after this transaction began.
    greatest(0, extract(epoch FROM now() - greatest(run_at, freed.at)))::float8 AS kept_seconds
FROM claimed LEFT JOIN LATERAL (
    SELECT max(freed_at) AS at FROM jobs WHERE user_id = claimed.user_id AND freed_at IS NOT NULL
) AS freed ON true;

-- name: beat :many
-- Renews leases, delivers cancellations and shows what was lost: a pair that is not returned is no longer ours.
UPDATE jobs j SET lease_until = now() + make_interval(secs => %(lease_seconds)s)
FROM unnest(%(ids)s::bigint[], %(fences)s::bigint[]) AS held(id, fence)
WHERE j.id = held.id AND j.fence = held.fence AND j.state = 'running'
RETURNING j.id, j.user_id, j.priority, j.cancel_requested_at IS NOT NULL AS cancel;

-- name: complete :maybe
-- Ends a job well, or as cancelled when that was promised before; no row when the lease was lost.
WITH ended AS (
    UPDATE jobs SET state = CASE WHEN cancel_requested_at IS NULL THEN 'completed' ELSE 'cancelled' END,
        freed_at = CASE WHEN at_limit(user_id, %(user_cap)s) THEN now() ELSE freed_at END,
        lease_owner = NULL, lease_until = NULL, finished_at = now()
    WHERE id = %(id)s AND fence = %(fence)s AND state = 'running'
    RETURNING id, state
), noted AS (
    INSERT INTO job_events (job_id, fence, event) SELECT id, %(fence)s, state FROM ended
)
SELECT state FROM ended;

-- name: fail :maybe
-- Ends an attempt badly: cancelled, failed for good, or waiting for its retry; no row when the lease was lost.
WITH ended AS (
    UPDATE jobs SET tries = tries + 1, lease_owner = NULL, lease_until = NULL,
        state = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                     WHEN %(permanent)s OR tries + 1 >= max_tries THEN 'failed' ELSE 'retry_wait' END,
        finished_at = CASE WHEN cancel_requested_at IS NOT NULL OR %(permanent)s OR tries + 1 >= max_tries THEN now() END,
        freed_at = CASE WHEN at_limit(user_id, %(user_cap)s) THEN now() ELSE freed_at END,
        run_at = now() + make_interval(secs => %(delay_seconds)s)
    WHERE id = %(id)s AND fence = %(fence)s AND state = 'running'
    RETURNING id, user_id, priority, state, tries, run_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event) SELECT id, %(fence)s, state FROM ended
)
SELECT * FROM ended;

-- name: hand_back :maybe
-- Hands a job back without blame, after a while and with the reason where it is put off; a cancelled one ends here.
WITH ended AS (
    UPDATE jobs SET state = CASE WHEN cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END,
        finished_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        waiting = CASE WHEN cancel_requested_at IS NULL THEN %(waiting)s::text END,
        deferrals = deferrals + (%(waiting)s::text IS NOT NULL)::integer,
        refusals = refusals + (%(waiting)s::text IS NOT DISTINCT FROM 'egress')::integer,
        freed_at = CASE WHEN at_limit(user_id, %(user_cap)s) THEN now() ELSE freed_at END,
        run_at = now() + make_interval(secs => %(delay_seconds)s), lease_owner = NULL, lease_until = NULL
    WHERE id = %(id)s AND fence = %(fence)s AND state = 'running'
    RETURNING id, user_id, priority, state, run_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event)
    SELECT id, %(fence)s, CASE state WHEN 'queued' THEN 'yield' ELSE state END FROM ended
)
SELECT * FROM ended;

-- name: hasten :many
-- Makes jobs that were put off for one reason due now; those that are due or were taken already are left as they are.
UPDATE jobs SET run_at = now()
WHERE id = ANY(%(ids)s::bigint[]) AND state = 'queued' AND waiting = %(waiting)s AND run_at > now()
RETURNING id, user_id, priority, run_at;

-- name: outcome :maybe
-- What became of a job; asked after a commit whose answer was lost.
SELECT state, fence, tries, run_at, user_id, priority FROM jobs WHERE id = %(id)s;

-- name: reap :many
-- Takes jobs back from workers that stopped renewing; the third time it is the job that is to blame.
WITH expired AS (
    SELECT id FROM jobs WHERE state = 'running' AND lease_until < now()
    ORDER BY lease_until LIMIT 100 FOR UPDATE SKIP LOCKED
), reaped AS (
    UPDATE jobs j SET crashes = crashes + 1, lease_owner = NULL, lease_until = NULL, run_at = now(),
        freed_at = CASE WHEN at_limit(user_id, %(user_cap)s) THEN now() ELSE freed_at END,
        state = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                     WHEN crashes + 1 >= %(max_crashes)s THEN 'failed' ELSE 'queued' END,
        finished_at = CASE WHEN cancel_requested_at IS NOT NULL OR crashes + 1 >= %(max_crashes)s THEN now() END
    FROM expired WHERE j.id = expired.id
    RETURNING j.id, j.subject, j.user_id, j.priority, j.fence, j.state, j.run_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event)
    SELECT id, fence, CASE state WHEN 'queued' THEN 'reap' ELSE state END FROM reaped
)
SELECT * FROM reaped;

-- name: disown :exec
-- Lets every lease run out now; for a start that is alone on its database, where no former owner can live.
UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running';

-- name: cancel :many
-- Ends waiting jobs at once and marks running ones for their workers; no row for one that has ended already.
WITH held AS (
    -- In one order, so that two who cancel the same ones cannot wait in a circle.
    SELECT id FROM jobs WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE
), asked AS (
    UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, now()),
        -- What is on its way out stands in nobody's way.
        dedup_key = NULL,
        state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
        finished_at = CASE WHEN state = 'running' THEN NULL ELSE now() END,
        waiting = NULL
    FROM held WHERE jobs.id = held.id AND state IN ('queued', 'running', 'retry_wait')
    RETURNING jobs.id, fence, state, cancel_requested_at
), noted AS (
    INSERT INTO job_events (job_id, fence, event)
    SELECT id, fence, CASE state WHEN 'running' THEN 'cancel' ELSE state END FROM asked
    -- Asking again changes nothing, so it is no event.
    WHERE cancel_requested_at = now()
)
SELECT id, state FROM asked;

-- name: open_page :many
-- Waiting jobs in order of their ids, for making the index anew and for looking what it lost.
SELECT id, user_id, priority, run_at FROM jobs
WHERE state IN ('queued', 'retry_wait') AND id > %(after)s ORDER BY id LIMIT 1000;

-- name: caps :many
-- Users who may run another number of jobs at once than the settings say.
SELECT id, concurrent_downloads FROM users WHERE concurrent_downloads IS NOT NULL;

-- name: widen :exec
-- After somebody was given another number of jobs at once: what waits may have waited for their own others until now.
UPDATE jobs SET freed_at = now()
WHERE id = (SELECT max(id) FROM jobs WHERE user_id = %(user_id)s AND state = 'running');

-- name: refused :many
-- Which of these jobs wait all the same; they are to be suggested again, but not at once.
SELECT id, user_id, priority, greatest(run_at, now() + interval '1 second') AS run_at FROM jobs
WHERE id = ANY(%(ids)s::bigint[]) AND state IN ('queued', 'retry_wait');

-- name: next_epoch :value
-- A number for the next incarnation of the index.
SELECT nextval('queue_epoch');

-- name: lock_index :one
-- Only one process makes the index anew; the lock goes with the transaction.
SELECT pg_advisory_xact_lock(%(lock)s);

-- name: depth :many
-- Jobs by state; ended ones are counted by the metrics of their transitions.
SELECT state, count(*) AS jobs FROM jobs WHERE state IN ('queued', 'running', 'retry_wait') GROUP BY state;

-- name: oldest_ready_seconds :value
-- How long the oldest due job has been waiting for a worker.
SELECT coalesce(extract(epoch FROM now() - min(run_at)), 0)::float8 FROM jobs
WHERE state IN ('queued', 'retry_wait') AND run_at <= now();

-- name: oldest_startable_seconds :value
-- The same of those whose users run fewer than they may, and since they do: what waits then waits for the service.
-- Jobs whose next crash is their last wait for each other: while one runs, the others are left
-- out. `claim` lets each worker have one, but which workers there are is not known here: what a second one could take is
-- told when the first one's job ends. A page for what the only worker must not take would be worse.
SELECT coalesce(extract(epoch FROM now() - min(greatest(due.run_at, freed.at))), 0)::float8
FROM (
    SELECT user_id, min(run_at) AS run_at FROM jobs
    WHERE state IN ('queued', 'retry_wait') AND run_at <= now()
        AND (crashes < %(max_crashes)s - 1
            OR NOT EXISTS (SELECT FROM jobs r WHERE r.state = 'running' AND r.crashes >= %(max_crashes)s - 1))
    GROUP BY user_id
) AS due
LEFT JOIN (SELECT user_id, count(*) AS jobs FROM jobs WHERE state = 'running' GROUP BY user_id) AS running USING (user_id)
LEFT JOIN users ON users.id = due.user_id
LEFT JOIN LATERAL (
    SELECT max(freed_at) AS at FROM jobs WHERE user_id = due.user_id AND freed_at IS NOT NULL
) AS freed ON true
WHERE coalesce(running.jobs, 0) < coalesce(users.concurrent_downloads, %(user_cap)s);
