-- name: page :many
-- Accounts, newest first, from a cursor on; a filter that is null lets all pass.
SELECT id, username, email, full_name, role, is_active, created_at, last_login,
    concurrent_downloads, requests_per_minute, file_bytes
FROM users
WHERE (%(before)s::uuid IS NULL OR id < %(before)s)
    AND (%(role)s::text IS NULL OR role = %(role)s)
    AND (%(is_active)s::boolean IS NULL OR is_active = %(is_active)s)
    AND (%(part)s::text IS NULL OR position(lower(%(part)s) IN lower(username || ' ' || email || ' ' || full_name)) > 0)
ORDER BY id DESC LIMIT %(limit)s;

-- name: by_id :maybe
-- An account as admins see it.
SELECT id, username, email, full_name, role, is_active, created_at, last_login,
    concurrent_downloads, requests_per_minute, file_bytes
FROM users WHERE id = %(id)s;

-- name: lock :maybe
-- Holds an account for a change: nobody signs in to it, makes a key or asks for a download until that is over.
SELECT email, full_name, username, role, is_active, concurrent_downloads, requests_per_minute, file_bytes
FROM users WHERE id = %(id)s FOR UPDATE;

-- name: has_other_admin :value
-- Whether anyone else is an active admin.
SELECT EXISTS (SELECT FROM users WHERE role = 'admin' AND is_active AND id <> %(id)s) AS has_other_admin;

-- name: change :exec
-- Everything that an admin may change, whether it differs or not.
UPDATE users SET email = %(email)s, full_name = %(full_name)s, role = %(role)s, is_active = %(is_active)s,
    concurrent_downloads = %(concurrent_downloads)s, requests_per_minute = %(requests_per_minute)s,
    file_bytes = %(file_bytes)s
WHERE id = %(id)s;

-- name: delete :exec
-- The account goes with all that is its own; log rows and what is on record stay.
DELETE FROM users WHERE id = %(id)s;
