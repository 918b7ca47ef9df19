-- name: server_version :value
-- Whether the server answers at all, and with which version.
SELECT current_setting('server_version');
