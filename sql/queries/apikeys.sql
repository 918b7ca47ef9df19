-- name: lock_owner :maybe
-- Holds the user of a live session, so that one who is just being shut out makes no key, and none makes too many.
SELECT users.id FROM users JOIN sessions ON sessions.user_id = users.id
WHERE sessions.id = %(session_id)s AND sessions.revoked_at IS NULL AND users.is_active FOR UPDATE OF users, sessions;

-- name: insert :maybe
-- A new key; no row when the user has as many as there may be.
INSERT INTO api_keys (id, user_id, name, scope, hash, prefix, expires_at)
SELECT %(id)s, %(user_id)s, %(name)s, %(scope)s, %(hash)s, %(prefix)s, now() + make_interval(days => %(days)s::integer)
WHERE (SELECT count(*) FROM api_keys WHERE user_id = %(user_id)s) < %(limit)s
RETURNING id, name, scope, prefix, created_at, last_used_at, expires_at;

-- name: of_user :many
-- A user's keys, newest first.
SELECT id, name, scope, prefix, created_at, last_used_at, expires_at
FROM api_keys WHERE user_id = %(user_id)s ORDER BY id DESC;

-- name: delete :maybe
-- Ends a key of this user.
DELETE FROM api_keys WHERE id = %(id)s AND user_id = %(user_id)s RETURNING scope;

-- name: identify :maybe
-- Whose a live key is, and whether its use was last noted over a minute ago.
SELECT api_keys.id AS key_id, users.id AS user_id, users.username, users.role, api_keys.scope,
    users.requests_per_minute, api_keys.expires_at,
    (api_keys.last_used_at < now() - interval '1 minute') IS NOT FALSE AS unnoted
FROM api_keys JOIN users ON users.id = api_keys.user_id
WHERE api_keys.hash = %(hash)s AND (api_keys.expires_at > now()) IS NOT FALSE AND users.is_active;

-- name: note_use :exec
-- Notes that a key is used; of several processes one does it, once a minute.
UPDATE api_keys SET last_used_at = now()
WHERE id = %(key_id)s AND (last_used_at < now() - interval '1 minute') IS NOT FALSE;

-- name: sweep :exec
-- Removes keys a month after they expired.
DELETE FROM api_keys WHERE expires_at < now() - interval '30 days';

-- name: revoke_all :many
-- Ends all keys of a user.
DELETE FROM api_keys WHERE user_id = %(user_id)s RETURNING id;
