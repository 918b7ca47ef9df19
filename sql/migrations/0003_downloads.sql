-- What a user asked for and what became of it, and one row for every attempt.

CREATE TABLE downloads (
    id uuid CONSTRAINT downloads_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT downloads_user_id_fkey REFERENCES users ON DELETE CASCADE,
    session_id uuid,
    -- The newest job; an earlier one ended and stays for the history.
    job_id bigint NOT NULL CONSTRAINT downloads_job_id_fkey REFERENCES jobs,
    url text NOT NULL,
    canonical_url text NOT NULL,
    extractor text NOT NULL,
    video_id text NOT NULL,
    status text NOT NULL DEFAULT 'queued' CONSTRAINT downloads_status_known CHECK (status IN
        ('queued', 'downloading', 'processing', 'uploading', 'completed', 'failed', 'cancelled', 'expired')),
    quality text NOT NULL,
    format text NOT NULL,
    options jsonb NOT NULL DEFAULT '{}',
    title text,
    uploader text,
    duration_seconds double precision,
    thumbnail_url text,
    width integer,
    height integer,
    stage text NOT NULL DEFAULT 'queued',
    percent double precision NOT NULL DEFAULT 0 CONSTRAINT downloads_percent_range CHECK (percent BETWEEN 0 AND 100),
    downloaded_bytes bigint NOT NULL DEFAULT 0,
    total_bytes bigint,
    speed_bytes_per_second double precision,
    eta_seconds double precision,
    -- The name in the store, made of job and fence; never a part of the title.
    file_name text,
    file_bytes bigint,
    file_type text,
    file_sha256 text,
    error jsonb,
    -- The circumstances of the request, for the log row of every attempt; headers without secrets.
    ip inet,
    user_agent text,
    request_headers jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    CONSTRAINT downloads_completed_has_file CHECK (status <> 'completed' OR file_name IS NOT NULL),
    CONSTRAINT downloads_failed_has_error CHECK (status <> 'failed' OR error IS NOT NULL)
);
CREATE INDEX downloads_by_user ON downloads (user_id, id DESC);
CREATE INDEX downloads_job_id ON downloads (job_id);
CREATE INDEX downloads_file_name ON downloads (file_name) WHERE file_name IS NOT NULL;

-- Statistics stand on this table, so a row outlives its download, its user and its session.
CREATE TABLE download_logs (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT download_logs_pkey PRIMARY KEY,
    download_id uuid NOT NULL,
    job_id bigint NOT NULL,
    fence bigint NOT NULL,
    user_id uuid NOT NULL,
    session_id uuid,
    url text NOT NULL,
    title text,
    duration_seconds double precision,
    file_bytes bigint,
    format text NOT NULL,
    quality text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    speed_bytes_per_second double precision,
    downloaded_bytes bigint NOT NULL DEFAULT 0,
    percent double precision NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'running' CONSTRAINT download_logs_status_known CHECK (status IN
        ('running', 'completed', 'failed', 'cancelled', 'yielded', 'lost')),
    error_code text,
    error_message text,
    retries smallint NOT NULL DEFAULT 0,
    ip inet,
    user_agent text,
    request_headers jsonb NOT NULL DEFAULT '{}',
    file_path text,
    output_format text,
    format_preference text,
    drive_status text,
    drive_file_id text,
    drive_folder_id text,
    drive_link text,
    drive_uploaded_at timestamptz,
    temp_url_id uuid,
    temp_url_created_at timestamptz,
    temp_url_expires_at timestamptz,
    temp_url_accesses integer,
    peak_memory_bytes bigint,
    cpu_seconds double precision,
    disk_bytes bigint,
    CONSTRAINT download_logs_attempt_once UNIQUE (job_id, fence)
);
CREATE INDEX download_logs_download_id ON download_logs (download_id);
CREATE INDEX download_logs_user_id ON download_logs (user_id, id DESC);

-- Idempotency-Key: the first answer stands for a day.
CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL CONSTRAINT idempotency_keys_user_id_fkey REFERENCES users ON DELETE CASCADE,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
