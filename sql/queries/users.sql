-- name: insert :one
-- A new account; taken names show as violations of users_username_taken and users_email_taken.
INSERT INTO users (id, username, email, full_name, password_hash, role)
VALUES (%(id)s, %(username)s, %(email)s, %(full_name)s, %(password_hash)s, %(role)s)
RETURNING id, username, email, full_name, role, is_active, created_at, last_login;

-- name: by_id :maybe
-- An account without its password.
SELECT id, username, email, full_name, role, is_active, created_at, last_login
FROM users WHERE id = %(id)s;

-- name: credentials :maybe
-- What a sign-in is checked against.
SELECT id, password_hash, password_changed_at FROM users WHERE lower(username) = lower(%(username)s);

-- name: change :maybe
-- The fields a user may change; NULL leaves one as it is.
UPDATE users
SET email = coalesce(%(email)s::text, email), full_name = coalesce(%(full_name)s::text, full_name)
WHERE id = %(id)s
RETURNING id, username, email, full_name, role, is_active, created_at, last_login;

-- name: limits :one
-- What an admin allows a user; null is what the settings say.
SELECT concurrent_downloads, requests_per_minute, file_bytes FROM users WHERE id = %(id)s;

-- name: usage :one
-- What a user has here: downloads ever, those not at their end, and the bytes kept.
SELECT count(*) AS downloads,
    count(*) FILTER (WHERE status IN ('queued', 'downloading', 'processing', 'uploading')) AS active_downloads,
    coalesce(sum(file_bytes) FILTER (WHERE status = 'completed'), 0)::bigint AS stored_bytes
FROM downloads WHERE user_id = %(id)s;

-- name: lock_admins :exec
-- Held until the transaction ends, so that of several processes one makes the first admin, and of two admins who go at
-- the same time one sees that the other has gone.
SELECT pg_advisory_xact_lock(7402002);

-- name: has_admin :value
-- Whether anyone is admin.
SELECT EXISTS (SELECT FROM users WHERE role = 'admin') AS has_admin;
