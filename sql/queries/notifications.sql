-- name: settings :one
-- Who is told of alerts; version 0 until somebody has set that.
SELECT coalesce(n.version, 0) AS version, coalesce(n.settings, '{}') AS settings, n.updated_at, n.updated_by
FROM (VALUES (1)) AS one LEFT JOIN notification_settings n ON true;

-- name: make :exec
-- There is a row to be held. Not made by a migration, as a backup of data alone could then not be put back.
INSERT INTO notification_settings DEFAULT VALUES ON CONFLICT DO NOTHING;

-- name: hold :one
-- The same, for whoever changes it and brings it into force: one at a time.
SELECT version, settings, updated_at, updated_by
FROM notification_settings
FOR UPDATE;

-- name: hold_free :maybe
-- The same, and no row while somebody changes it.
SELECT version, settings, updated_at, updated_by
FROM notification_settings
FOR UPDATE SKIP LOCKED;

-- name: put :one
-- The next version.
UPDATE notification_settings
SET version = version + 1, settings = %(settings)s, updated_at = now(), updated_by = %(user_id)s
RETURNING version, settings, updated_at, updated_by;

-- name: claim_text :value
-- Whether a text message is to be sent now ('send'), is being sent by another ('sending') or was ('sent'). One whose
-- sender was never heard of again is sent again, and so is one that was sent so long ago that it is news.
WITH claimed AS (
    INSERT INTO notification_texts (key) VALUES (%(key)s)
    ON CONFLICT (key) DO UPDATE SET sent = false, changed_at = now()
        WHERE notification_texts.changed_at < now()
            - make_interval(secs => CASE WHEN notification_texts.sent THEN %(fresh)s ELSE %(lost)s END::float8)
    RETURNING key
)
SELECT CASE WHEN EXISTS (SELECT FROM claimed) THEN 'send' WHEN t.sent THEN 'sent' ELSE 'sending' END AS claim
FROM (VALUES (1)) AS one LEFT JOIN notification_texts t ON t.key = %(key)s;

-- name: text_sent :exec
-- The provider has taken it.
UPDATE notification_texts SET sent = true, changed_at = now() WHERE key = %(key)s;

-- name: text_not_sent :exec
-- It is to be sent when it comes again.
DELETE FROM notification_texts WHERE key = %(key)s;

-- name: forget_texts :exec
-- What is older than any time within which one could come again.
DELETE FROM notification_texts WHERE changed_at < now() - interval '8 days';
