-- name: reserve :maybe
-- Enters a try before its password is looked at, and says by which moment it is known; no row while the name is locked
-- or all of its tries are taken. Tries that began too long ago are dropped.
INSERT INTO sign_in_attempts AS known (name_digest, pending, expires_at)
VALUES (%(digest)s, ARRAY[clock_timestamp()], now() + make_interval(secs => %(seconds)s))
ON CONFLICT (name_digest) DO UPDATE SET
    pending = ARRAY(SELECT began FROM unnest(known.pending) AS began WHERE began > now() - make_interval(secs => %(alive)s))
        || greatest(clock_timestamp(), known.pending[cardinality(known.pending)] + interval '1 microsecond'),
    failures = CASE WHEN known.expires_at > now() THEN known.failures ELSE 0 END,
    expires_at = excluded.expires_at
WHERE known.locked_until <= now() AND %(most)s >
    (SELECT count(*) FROM unnest(known.pending) AS began WHERE began > now() - make_interval(secs => %(alive)s))
    + CASE WHEN known.expires_at > now() THEN known.failures ELSE 0 END
RETURNING pending[cardinality(pending)] AS began;

-- name: locked_seconds :value
-- How long a name will yet be locked; null where it is not.
SELECT extract(epoch FROM locked_until - now())::float8 AS seconds
FROM sign_in_attempts WHERE name_digest = %(digest)s AND locked_until > now();

-- name: give_back :exec
-- A try that came to nothing: no password was looked at.
UPDATE sign_in_attempts SET pending = array_remove(pending, %(began)s) WHERE name_digest = %(digest)s;

-- name: right :exec
-- A try that was right; with it what was wrong before is forgotten.
UPDATE sign_in_attempts
SET pending = array_remove(pending, %(began)s), failures = 0, lockouts = 0, locked_until = '-infinity'
WHERE name_digest = %(digest)s;

-- name: wrong :maybe
-- A try that was wrong. The last that is allowed locks the name, twice as long as a lock that ended within a day, up
-- to the longest.
UPDATE sign_in_attempts SET pending = array_remove(pending, %(began)s),
    failures = CASE WHEN failures + 1 < %(most)s THEN failures + 1 ELSE 0 END,
    lockouts = CASE WHEN failures + 1 < %(most)s THEN lockouts
        WHEN locked_until > now() - interval '1 day' THEN lockouts + 1 ELSE 1 END,
    locked_until = CASE WHEN failures + 1 < %(most)s THEN locked_until
        WHEN locked_until > now() - interval '1 day'
            THEN now() + make_interval(secs => least(%(longest)s, %(seconds)s * 2 ^ least(lockouts, 30)))
        ELSE now() + make_interval(secs => %(seconds)s) END,
    expires_at = now() + make_interval(secs => %(seconds)s)
WHERE name_digest = %(digest)s
RETURNING locked_until > now() AS locked, lockouts;

-- name: unlock :exec
-- Forgets what was wrong under a name; tries under way stay entered.
UPDATE sign_in_attempts SET failures = 0, lockouts = 0, locked_until = '-infinity' WHERE name_digest = %(digest)s;

-- name: locked :many
-- Which of these names are locked, and until when.
SELECT name_digest, locked_until FROM sign_in_attempts
WHERE name_digest = ANY(%(digests)s) AND locked_until > now();

-- name: sweep :exec
-- Removes what counts for nothing any more.
DELETE FROM sign_in_attempts
WHERE expires_at <= now() AND locked_until <= now() - interval '1 day'
    AND (pending[cardinality(pending)] > now() - make_interval(secs => %(alive)s)) IS NOT TRUE;
