-- What is known of the cookies that a user has uploaded for the site. They themselves are among the sealed values, under
-- the user's id; here is nothing that opens anything.

CREATE TABLE cookies (
    user_id uuid CONSTRAINT cookies_pkey PRIMARY KEY
        CONSTRAINT cookies_user_id_fkey REFERENCES users ON DELETE CASCADE,
    -- A new one with each upload: what an attempt finds out of an earlier one says nothing of this.
    upload uuid NOT NULL,
    cookie_count integer NOT NULL,
    -- When the first of those that make a signed-in user ends; null when they end with a browser.
    expires_at timestamptz,
    uploaded_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    -- When the site took them last, and since when it does not any more.
    accepted_at timestamptz,
    refused_at timestamptz
);

CREATE VIEW cookie_states AS
SELECT user_id, upload, cookie_count, expires_at, uploaded_at, last_used_at, accepted_at, refused_at,
    CASE WHEN refused_at IS NOT NULL THEN 'refused' WHEN expires_at <= now() THEN 'expired'
        WHEN accepted_at IS NOT NULL THEN 'valid' ELSE 'unproven' END AS status
FROM cookies;

ALTER TABLE downloads
    -- The site wants a signed-in user for it, as an attempt has found, so that the next one need not ask as nobody.
    ADD COLUMN needs_account boolean NOT NULL DEFAULT false;
