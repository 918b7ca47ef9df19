-- What the migrations come to. Made by `make schema`; a change here changes nothing.

CREATE SCHEMA analytics;

CREATE FUNCTION public.at_limit(who uuid, usual integer) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
    SELECT (SELECT count(*) FROM jobs WHERE user_id = who AND state = 'running')
        >= coalesce((SELECT concurrent_downloads FROM users WHERE id = who), usual)
$$;

CREATE FUNCTION public.await_link() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
BEGIN
    INSERT INTO audit_pending (event_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'table % is only ever added to', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TABLE public.users (
    id uuid NOT NULL,
    username text NOT NULL,
    email text NOT NULL,
    full_name text NOT NULL,
    password_hash text NOT NULL,
    role text DEFAULT 'user'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_login timestamp with time zone,
    password_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    concurrent_downloads integer,
    requests_per_minute integer,
    file_bytes bigint,
    CONSTRAINT users_concurrent_downloads_range CHECK ((concurrent_downloads > 0)),
    CONSTRAINT users_file_bytes_range CHECK ((file_bytes > 0)),
    CONSTRAINT users_requests_per_minute_range CHECK ((requests_per_minute > 0)),
    CONSTRAINT users_role_known CHECK ((role = ANY (ARRAY['user'::text, 'admin'::text])))
);

CREATE VIEW analytics.accounts AS
 SELECT username,
    role,
    is_active,
    created_at,
    last_login
   FROM public.users;

CREATE TABLE public.download_logs (
    id bigint NOT NULL,
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
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    speed_bytes_per_second double precision,
    downloaded_bytes bigint DEFAULT 0 NOT NULL,
    percent double precision DEFAULT 0 NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    error_code text,
    error_message text,
    retries smallint DEFAULT 0 NOT NULL,
    ip inet,
    user_agent text,
    request_headers jsonb DEFAULT '{}'::jsonb NOT NULL,
    file_path text,
    output_format text,
    format_preference text,
    drive_status text,
    drive_file_id text,
    drive_folder_id text,
    drive_link text,
    drive_uploaded_at timestamp with time zone,
    temp_url_id uuid,
    temp_url_created_at timestamp with time zone,
    temp_url_expires_at timestamp with time zone,
    temp_url_accesses integer,
    peak_memory_bytes bigint,
    cpu_seconds double precision,
    disk_bytes bigint,
    CONSTRAINT download_logs_status_known CHECK ((status = ANY (ARRAY['running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'yielded'::text, 'lost'::text])))
);

CREATE VIEW analytics.attempts AS
 SELECT started_at,
    finished_at,
    status,
    error_code,
    format,
    quality,
    retries,
    downloaded_bytes,
    file_bytes,
    speed_bytes_per_second,
    peak_memory_bytes,
    cpu_seconds
   FROM public.download_logs;

CREATE TABLE public.downloads (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    session_id uuid,
    job_id bigint NOT NULL,
    url text NOT NULL,
    canonical_url text NOT NULL,
    extractor text NOT NULL,
    video_id text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    quality text NOT NULL,
    format text NOT NULL,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    title text,
    uploader text,
    duration_seconds double precision,
    thumbnail_url text,
    width integer,
    height integer,
    stage text DEFAULT 'queued'::text NOT NULL,
    percent double precision DEFAULT 0 NOT NULL,
    downloaded_bytes bigint DEFAULT 0 NOT NULL,
    total_bytes bigint,
    speed_bytes_per_second double precision,
    eta_seconds double precision,
    file_name text,
    file_bytes bigint,
    file_type text,
    file_sha256 text,
    error jsonb,
    ip inet,
    user_agent text,
    request_headers jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    expires_at timestamp with time zone,
    needs_account boolean DEFAULT false NOT NULL,
    CONSTRAINT downloads_completed_has_file CHECK (((status <> 'completed'::text) OR (file_name IS NOT NULL))),
    CONSTRAINT downloads_failed_has_error CHECK (((status <> 'failed'::text) OR (error IS NOT NULL))),
    CONSTRAINT downloads_percent_range CHECK (((percent >= (0)::double precision) AND (percent <= (100)::double precision))),
    CONSTRAINT downloads_status_known CHECK ((status = ANY (ARRAY['queued'::text, 'downloading'::text, 'processing'::text, 'uploading'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'expired'::text])))
);

CREATE VIEW analytics.downloads AS
 SELECT created_at,
    started_at,
    finished_at,
    status,
    extractor,
    quality,
    format,
    height,
    (round(((file_bytes)::numeric / 1000000.0)))::bigint AS megabytes,
    (error ->> 'code'::text) AS error_code
   FROM public.downloads;

CREATE VIEW analytics.users AS
 SELECT u.username,
    date_trunc('day'::text, d.created_at, 'UTC'::text) AS day,
    count(*) AS downloads,
    count(*) FILTER (WHERE (d.status = 'completed'::text)) AS completed,
    count(*) FILTER (WHERE (d.status = 'failed'::text)) AS failed,
    (round((sum(d.file_bytes) FILTER (WHERE (d.status = 'completed'::text)) / 1000000.0)))::bigint AS megabytes,
    round(sum(EXTRACT(epoch FROM (d.finished_at - d.created_at))) FILTER (WHERE (d.status = 'completed'::text))) AS seconds
   FROM (public.downloads d
     JOIN public.users u ON ((u.id = d.user_id)))
  GROUP BY u.username, (date_trunc('day'::text, d.created_at, 'UTC'::text));

CREATE VIEW analytics.videos WITH (security_barrier='true') AS
 SELECT date_trunc('week'::text, created_at, 'UTC'::text) AS week,
    extractor,
    video_id,
    max(title) AS title,
    max(uploader) AS uploader,
    count(DISTINCT user_id) AS askers,
    count(*) AS times
   FROM public.downloads
  WHERE (created_at < date_trunc('week'::text, now(), 'UTC'::text))
  GROUP BY (date_trunc('week'::text, created_at, 'UTC'::text)), extractor, video_id
 HAVING (count(DISTINCT user_id) >= 3);

CREATE TABLE public.jobs (
    id bigint NOT NULL,
    kind text NOT NULL,
    subject uuid NOT NULL,
    user_id uuid NOT NULL,
    priority smallint DEFAULT 5 NOT NULL,
    dedup_key bytea,
    state text DEFAULT 'queued'::text NOT NULL,
    run_at timestamp with time zone DEFAULT now() NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    tries smallint DEFAULT 0 NOT NULL,
    crashes smallint DEFAULT 0 NOT NULL,
    max_tries smallint DEFAULT 5 NOT NULL,
    lease_owner uuid,
    lease_until timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    waiting text,
    deferrals smallint DEFAULT 0 NOT NULL,
    refusals smallint DEFAULT 0 NOT NULL,
    traceparent text,
    freed_at timestamp with time zone,
    CONSTRAINT jobs_end_is_dated CHECK (((state = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT jobs_kind_known CHECK ((kind = 'download'::text)),
    CONSTRAINT jobs_lease_is_whole CHECK (((lease_owner IS NULL) = (lease_until IS NULL))),
    CONSTRAINT jobs_priority_range CHECK (((priority >= 0) AND (priority <= 9))),
    CONSTRAINT jobs_running_is_leased CHECK (((state = 'running'::text) = (lease_owner IS NOT NULL))),
    CONSTRAINT jobs_state_known CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'retry_wait'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT jobs_traceparent_form CHECK ((traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'::text)),
    CONSTRAINT jobs_waiting_known CHECK ((waiting = ANY (ARRAY['egress'::text, 'disk'::text])))
);

CREATE VIEW analytics.waiting AS
 SELECT state,
    waiting,
    priority,
    run_at,
    created_at,
    tries,
    crashes
   FROM public.jobs
  WHERE (finished_at IS NULL);

CREATE TABLE public.acknowledgements (
    id uuid NOT NULL,
    fingerprint text NOT NULL,
    silence_id text NOT NULL,
    user_id uuid,
    author text NOT NULL,
    comment text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    withdrawn_at timestamp with time zone,
    CONSTRAINT acknowledgements_end_after_they_begin CHECK ((expires_at > created_at))
);

CREATE TABLE public.alerts (
    id uuid NOT NULL,
    fingerprint text NOT NULL,
    name text NOT NULL,
    severity text NOT NULL,
    labels jsonb NOT NULL,
    annotations jsonb NOT NULL,
    started_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    waiting_since timestamp with time zone,
    acknowledged_at timestamp with time zone,
    acknowledged_by text,
    ended_at timestamp with time zone,
    CONSTRAINT alerts_ended_waits_not CHECK (((ended_at IS NULL) OR (waiting_since IS NULL))),
    CONSTRAINT alerts_severity_known CHECK ((severity = ANY (ARRAY['critical'::text, 'warning'::text, 'info'::text, 'other'::text])))
);

CREATE TABLE public.api_keys (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    scope text NOT NULL,
    hash bytea NOT NULL,
    prefix text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    expires_at timestamp with time zone,
    CONSTRAINT api_keys_scope_known CHECK ((scope = ANY (ARRAY['read'::text, 'write'::text])))
);

CREATE TABLE public.audit_chain (
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_chain_form CHECK (((seq > 0) AND (octet_length(hash) = 32)))
);

CREATE TABLE public.audit_events (
    id uuid NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    type text NOT NULL,
    severity text NOT NULL,
    result text NOT NULL,
    user_id uuid,
    credential_id uuid,
    object_kind text,
    object_id text,
    ip inet,
    request_id text,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT audit_events_result_known CHECK ((result = ANY (ARRAY['ok'::text, 'failed'::text, 'denied'::text]))),
    CONSTRAINT audit_events_severity_known CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

CREATE TABLE public.audit_pending (
    event_id uuid NOT NULL
);

CREATE TABLE public.blocks (
    id uuid NOT NULL,
    network cidr NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    offences jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    lifted_at timestamp with time zone,
    CONSTRAINT blocks_end_after_they_begin CHECK ((expires_at > created_at)),
    CONSTRAINT blocks_kind_known CHECK ((kind = ANY (ARRAY['automatic'::text, 'manual'::text])))
);

CREATE TABLE public.cookies (
    user_id uuid NOT NULL,
    upload uuid NOT NULL,
    cookie_count integer NOT NULL,
    expires_at timestamp with time zone,
    uploaded_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    accepted_at timestamp with time zone,
    refused_at timestamp with time zone
);

CREATE VIEW public.cookie_states AS
 SELECT user_id,
    upload,
    cookie_count,
    expires_at,
    uploaded_at,
    last_used_at,
    accepted_at,
    refused_at,
        CASE
            WHEN (refused_at IS NOT NULL) THEN 'refused'::text
            WHEN (expires_at <= now()) THEN 'expired'::text
            WHEN (accepted_at IS NOT NULL) THEN 'valid'::text
            ELSE 'unproven'::text
        END AS status
   FROM public.cookies;

ALTER TABLE public.download_logs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.download_logs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.egress_lanes (
    name text NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    reason text,
    paused_until timestamp with time zone,
    pauses integer DEFAULT 0 NOT NULL,
    probe bigint DEFAULT 0 NOT NULL,
    probe_until timestamp with time zone,
    tokens double precision NOT NULL,
    refilled_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    suspect bigint,
    CONSTRAINT egress_lanes_pause_has_an_end CHECK (((state = 'paused'::text) = (paused_until IS NOT NULL))),
    CONSTRAINT egress_lanes_probe_has_an_end CHECK (((state = 'probing'::text) = (probe_until IS NOT NULL))),
    CONSTRAINT egress_lanes_state_known CHECK ((state = ANY (ARRAY['open'::text, 'paused'::text, 'probing'::text])))
);

CREATE VIEW public.egress AS
 SELECT COALESCE(bool_and((state <> 'open'::text)), false) AS paused,
        CASE
            WHEN (NOT bool_or((state = 'probing'::text))) THEN NULLIF(GREATEST(min(paused_until), now()), now())
            ELSE NULL::timestamp with time zone
        END AS until
   FROM public.egress_lanes
  WHERE (seen_at > (now() - '00:01:00'::interval));

CREATE TABLE public.health_probes (
    id uuid NOT NULL,
    written_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.idempotency_keys (
    user_id uuid NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.job_events (
    seq bigint NOT NULL,
    job_id bigint NOT NULL,
    fence bigint NOT NULL,
    event text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE public.job_events ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.job_events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.jobs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.notification_settings (
    id boolean DEFAULT true NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    updated_at timestamp with time zone,
    updated_by uuid,
    CONSTRAINT notification_settings_one CHECK (id)
);

CREATE TABLE public.notification_texts (
    key bytea NOT NULL,
    sent boolean DEFAULT false NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE SEQUENCE public.queue_epoch
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE public.refresh_tokens (
    hash bytea NOT NULL,
    session_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    used_at timestamp with time zone
);

CREATE TABLE public.reservations (
    job_id bigint NOT NULL,
    fence bigint NOT NULL,
    wanted_bytes bigint NOT NULL,
    reserved_bytes bigint,
    CONSTRAINT reservations_reserved_range CHECK ((reserved_bytes >= 0)),
    CONSTRAINT reservations_wanted_range CHECK ((wanted_bytes >= 0))
);

CREATE TABLE public.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.sealed_values (
    id uuid NOT NULL,
    kind text NOT NULL,
    owner uuid,
    name text DEFAULT ''::text NOT NULL,
    sealed bytea NOT NULL,
    key_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT sealed_values_name_short CHECK ((length(name) <= 200)),
    CONSTRAINT sealed_values_size CHECK ((octet_length(sealed) <= ((2 * 1024) * 1024)))
);

CREATE TABLE public.sessions (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    ip inet,
    user_agent text
);

CREATE TABLE public.sign_in_attempts (
    name_digest bytea NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    lockouts integer DEFAULT 0 NOT NULL,
    locked_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    pending timestamp with time zone[] DEFAULT '{}'::timestamp with time zone[] NOT NULL,
    CONSTRAINT sign_in_attempts_failures_count CHECK ((failures >= 0))
);

COMMENT ON COLUMN public.sign_in_attempts.expires_at IS 'When failures count no more.';

CREATE TABLE public.thresholds (
    metric text NOT NULL,
    warning double precision,
    critical double precision,
    for_seconds integer NOT NULL,
    set_by uuid,
    set_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT thresholds_in_order CHECK ((warning <= critical)),
    CONSTRAINT thresholds_not_empty CHECK (((warning IS NOT NULL) OR (critical IS NOT NULL)))
);

CREATE TABLE public.tickets (
    hash bytea NOT NULL,
    session_id uuid,
    expires_at timestamp with time zone NOT NULL,
    key_id uuid,
    CONSTRAINT tickets_have_one_origin CHECK ((num_nonnulls(session_id, key_id) = 1))
);

ALTER TABLE ONLY public.acknowledgements
    ADD CONSTRAINT acknowledgements_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_hash_once UNIQUE (hash);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT audit_chain_event_once UNIQUE (event_id);

ALTER TABLE ONLY public.audit_chain
    ADD CONSTRAINT audit_chain_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY public.audit_events
    ADD CONSTRAINT audit_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_pending
    ADD CONSTRAINT audit_pending_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_one_at_a_time EXCLUDE USING gist (network inet_ops WITH =, tstzrange(created_at, expires_at) WITH &&) WHERE ((lifted_at IS NULL));

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.cookies
    ADD CONSTRAINT cookies_pkey PRIMARY KEY (user_id);

ALTER TABLE ONLY public.download_logs
    ADD CONSTRAINT download_logs_attempt_once UNIQUE (job_id, fence);

ALTER TABLE ONLY public.download_logs
    ADD CONSTRAINT download_logs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.downloads
    ADD CONSTRAINT downloads_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.egress_lanes
    ADD CONSTRAINT egress_lanes_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.health_probes
    ADD CONSTRAINT health_probes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key);

ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.notification_settings
    ADD CONSTRAINT notification_settings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.notification_texts
    ADD CONSTRAINT notification_texts_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (hash);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.sealed_values
    ADD CONSTRAINT sealed_values_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sign_in_attempts
    ADD CONSTRAINT sign_in_attempts_pkey PRIMARY KEY (name_digest);

ALTER TABLE ONLY public.thresholds
    ADD CONSTRAINT thresholds_pkey PRIMARY KEY (metric);

ALTER TABLE ONLY public.tickets
    ADD CONSTRAINT tickets_pkey PRIMARY KEY (hash);

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

CREATE INDEX acknowledgements_expires_at ON public.acknowledgements USING btree (expires_at);

CREATE UNIQUE INDEX acknowledgements_one_at_a_time ON public.acknowledgements USING btree (fingerprint) WHERE (withdrawn_at IS NULL);

CREATE INDEX acknowledgements_silence_id ON public.acknowledgements USING btree (silence_id);

CREATE INDEX acknowledgements_user_id ON public.acknowledgements USING btree (user_id) WHERE (user_id IS NOT NULL);

CREATE INDEX alerts_acknowledged_at ON public.alerts USING btree (acknowledged_at) WHERE (acknowledged_at IS NOT NULL);

CREATE INDEX alerts_ended_at ON public.alerts USING btree (ended_at, id) WHERE (ended_at IS NOT NULL);

CREATE INDEX alerts_fingerprint ON public.alerts USING btree (fingerprint);

CREATE UNIQUE INDEX alerts_one_at_a_time ON public.alerts USING btree (fingerprint) WHERE (ended_at IS NULL);

CREATE INDEX alerts_started_at ON public.alerts USING btree (started_at);

CREATE INDEX api_keys_user_id ON public.api_keys USING btree (user_id);

CREATE INDEX audit_events_at ON public.audit_events USING btree (at DESC, id DESC);

CREATE INDEX audit_events_critical ON public.audit_events USING btree (at DESC, id DESC) WHERE (severity = 'critical'::text);

CREATE INDEX audit_events_ip ON public.audit_events USING btree (ip, at DESC);

CREATE INDEX audit_events_type ON public.audit_events USING btree (type, at DESC);

CREATE INDEX audit_events_user_id ON public.audit_events USING btree (user_id, at DESC);

CREATE INDEX blocks_created_by ON public.blocks USING btree (created_by) WHERE (created_by IS NOT NULL);

CREATE INDEX blocks_expires_at ON public.blocks USING btree (expires_at) WHERE (lifted_at IS NULL);

CREATE INDEX download_logs_download_id ON public.download_logs USING btree (download_id);

CREATE INDEX download_logs_user_id ON public.download_logs USING btree (user_id, id DESC);

CREATE INDEX downloads_by_status ON public.downloads USING btree (status) INCLUDE (file_bytes);

CREATE INDEX downloads_by_user ON public.downloads USING btree (user_id, id DESC);

CREATE INDEX downloads_file_name ON public.downloads USING btree (file_name) WHERE (file_name IS NOT NULL);

CREATE INDEX downloads_job_id ON public.downloads USING btree (job_id);

CREATE INDEX idempotency_keys_created_at ON public.idempotency_keys USING btree (created_at);

CREATE INDEX job_events_job_id ON public.job_events USING btree (job_id);

CREATE INDEX jobs_freed ON public.jobs USING btree (user_id, freed_at) WHERE (freed_at IS NOT NULL);

CREATE INDEX jobs_leased ON public.jobs USING btree (lease_until) WHERE (state = 'running'::text);

CREATE UNIQUE INDEX jobs_live_once ON public.jobs USING btree (user_id, dedup_key) WHERE ((dedup_key IS NOT NULL) AND (state = ANY (ARRAY['queued'::text, 'running'::text, 'retry_wait'::text])));

CREATE INDEX jobs_open ON public.jobs USING btree (id) INCLUDE (user_id, priority, run_at) WHERE (state = ANY (ARRAY['queued'::text, 'retry_wait'::text]));

CREATE INDEX jobs_open_by_user ON public.jobs USING btree (user_id) WHERE (state = ANY (ARRAY['queued'::text, 'retry_wait'::text]));

CREATE INDEX jobs_subject ON public.jobs USING btree (subject);

CREATE INDEX jobs_waiting_for_disk ON public.jobs USING btree (id) WHERE (waiting = 'disk'::text);

CREATE INDEX notification_texts_changed_at ON public.notification_texts USING btree (changed_at);

CREATE INDEX refresh_tokens_session_id ON public.refresh_tokens USING btree (session_id);

CREATE INDEX reservations_in_line ON public.reservations USING btree (job_id) WHERE (reserved_bytes IS NULL);

CREATE INDEX sealed_values_key_id ON public.sealed_values USING btree (key_id, id);

CREATE INDEX sealed_values_owner ON public.sealed_values USING btree (owner);

CREATE UNIQUE INDEX sealed_values_place ON public.sealed_values USING btree (kind, owner, name) NULLS NOT DISTINCT;

CREATE INDEX sessions_expires_at ON public.sessions USING btree (expires_at);

CREATE INDEX sessions_user_id ON public.sessions USING btree (user_id);

CREATE INDEX sign_in_attempts_expires_at ON public.sign_in_attempts USING btree (expires_at);

CREATE INDEX thresholds_set_by ON public.thresholds USING btree (set_by) WHERE (set_by IS NOT NULL);

CREATE INDEX tickets_key_id ON public.tickets USING btree (key_id) WHERE (key_id IS NOT NULL);

CREATE INDEX users_concurrent_downloads ON public.users USING btree (id) WHERE (concurrent_downloads IS NOT NULL);

CREATE UNIQUE INDEX users_email_taken ON public.users USING btree (lower(email));

CREATE UNIQUE INDEX users_username_taken ON public.users USING btree (lower(username));

CREATE TRIGGER audit_chain_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_chain FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();

ALTER TABLE public.audit_chain ENABLE ALWAYS TRIGGER audit_chain_kept;

CREATE TRIGGER audit_events_kept BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_events FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();

ALTER TABLE public.audit_events ENABLE ALWAYS TRIGGER audit_events_kept;

CREATE TRIGGER audit_events_pending AFTER INSERT ON public.audit_events FOR EACH ROW EXECUTE FUNCTION public.await_link();

ALTER TABLE ONLY public.acknowledgements
    ADD CONSTRAINT acknowledgements_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.cookies
    ADD CONSTRAINT cookies_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.downloads
    ADD CONSTRAINT downloads_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);

ALTER TABLE ONLY public.downloads
    ADD CONSTRAINT downloads_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.notification_settings
    ADD CONSTRAINT notification_settings_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES public.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sealed_values
    ADD CONSTRAINT sealed_values_owner_fkey FOREIGN KEY (owner) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.thresholds
    ADD CONSTRAINT thresholds_set_by_fkey FOREIGN KEY (set_by) REFERENCES public.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.tickets
    ADD CONSTRAINT tickets_key_id_fkey FOREIGN KEY (key_id) REFERENCES public.api_keys(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.tickets
    ADD CONSTRAINT tickets_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id) ON DELETE CASCADE;
