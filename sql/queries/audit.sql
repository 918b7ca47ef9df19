-- name: insert :exec
-- One event of the trail.
INSERT INTO audit_events (id, type, severity, result, user_id, credential_id, object_kind, object_id, ip, request_id, detail)
VALUES (%(id)s, %(type)s, %(severity)s, %(result)s, %(user_id)s, %(credential_id)s, %(object_kind)s, %(object_id)s,
    %(ip)s::inet, %(request_id)s, %(detail)s);
