-- name: renew_hash :exec
-- The same password hashed at another cost, unless it has changed.
UPDATE users SET password_hash = %(new)s WHERE id = %(id)s AND password_hash = %(old)s;

-- name: change_password :exec
-- A new password in the place of the one that was looked at, for a user who is active.
UPDATE users SET password_hash = %(hash)s, password_changed_at = clock_timestamp()
WHERE id = %(id)s AND is_active AND password_changed_at = %(seen)s;

-- name: is_live :value
-- Whether a session or an API key still opens what it opened before, with the same role.
SELECT EXISTS (
    SELECT FROM users
    LEFT JOIN sessions ON sessions.id = %(session_id)s AND sessions.user_id = users.id
        AND sessions.revoked_at IS NULL AND sessions.expires_at > now()
    LEFT JOIN api_keys ON api_keys.id = %(key_id)s AND api_keys.user_id = users.id
        AND (api_keys.expires_at > now()) IS NOT FALSE
    WHERE users.id = %(user_id)s AND users.is_active AND users.role = %(role)s
        AND (sessions.id IS NOT NULL OR api_keys.id IS NOT NULL)
) AS live;

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
