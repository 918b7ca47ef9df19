-- Secrets that the service must be able to read again, each encrypted with a key that is not in the database: cookies,
-- credentials of stores, addresses of notifications, secrets of webhooks. One table for all of them, so that moving to a
-- newer key is one walk, and no kind can be forgotten.

CREATE TABLE sealed_values (
    id uuid CONSTRAINT sealed_values_pkey PRIMARY KEY,
    kind text NOT NULL,
    -- Empty where it is the service's own. What is sealed names kind, owner and name, so a value that is copied to
    -- another row opens nowhere.
    owner uuid CONSTRAINT sealed_values_owner_fkey REFERENCES users ON DELETE CASCADE,
    name text NOT NULL DEFAULT '' CONSTRAINT sealed_values_name_short CHECK (length(name) <= 200),
    sealed bytea NOT NULL CONSTRAINT sealed_values_size CHECK (octet_length(sealed) <= 2 * 1024 * 1024),
    -- As in the value's own header; here it can be counted.
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Of the plain value: sealing it anew with another key is no change of it.
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX sealed_values_place ON sealed_values (kind, owner, name) NULLS NOT DISTINCT;
CREATE INDEX sealed_values_owner ON sealed_values (owner);
CREATE INDEX sealed_values_key_id ON sealed_values (key_id, id);
