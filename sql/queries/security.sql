-- name: events :many
-- Events, newest first, from a place on; a filter that is null lets all pass. The bounds of time are never null, so that
-- they lead into an index however the statement is planned.
SELECT e.id, e.at, e.type, e.severity, e.result, e.user_id, u.username, e.credential_id, e.object_kind, e.object_id,
    host(e.ip) AS ip, e.request_id, e.detail
FROM audit_events e LEFT JOIN users u ON u.id = e.user_id
WHERE (e.at, e.id) < (%(before)s::timestamptz, %(before_id)s::uuid)
    AND e.at >= %(since)s::timestamptz AND e.at < %(until)s::timestamptz
    AND (%(type)s::text IS NULL OR e.type = %(type)s)
    AND (%(severity)s::text IS NULL OR e.severity = %(severity)s)
    AND (%(user_id)s::uuid IS NULL OR e.user_id = %(user_id)s)
    AND (%(network)s::inet IS NULL OR e.ip <<= %(network)s)
ORDER BY e.at DESC, e.id DESC LIMIT %(limit)s;

-- name: critical :many
-- The newest critical events of a window.
SELECT e.id, e.at, e.type, e.severity, e.result, e.user_id, u.username, e.credential_id, e.object_kind, e.object_id,
    host(e.ip) AS ip, e.request_id, e.detail
FROM audit_events e LEFT JOIN users u ON u.id = e.user_id
WHERE e.severity = 'critical' AND e.at >= %(since)s::timestamptz AND e.at < %(until)s::timestamptz
ORDER BY e.at DESC, e.id DESC LIMIT %(limit)s;

-- name: counts :many
-- How many events of each kind a window has, by day (UTC).
SELECT (at AT TIME ZONE 'UTC')::date AS day, type, severity, result, count(*) AS events
FROM audit_events WHERE at >= %(since)s::timestamptz AND at < %(until)s::timestamptz
GROUP BY 1, 2, 3, 4;

-- name: top_addresses :many
-- Whose addresses most events of a window came from.
SELECT host(ip) AS ip, count(*) AS events, count(*) FILTER (WHERE severity <> 'info') AS warnings
FROM audit_events WHERE at >= %(since)s::timestamptz AND at < %(until)s::timestamptz AND ip IS NOT NULL
GROUP BY ip ORDER BY warnings DESC, events DESC, ip LIMIT %(limit)s;

-- name: top_users :many
-- Which users most events of a window are about.
SELECT top.user_id, u.username, top.events, top.warnings
FROM (
    SELECT user_id, count(*) AS events, count(*) FILTER (WHERE severity <> 'info') AS warnings
    FROM audit_events WHERE at >= %(since)s::timestamptz AND at < %(until)s::timestamptz AND user_id IS NOT NULL
    GROUP BY user_id ORDER BY warnings DESC, events DESC, user_id LIMIT %(limit)s
) AS top LEFT JOIN users u ON u.id = top.user_id
ORDER BY top.warnings DESC, top.events DESC, top.user_id;

-- name: now :one
-- Networks that are blocked at this moment, and names that cannot sign in.
SELECT (SELECT count(*) FROM blocks WHERE lifted_at IS NULL AND expires_at > now()) AS blocked,
    (SELECT count(*) FROM sign_in_attempts WHERE locked_until > now()) AS locked;
