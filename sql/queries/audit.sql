-- name: insert :exec
-- One event of the trail.
INSERT INTO audit_events (id, type, severity, result, user_id, credential_id, object_kind, object_id, ip, request_id, detail)
VALUES (%(id)s, %(type)s, %(severity)s, %(result)s, %(user_id)s, %(credential_id)s, %(object_kind)s, %(object_id)s,
    %(ip)s::inet, %(request_id)s, %(detail)s);

-- name: pending :many
-- The events to be linked next, oldest first.
SELECT event_id FROM audit_pending ORDER BY event_id LIMIT %(limit)s;

-- name: as_linked :many
-- Events in the form that their links are made over: every column as text that depends on no setting of a session.
SELECT id AS event_id, id::text, extract(epoch FROM at)::text AS at, type, severity, result, user_id::text,
    credential_id::text, object_kind, object_id, ip::text, request_id, detail::text
FROM audit_events WHERE id = ANY(%(ids)s::uuid[]);

-- name: state :one
-- How long the chain is, how many events wait for their link (as far as it is counted), and what stands at a place of
-- the chain that is known from before.
SELECT coalesce(head.seq, 0) AS seq, head.hash, (SELECT hash FROM audit_chain WHERE seq = %(known)s::bigint) AS known,
    (SELECT count(*) FROM (SELECT FROM audit_pending LIMIT 10000) AS waiting) AS pending
FROM (VALUES (1)) AS always LEFT JOIN (SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1) AS head ON true;

-- name: lock_chain :value
-- True for the one process that links until its transaction ends; others need not wait.
SELECT pg_try_advisory_xact_lock(7402013);

-- name: head :maybe
-- The last link.
SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1;

-- name: append :exec
-- Links after the last one, in the order of the arrays.
INSERT INTO audit_chain (seq, event_id, hash)
SELECT %(after)s::bigint + place, event_id, hash
FROM unnest(%(ids)s::uuid[], %(hashes)s::bytea[]) WITH ORDINALITY AS link (event_id, hash, place);

-- name: linked :exec
-- What was linked waits no more.
DELETE FROM audit_pending WHERE event_id = ANY(%(ids)s::uuid[]);

-- name: known :many
-- Of some events those that have their link already.
SELECT event_id FROM audit_chain WHERE event_id = ANY(%(ids)s::uuid[]);

-- name: linked_before :exec
-- Of the oldest events that wait, those that have their link already wait no more.
DELETE FROM audit_pending WHERE event_id IN (
    SELECT event_id FROM audit_pending JOIN audit_chain USING (event_id) ORDER BY event_id LIMIT %(limit)s
);

-- name: links :many
-- The next links of the chain.
SELECT seq, event_id, hash FROM audit_chain WHERE seq >= %(first)s::bigint ORDER BY seq LIMIT %(limit)s;

-- name: unlinked :one
-- Of the next events after an id: where they end, the first that has no link and does not wait for one, and since when
-- the oldest waits.
SELECT max(e.id::text COLLATE "C")::uuid AS last,
    min(e.id::text COLLATE "C") FILTER (WHERE c.event_id IS NULL AND p.event_id IS NULL) AS forgotten,
    min(extract(epoch FROM e.at)) FILTER (WHERE c.event_id IS NULL)::float8 AS since
FROM (SELECT id, at FROM audit_events WHERE %(after)s::uuid IS NULL OR id > %(after)s ORDER BY id LIMIT %(limit)s) AS e
LEFT JOIN audit_chain c ON c.event_id = e.id LEFT JOIN audit_pending p ON p.event_id = e.id;

-- name: lost :one
-- Of the next events that wait for their link after an id: where they end, and the first that is not there.
SELECT max(p.event_id::text COLLATE "C")::uuid AS last,
    min(p.event_id::text COLLATE "C") FILTER (WHERE e.id IS NULL) AS lost
FROM (
    SELECT event_id FROM audit_pending WHERE %(after)s::uuid IS NULL OR event_id > %(after)s
    ORDER BY event_id LIMIT %(limit)s
) AS p LEFT JOIN audit_events e ON e.id = p.event_id;
