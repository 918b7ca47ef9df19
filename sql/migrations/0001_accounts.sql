-- Who may use the service: accounts, their sessions and refresh tokens, and tickets for browsers.

CREATE TABLE users (
    id uuid CONSTRAINT users_pkey PRIMARY KEY,
    username text NOT NULL,
    email text NOT NULL,
    full_name text NOT NULL,
    -- bcrypt in its modular form; it carries algorithm, cost and salt.
    password_hash text NOT NULL,
    role text NOT NULL DEFAULT 'user' CONSTRAINT users_role_known CHECK (role IN ('user', 'admin')),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_login timestamptz
);
-- "Alice" and "alice" are one person, in the name and in the address.
CREATE UNIQUE INDEX users_username_taken ON users (lower(username));
CREATE UNIQUE INDEX users_email_taken ON users (lower(email));

-- A session is one sign-in; every access and refresh token names it, so ending it ends them all.
CREATE TABLE sessions (
    id uuid CONSTRAINT sessions_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT sessions_user_id_fkey REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    -- Absolute: no refresh moves it.
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    ip inet,
    user_agent text
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- Only hashes are kept: who reads this table can sign in as nobody. A token lives as long as its session; a spent one
-- stays until then, because seeing it again means that it was stolen.
CREATE TABLE refresh_tokens (
    hash bytea CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
    session_id uuid NOT NULL CONSTRAINT refresh_tokens_session_id_fkey REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz
);
CREATE INDEX refresh_tokens_session_id ON refresh_tokens (session_id);

-- A ticket stands in for the access token where a browser cannot send a header; redeeming it removes it.
CREATE TABLE tickets (
    hash bytea CONSTRAINT tickets_pkey PRIMARY KEY,
    session_id uuid NOT NULL CONSTRAINT tickets_session_id_fkey REFERENCES sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);
