-- Networks that are refused for a while: by themselves for what came from them, or because an admin said so.

CREATE TABLE blocks (
    id uuid CONSTRAINT blocks_pkey PRIMARY KEY,
    network cidr NOT NULL,
    kind text NOT NULL CONSTRAINT blocks_kind_known CHECK (kind IN ('automatic', 'manual')),
    -- The offence that had most of the points, or an admin's own words.
    reason text NOT NULL,
    -- How often what had happened, by offence; empty for a manual one.
    offences jsonb NOT NULL DEFAULT '{}',
    created_by uuid CONSTRAINT blocks_created_by_fkey REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    lifted_at timestamptz,
    CONSTRAINT blocks_end_after_they_begin CHECK (expires_at > created_at),
    -- One at a time for a network, however many processes make one in the same moment.
    CONSTRAINT blocks_one_at_a_time EXCLUDE USING gist (network inet_ops WITH =, tstzrange(created_at, expires_at) WITH &&)
        WHERE (lifted_at IS NULL)
);
-- What is in force is asked for every few seconds, by every process.
CREATE INDEX blocks_expires_at ON blocks (expires_at) WHERE lifted_at IS NULL;
CREATE INDEX blocks_created_by ON blocks (created_by) WHERE created_by IS NOT NULL;
