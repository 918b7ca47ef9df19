-- name: every :many
-- Every threshold that is set, with the name of who set it.
SELECT metric, warning, critical, for_seconds, set_by, username AS set_by_name, set_at
FROM thresholds LEFT JOIN users ON users.id = set_by;

-- name: set :exec
-- Sets or changes a metric's thresholds.
INSERT INTO thresholds (metric, warning, critical, for_seconds, set_by)
VALUES (%(metric)s, %(warning)s, %(critical)s, %(for_seconds)s, %(user_id)s)
ON CONFLICT (metric) DO UPDATE SET warning = excluded.warning, critical = excluded.critical,
    for_seconds = excluded.for_seconds, set_by = excluded.set_by, set_at = now();

-- name: unset :exec
-- Removes a metric's thresholds.
DELETE FROM thresholds WHERE metric = %(metric)s;
