-- Who is told of alerts, by which way, and when: one row for the whole service. What is a secret of it, such as a token,
-- is among the sealed values; here are masks in its place. Alertmanager's file is rendered from both.

CREATE TABLE notification_settings (
    id boolean CONSTRAINT notification_settings_pkey PRIMARY KEY DEFAULT true
        CONSTRAINT notification_settings_one CHECK (id),
    -- Grows with each change, so that nobody writes over what he has not seen.
    version bigint NOT NULL DEFAULT 0,
    -- Empty until an admin has set something.
    settings jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz,
    updated_by uuid CONSTRAINT notification_settings_updated_by_fkey REFERENCES users ON DELETE SET NULL
);
INSERT INTO notification_settings DEFAULT VALUES;

-- Text messages that were sent lately, so that none goes twice when Alertmanager asks again: a hash over the channel, the
-- number and what is told. Numbers and texts are not kept.
CREATE TABLE notification_texts (
    key bytea CONSTRAINT notification_texts_pkey PRIMARY KEY,
    -- False while it is being sent; true once the provider has taken it.
    sent boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notification_texts_changed_at ON notification_texts (changed_at);
