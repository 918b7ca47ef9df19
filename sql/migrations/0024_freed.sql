-- When this job's end, or its being put off, left its user running fewer than may run at once. Before the last such
-- moment none of the user's jobs waited for the service. NULL where none of this job's ends did that.
ALTER TABLE jobs ADD COLUMN freed_at timestamptz;
CREATE INDEX jobs_freed ON jobs (user_id, freed_at) WHERE freed_at IS NOT NULL;

-- Whether somebody runs as many as may run at once; the usual number goes for who has none of their own.
CREATE FUNCTION at_limit(who uuid, usual integer) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM jobs WHERE user_id = who AND state = 'running')
        >= coalesce((SELECT concurrent_downloads FROM users WHERE id = who), usual)
$$;
