-- name: open :exec
-- A session with its first refresh token, for a user who is active and whose password is the one that was looked at.
WITH chosen AS (
    UPDATE users SET last_login = now()
    WHERE id = %(user_id)s AND is_active AND password_changed_at = %(password_changed_at)s
    RETURNING id
), opened AS (
    INSERT INTO sessions (id, user_id, expires_at, ip, user_agent)
    SELECT %(session_id)s, id, now() + make_interval(days => %(days)s), %(ip)s::inet, %(user_agent)s FROM chosen
    RETURNING id
)
INSERT INTO refresh_tokens (hash, session_id) SELECT %(hash)s, id FROM opened;

-- name: rotate :maybe
-- Spends a refresh token for its successor; of several at once the row's lock lets one through, the others get no row.
WITH spent AS (
    UPDATE refresh_tokens SET used_at = now()
    FROM sessions JOIN users ON users.id = sessions.user_id
    WHERE refresh_tokens.hash = %(hash)s AND refresh_tokens.used_at IS NULL
        AND sessions.id = refresh_tokens.session_id AND sessions.revoked_at IS NULL AND sessions.expires_at > now()
        AND users.is_active
    RETURNING sessions.id
), successor AS (
    INSERT INTO refresh_tokens (hash, session_id) SELECT %(successor)s, id FROM spent
)
UPDATE sessions SET last_used_at = now() FROM spent WHERE sessions.id = spent.id
RETURNING sessions.id AS session_id, sessions.user_id, %(successor)s::bytea AS successor;

-- name: refused :maybe
-- Why a refresh token was refused: whether it was spent, by whom, and what for, where that may be the same client, which
-- did not get its answer: moments ago, and what follows it is unspent. That is known by the keys that it can have been
-- made with, and where it was another key by there being none of its session that was spent later.
SELECT sessions.id AS session_id, sessions.user_id, users.is_active,
    sessions.revoked_at IS NULL AND sessions.expires_at > now() AS alive,
    spent.used_at IS NOT NULL AS spent,
    (
        SELECT next.hash FROM refresh_tokens next
        WHERE next.session_id = sessions.id AND next.used_at IS NULL
            AND spent.used_at > now() - make_interval(secs => %(grace_seconds)s)
            AND (next.hash = ANY(%(successors)s) OR NOT EXISTS (
                SELECT FROM refresh_tokens later WHERE later.session_id = sessions.id AND later.used_at > spent.used_at
            ))
    ) AS successor
FROM refresh_tokens spent JOIN sessions ON sessions.id = spent.session_id JOIN users ON users.id = sessions.user_id
WHERE spent.hash = %(hash)s;

-- name: revoke :exec
-- Ends a session that has not ended; every token of it is dead with it.
UPDATE sessions SET revoked_at = now() WHERE id = %(session_id)s AND revoked_at IS NULL AND expires_at > now();

-- name: revoke_own :exec
-- Ends a session of this user's that has not ended.
UPDATE sessions SET revoked_at = now()
WHERE id = %(session_id)s AND user_id = %(user_id)s AND revoked_at IS NULL AND expires_at > now();

-- name: revoke_all :many
-- Ends all sessions of a user, but one that may be spared.
UPDATE sessions SET revoked_at = now()
WHERE user_id = %(user_id)s AND id IS DISTINCT FROM %(keep)s::uuid AND revoked_at IS NULL AND expires_at > now()
RETURNING id;

-- name: page :many
-- A user's sessions that have not ended, newest first.
SELECT id, host(ip) AS ip, user_agent, created_at, last_used_at, expires_at FROM sessions
WHERE user_id = %(user_id)s AND id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND revoked_at IS NULL AND expires_at > now()
ORDER BY id DESC LIMIT %(limit)s;

-- name: identity :maybe
-- Whose a live session is, and whether its use was last noted over a minute ago.
SELECT users.id AS user_id, sessions.id AS session_id, users.username, users.role, users.requests_per_minute,
    sessions.last_used_at < now() - interval '1 minute' AS unnoted
FROM sessions JOIN users ON users.id = sessions.user_id
WHERE sessions.id = %(session_id)s AND users.id = %(user_id)s
    AND sessions.revoked_at IS NULL AND sessions.expires_at > now() AND users.is_active;

-- name: note_use :exec
-- Notes that a session is used; of several processes one does it, once a minute.
UPDATE sessions SET last_used_at = now()
WHERE id = %(session_id)s AND last_used_at < now() - interval '1 minute';

-- name: sweep :exec
-- Removes sessions, and with them their refresh tokens, a month after nobody could use them any more.
DELETE FROM sessions WHERE expires_at < now() - interval '30 days';
