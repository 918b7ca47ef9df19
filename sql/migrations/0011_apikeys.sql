-- Named keys for scripts. A key is shown once and only its hash is kept, as with every other token.

CREATE TABLE api_keys (
    id uuid CONSTRAINT api_keys_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT api_keys_user_id_fkey REFERENCES users ON DELETE CASCADE,
    name text NOT NULL,
    scope text NOT NULL CONSTRAINT api_keys_scope_known CHECK (scope IN ('read', 'write')),
    hash bytea NOT NULL CONSTRAINT api_keys_hash_once UNIQUE,
    -- Its first characters, by which its owner knows it again.
    prefix text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- To the minute.
    last_used_at timestamptz,
    expires_at timestamptz
);
CREATE INDEX api_keys_user_id ON api_keys (user_id);

-- A ticket lives no longer than what it was got with.
ALTER TABLE tickets
    ALTER COLUMN session_id DROP NOT NULL,
    ADD COLUMN key_id uuid CONSTRAINT tickets_key_id_fkey REFERENCES api_keys ON DELETE CASCADE,
    ADD CONSTRAINT tickets_have_one_origin CHECK (num_nonnulls(session_id, key_id) = 1);
CREATE INDEX tickets_key_id ON tickets (key_id) WHERE key_id IS NOT NULL;
