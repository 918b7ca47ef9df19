-- name: register :exec
-- Makes a lane known. One that was known keeps what it had: a restart refills nothing and ends no pause.
INSERT INTO egress_lanes (name, tokens) VALUES (%(name)s, %(burst)s)
ON CONFLICT (name) DO NOTHING;

-- name: lend :many
-- Lets as many attempts start as are wanted and the lanes allow, evenly over the fullest of them and in turn. A lane
-- whose pause is over, or whose probe has died, lets exactly one start, before all others. Time counts once: a refill
-- begins where the one before it ended, whichever process made that. What is written follows from what was read under
-- the lock: the row as the statement first saw it may be older, and is what constraints are checked against first.
WITH lanes AS (
    SELECT name, state, probe, refilled_at, changed_at,
        least(%(burst)s, tokens + %(rate)s * greatest(0, extract(epoch FROM now() - refilled_at)))::float8 AS tokens,
        state <> 'open' AND coalesce(paused_until, probe_until) <= now() AS due
    FROM egress_lanes WHERE name = ANY(%(names)s::text[]) ORDER BY name FOR UPDATE
), units AS (
    SELECT name FROM lanes CROSS JOIN LATERAL generate_series(1,
        CASE WHEN due THEN 1 WHEN state = 'open' THEN least(floor(tokens), %(wanted)s)::integer ELSE 0 END) AS k
    ORDER BY due DESC, tokens - k DESC, refilled_at LIMIT %(wanted)s
), granted AS (
    SELECT name, count(*)::integer AS starts FROM units GROUP BY name
)
UPDATE egress_lanes l SET tokens = greatest(0, lanes.tokens - granted.starts),
    refilled_at = greatest(lanes.refilled_at, now()), changed_at = CASE WHEN lanes.due THEN now() ELSE lanes.changed_at END,
    state = CASE WHEN lanes.due THEN 'probing' ELSE 'open' END, paused_until = NULL,
    probe = CASE WHEN lanes.due THEN lanes.probe + 1 ELSE lanes.probe END,
    probe_until = CASE WHEN lanes.due THEN now() + make_interval(secs => %(probe_seconds)s) END
FROM lanes JOIN granted USING (name) WHERE l.name = lanes.name
RETURNING l.name, granted.starts, CASE WHEN lanes.due THEN l.probe END AS probe;

-- name: give_back :exec
-- Puts back what was not used.
UPDATE egress_lanes SET tokens = least(%(burst)s, tokens + %(starts)s) WHERE name = %(name)s;

-- name: pause :one
-- Closes a lane, for twice as long as the last time unless it has been calm since, and at least as long as the site
-- asked for. A refusal counts when the lane was open and has not changed since it came, or when it is the probe's own:
-- so of attempts that were refused together only the first counts, and one that is told twice counts once. What does
-- not count can only lengthen a pause.
WITH before AS (
    SELECT name, state, reason, pauses, paused_until, probe_until, changed_at,
        state = 'open' AND changed_at <= now() - make_interval(secs => %(age_seconds)s)
            OR state = 'probing' AND probe = %(probe)s::bigint AS counts,
        CASE WHEN state = 'open' AND changed_at < now() - make_interval(secs => %(calm_seconds)s) THEN 1
            ELSE pauses + 1 END AS pauses_then
    FROM egress_lanes WHERE name = %(name)s FOR UPDATE
), told AS (
    SELECT name, state, reason, pauses, paused_until, probe_until, changed_at, coalesce(counts, false) AS counts,
        pauses_then, now() + make_interval(secs => (1 + %(jitter)s) * greatest(%(floor_seconds)s,
        least(%(longest_seconds)s, %(pause_seconds)s * power(2, least(pauses_then - 1, 20))))) AS until,
        now() + make_interval(secs => %(floor_seconds)s) AS asked
    FROM before
)
UPDATE egress_lanes l SET state = CASE WHEN counts THEN 'paused' ELSE told.state END,
    reason = CASE WHEN counts THEN %(reason)s ELSE told.reason END,
    pauses = CASE WHEN counts THEN pauses_then ELSE told.pauses END,
    changed_at = CASE WHEN counts THEN now() ELSE told.changed_at END,
    probe_until = CASE WHEN NOT counts THEN told.probe_until END,
    paused_until = CASE WHEN counts THEN until WHEN told.state = 'paused' THEN greatest(told.paused_until, asked) END
FROM told WHERE l.name = told.name
RETURNING counts, l.pauses, extract(epoch FROM l.paused_until - now())::float8 AS seconds;

-- name: suspect :maybe
-- Takes note of a job that was refused before and is again; no row when the lane is closed, or another was refused too.
UPDATE egress_lanes SET suspect = %(job)s
WHERE name = %(name)s AND state = 'open' AND coalesce(suspect, %(job)s) = %(job)s
RETURNING name;

-- name: reopen :maybe
-- Opens the lane that a probe has found passable; no row when the probe is not the newest any more. The bucket begins
-- empty, so that the site is not met with all that has gathered at once.
UPDATE egress_lanes SET state = 'open', probe_until = NULL, tokens = 0, refilled_at = now(), changed_at = now(),
    suspect = NULL
WHERE name = %(name)s AND state = 'probing' AND probe = %(probe)s
RETURNING pauses, reason;

-- name: try_again :maybe
-- Closes the lane whose probe has learnt nothing, for a moment and without blame; no row when it is not the newest.
UPDATE egress_lanes SET state = 'paused', probe_until = NULL, changed_at = now(),
    paused_until = now() + make_interval(secs => %(delay_seconds)s)
WHERE name = %(name)s AND state = 'probing' AND probe = %(probe)s
RETURNING name;

-- name: wait_seconds :value
-- How long until the first of these lanes may be tried.
SELECT coalesce(min(CASE state WHEN 'paused' THEN greatest(0, extract(epoch FROM paused_until - now())) ELSE 0 END), 0)::float8
FROM egress_lanes WHERE name = ANY(%(names)s::text[]);

-- name: look :one
-- Says that the lanes are in use and the probes alive, and how the lanes are.
UPDATE egress_lanes SET seen_at = now(),
    probe_until = CASE WHEN state = 'probing' AND probe = %(probe)s::bigint
        THEN now() + make_interval(secs => %(probe_seconds)s) ELSE probe_until END
WHERE name = %(name)s
RETURNING state, extract(epoch FROM coalesce(paused_until, to_timestamp(0)))::float8 AS paused_until,
    least(%(burst)s, tokens + %(rate)s * greatest(0, extract(epoch FROM now() - refilled_at)))::float8 AS tokens;
