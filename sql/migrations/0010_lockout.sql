-- Signing in: how often a name was tried, and since when an account has had its password.

-- A try is entered before its password is looked at. Names that nobody has are counted like all others, so none is kept
-- readable: the digest is keyed.
CREATE TABLE sign_in_attempts (
    name_digest bytea CONSTRAINT sign_in_attempts_pkey PRIMARY KEY,
    -- Tries under way. One whose process died stays here until `expires_at`.
    pending integer NOT NULL DEFAULT 0 CONSTRAINT sign_in_attempts_pending_counts CHECK (pending >= 0),
    failures integer NOT NULL DEFAULT 0 CONSTRAINT sign_in_attempts_failures_count CHECK (failures >= 0),
    -- One after another; each lasts twice as long as the one before.
    lockouts integer NOT NULL DEFAULT 0,
    locked_until timestamptz NOT NULL DEFAULT '-infinity',
    -- When `pending` and `failures` count no more.
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_in_attempts_expires_at ON sign_in_attempts (expires_at);

-- What was found right before a change of the password opens nothing after it.
ALTER TABLE users ADD COLUMN password_changed_at timestamptz NOT NULL DEFAULT now();
