-- What alerted and for how long, as Alertmanager told it, and who has acknowledged what.

CREATE TABLE alerts (
    id uuid CONSTRAINT alerts_pkey PRIMARY KEY,
    -- Alertmanager's, of the labels: the same alert has the same when it fires again.
    fingerprint text NOT NULL,
    name text NOT NULL,
    severity text NOT NULL
        CONSTRAINT alerts_severity_known CHECK (severity IN ('critical', 'warning', 'info', 'other')),
    labels jsonb NOT NULL,
    annotations jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    -- Since when it waits for somebody; null while it is silenced or inhibited, and once it has ended.
    waiting_since timestamptz,
    -- The first time that somebody took it up; by whom, when Alertmanager knows.
    acknowledged_at timestamptz,
    acknowledged_by text,
    ended_at timestamptz,
    CONSTRAINT alerts_ended_waits_not CHECK (ended_at IS NULL OR waiting_since IS NULL)
);
-- Processes that see the same alert at once write one row.
CREATE UNIQUE INDEX alerts_one_at_a_time ON alerts (fingerprint) WHERE ended_at IS NULL;
CREATE INDEX alerts_fingerprint ON alerts (fingerprint);
CREATE INDEX alerts_started_at ON alerts (started_at);
CREATE INDEX alerts_acknowledged_at ON alerts (acknowledged_at) WHERE acknowledged_at IS NOT NULL;
CREATE INDEX alerts_ended_at ON alerts (ended_at, id) WHERE ended_at IS NOT NULL;

-- Each is a silence in Alertmanager, which may lose it: then it is made again, and has another id there.
CREATE TABLE acknowledgements (
    id uuid CONSTRAINT acknowledgements_pkey PRIMARY KEY,
    fingerprint text NOT NULL,
    silence_id text NOT NULL,
    user_id uuid CONSTRAINT acknowledgements_user_id_fkey REFERENCES users (id) ON DELETE SET NULL,
    author text NOT NULL,
    comment text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    withdrawn_at timestamptz,
    CONSTRAINT acknowledgements_end_after_they_begin CHECK (expires_at > created_at)
);
-- One for an alert is in force; those whose time is over are withdrawn when the next is made.
CREATE UNIQUE INDEX acknowledgements_one_at_a_time ON acknowledgements (fingerprint) WHERE withdrawn_at IS NULL;
CREATE INDEX acknowledgements_silence_id ON acknowledgements (silence_id);
CREATE INDEX acknowledgements_expires_at ON acknowledgements (expires_at);
CREATE INDEX acknowledgements_user_id ON acknowledgements (user_id) WHERE user_id IS NOT NULL;
