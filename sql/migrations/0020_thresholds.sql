-- From which value on a figure of the service is bad, as an admin says; and rows that checks of health write.

CREATE TABLE thresholds (
    metric text CONSTRAINT thresholds_pkey PRIMARY KEY,
    warning float8,
    critical float8,
    -- How long the figure must be above it before that is an alert.
    for_seconds integer NOT NULL,
    set_by uuid CONSTRAINT thresholds_set_by_fkey REFERENCES users (id) ON DELETE SET NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT thresholds_not_empty CHECK (warning IS NOT NULL OR critical IS NOT NULL),
    CONSTRAINT thresholds_in_order CHECK (warning <= critical)
);
CREATE INDEX thresholds_set_by ON thresholds (set_by) WHERE set_by IS NOT NULL;

-- Written, read back and removed by a check of health; a row that stays is of a check that died.
CREATE TABLE health_probes (
    id uuid CONSTRAINT health_probes_pkey PRIMARY KEY,
    written_at timestamptz NOT NULL DEFAULT now()
);
