-- name: server_version :value
-- Whether the server answers at all, and with which version.
SELECT current_setting('server_version');

-- name: write_probe :exec
-- A row that shows that the server takes changes.
INSERT INTO health_probes (id) VALUES (%(id)s);

-- name: read_probe :value
-- Whether that row is there.
SELECT count(*) FROM health_probes WHERE id = %(id)s;

-- name: remove_probe :exec
-- Removes it, and what checks left that died an hour ago or earlier.
DELETE FROM health_probes WHERE id = %(id)s OR written_at < now() - interval '1 hour';
