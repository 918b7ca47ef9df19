-- name: open_session :exec
-- A session with its first refresh token, for a user who is active; no row otherwise.
WITH chosen AS (
    UPDATE users SET last_login = now() WHERE id = %(user_id)s AND is_active RETURNING id
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
RETURNING sessions.id AS session_id, sessions.user_id;

-- name: refresh_token :maybe
-- Why a refresh token was refused.
SELECT sessions.id AS session_id, sessions.user_id, refresh_tokens.used_at IS NOT NULL AS spent, users.is_active
FROM refresh_tokens JOIN sessions ON sessions.id = refresh_tokens.session_id JOIN users ON users.id = sessions.user_id
WHERE refresh_tokens.hash = %(hash)s;

-- name: revoke_session :exec
-- Ends a session that has not ended; every token of it is dead with it.
UPDATE sessions SET revoked_at = now() WHERE id = %(session_id)s AND revoked_at IS NULL;

-- name: identity :maybe
-- Whose a live session is.
SELECT users.id AS user_id, sessions.id AS session_id, users.username, users.role
FROM sessions JOIN users ON users.id = sessions.user_id
WHERE sessions.id = %(session_id)s AND users.id = %(user_id)s
    AND sessions.revoked_at IS NULL AND sessions.expires_at > now() AND users.is_active;

-- name: insert_ticket :exec
-- A ticket for a session or for an API key.
INSERT INTO tickets (hash, session_id, key_id, expires_at)
VALUES (%(hash)s, %(session_id)s, %(key_id)s, now() + make_interval(secs => %(seconds)s));

-- name: redeem_ticket :maybe
-- Takes a ticket away and says whose it was; a second redeemer finds nothing.
WITH spent AS (
    DELETE FROM tickets WHERE hash = %(hash)s AND expires_at > now() RETURNING session_id, key_id
)
SELECT users.id AS user_id, spent.session_id, spent.key_id, users.username, users.role,
    coalesce(api_keys.scope, 'write') AS scope, users.requests_per_minute
FROM spent
LEFT JOIN sessions ON sessions.id = spent.session_id AND sessions.revoked_at IS NULL AND sessions.expires_at > now()
LEFT JOIN api_keys ON api_keys.id = spent.key_id AND (api_keys.expires_at > now()) IS NOT FALSE
JOIN users ON users.id = coalesce(sessions.user_id, api_keys.user_id)
WHERE users.is_active;

-- name: sweep_tickets :exec
-- Removes tickets that nobody can redeem any more.
DELETE FROM tickets WHERE expires_at <= now();

-- name: sweep_sessions :exec
-- Removes sessions, and with them their refresh tokens, a month after nobody could use them any more.
DELETE FROM sessions WHERE expires_at < now() - interval '30 days';
