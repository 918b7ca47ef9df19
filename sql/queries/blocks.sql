-- name: insert_automatic :maybe
-- A block that lasts twice as long as the one before, as far as that is remembered; no row where one is in force.
INSERT INTO blocks (id, network, kind, reason, offences, expires_at)
SELECT %(id)s, %(network)s::cidr, 'automatic', %(reason)s, %(offences)s,
    now() + make_interval(secs => least(%(longest)s, %(seconds)s * 2 ^ least(count(*), 30)))
FROM blocks
WHERE network = %(network)s::cidr AND kind = 'automatic' AND lifted_at IS NULL
    AND expires_at > now() - make_interval(days => %(days)s)
ON CONFLICT DO NOTHING
RETURNING *, hashtextextended(id::text, 0) AS mark;

-- name: insert_manual :maybe
-- A block that an admin asks for; no row where one for the same network is in force.
INSERT INTO blocks (id, network, kind, reason, created_by, expires_at)
VALUES (%(id)s, %(network)s::cidr, 'manual', %(reason)s, %(user_id)s, now() + make_interval(secs => %(seconds)s))
ON CONFLICT DO NOTHING
RETURNING *, hashtextextended(id::text, 0) AS mark;

-- name: lift :maybe
-- Ends a block that is in force.
UPDATE blocks SET lifted_at = now() WHERE id = %(id)s AND lifted_at IS NULL AND expires_at > now() RETURNING *;

-- name: by_id :maybe
-- One block, in force or not.
SELECT *, lifted_at IS NULL AND expires_at > now() AS active FROM blocks WHERE id = %(id)s;

-- name: page :many
-- Blocks in force, or those that ended, newest first, from a cursor on; a filter that is null lets all pass.
SELECT *, lifted_at IS NULL AND expires_at > now() AS active FROM blocks
WHERE (lifted_at IS NULL AND expires_at > now()) = %(active)s
    AND (%(before)s::uuid IS NULL OR id < %(before)s)
    AND (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(ip)s::inet IS NULL OR network >>= %(ip)s)
ORDER BY id DESC LIMIT %(limit)s;

-- name: in_force :many
-- What refuses somebody now, from an id on: the network, the seconds left, and the row's share of `mark`.
SELECT id, network::text AS network, kind, extract(epoch FROM expires_at - now())::float8 AS seconds,
    hashtextextended(id::text, 0) AS mark
FROM blocks
WHERE lifted_at IS NULL AND expires_at > now() AND (%(after)s::uuid IS NULL OR id > %(after)s)
ORDER BY id LIMIT %(limit)s;

-- name: those_in_force :many
-- The same for some ids; what does not come back is not in force.
SELECT id, network::text AS network, kind, extract(epoch FROM expires_at - now())::float8 AS seconds,
    hashtextextended(id::text, 0) AS mark
FROM blocks WHERE id = ANY(%(ids)s) AND lifted_at IS NULL AND expires_at > now();

-- name: mark :value
-- A number that tells one set of blocks in force from every other.
SELECT coalesce(bit_xor(hashtextextended(id::text, 0)), 0) FROM blocks WHERE lifted_at IS NULL AND expires_at > now();

-- name: sweep :exec
-- Removes blocks that are remembered no longer, some days after they ended.
DELETE FROM blocks WHERE coalesce(lifted_at, expires_at) < now() - make_interval(days => %(days)s);
