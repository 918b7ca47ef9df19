-- Who did what, on what, from where, with what result: written where it happens, in the same transaction where there is
-- one, and never changed again.

CREATE TABLE audit_events (
    id uuid CONSTRAINT audit_events_pkey PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    type text NOT NULL,
    severity text NOT NULL CONSTRAINT audit_events_severity_known CHECK (severity IN ('info', 'warning', 'critical')),
    result text NOT NULL CONSTRAINT audit_events_result_known CHECK (result IN ('ok', 'failed', 'denied')),
    -- No foreign keys: what is written here outlives what it speaks of.
    user_id uuid,
    -- The session or API key that the user came with.
    credential_id uuid,
    object_kind text,
    object_id text,
    ip inet,
    request_id text,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_events_at ON audit_events (at DESC, id DESC);
CREATE INDEX audit_events_type ON audit_events (type, at DESC);
CREATE INDEX audit_events_user_id ON audit_events (user_id, at DESC);
