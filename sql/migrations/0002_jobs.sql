-- The queue. PostgreSQL decides, Redis suggests: a row here is the truth about a job, whatever Redis says.

CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT jobs_pkey PRIMARY KEY,
    kind text NOT NULL CONSTRAINT jobs_kind_known CHECK (kind IN ('download')),
    -- What the job is about; for a download its id. No foreign key: the history outlives its subject.
    subject uuid NOT NULL,
    user_id uuid NOT NULL,
    priority smallint NOT NULL DEFAULT 5 CONSTRAINT jobs_priority_range CHECK (priority BETWEEN 0 AND 9),
    dedup_key bytea,
    state text NOT NULL DEFAULT 'queued'
        CONSTRAINT jobs_state_known CHECK (state IN ('queued', 'running', 'retry_wait', 'completed', 'failed', 'cancelled')),
    run_at timestamptz NOT NULL DEFAULT now(),
    -- The fencing token: one more at every claim, never lowered. It names the attempt in every later write.
    fence bigint NOT NULL DEFAULT 0,
    -- The retry budget counts failures only; a crash counts apart and a hand-back counts nowhere.
    tries smallint NOT NULL DEFAULT 0,
    crashes smallint NOT NULL DEFAULT 0,
    max_tries smallint NOT NULL DEFAULT 5,
    lease_owner uuid,
    lease_until timestamptz,
    cancel_requested_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT jobs_running_is_leased CHECK ((state = 'running') = (lease_owner IS NOT NULL)),
    CONSTRAINT jobs_lease_is_whole CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT jobs_end_is_dated CHECK ((state IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX jobs_live_once ON jobs (user_id, dedup_key)
    WHERE dedup_key IS NOT NULL AND state IN ('queued', 'running', 'retry_wait');
CREATE INDEX jobs_open ON jobs (id) INCLUDE (user_id, priority, run_at) WHERE state IN ('queued', 'retry_wait');
CREATE INDEX jobs_open_by_user ON jobs (user_id) WHERE state IN ('queued', 'retry_wait');
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_subject ON jobs (subject);

-- One row a transition, written by the statement that makes it; `fence` is the writer's.
CREATE TABLE job_events (
    seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT job_events_pkey PRIMARY KEY,
    job_id bigint NOT NULL CONSTRAINT job_events_job_id_fkey REFERENCES jobs ON DELETE CASCADE,
    fence bigint NOT NULL,
    event text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX job_events_job_id ON job_events (job_id);

-- The incarnation of the Redis index; a new number means that the index was made anew.
CREATE SEQUENCE queue_epoch;
