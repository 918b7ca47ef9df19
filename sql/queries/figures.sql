-- name: server :one
-- What PostgreSQL says of itself and of this database. Of the age of transactions it tells a role its own only, unless that
-- may read all statistics.
SELECT (SELECT sum(numbackends) FROM pg_stat_database)::float8 AS connections,
    current_setting('max_connections')::float8 AS max_connections, pg_database_size(datid)::float8 AS size_bytes,
    xact_commit::float8 AS committed, xact_rollback::float8 AS rolled_back, deadlocks::float8 AS deadlocks,
    blks_hit::float8 AS from_cache, blks_read::float8 AS from_disk,
    (SELECT failed_count FROM pg_stat_archiver)::float8 AS archive_failures,
    (
        SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    )::float8 AS longest_transaction_seconds
FROM pg_stat_database WHERE datname = current_database();

-- name: accounts :many
-- Accounts by role, and by whether they may sign in.
SELECT role, is_active, count(*) AS accounts FROM users GROUP BY role, is_active;

-- name: open_sessions :value
-- Sessions that have neither ended nor been revoked.
SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND expires_at > now();
