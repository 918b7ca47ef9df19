-- name: put :one
-- Keeps a value in its place, over what was there.
INSERT INTO sealed_values (id, kind, owner, name, sealed, key_id)
VALUES (%(id)s, %(kind)s, %(owner)s, %(name)s, %(sealed)s, %(key_id)s)
ON CONFLICT (kind, owner, name) DO UPDATE
    SET sealed = excluded.sealed, key_id = excluded.key_id, updated_at = now()
RETURNING id;

-- name: place :maybe
-- What is kept in a place.
SELECT sealed
FROM sealed_values
WHERE kind = %(kind)s AND name = %(name)s
    AND (owner = %(owner)s::uuid OR owner IS NULL AND %(owner)s::uuid IS NULL);

-- name: remove :exec
-- Empties a place.
DELETE FROM sealed_values
WHERE kind = %(kind)s AND name = %(name)s
    AND (owner = %(owner)s::uuid OR owner IS NULL AND %(owner)s::uuid IS NULL);

-- name: by_key :many
-- How many values are under which key.
SELECT key_id, count(*) AS values
FROM sealed_values
GROUP BY key_id
ORDER BY key_id;

-- name: after :many
-- The next values in the order of their ids.
SELECT id, kind, owner, name, sealed, key_id
FROM sealed_values
WHERE id > %(after)s
ORDER BY id
LIMIT %(limit)s;

-- name: replace :exec
-- Puts newly sealed values in the place of those that are still what was read.
UPDATE sealed_values v
SET sealed = n.newer, key_id = %(key_id)s
FROM unnest(%(ids)s::uuid[], %(olds)s::bytea[], %(news)s::bytea[]) AS n (id, older, newer)
WHERE v.id = n.id AND v.sealed = n.older;
