-- name: lock_history :value
-- True for the one process that writes the history until its transaction ends; others need not wait.
SELECT pg_try_advisory_xact_lock(7402021);

-- name: ended_between :exec
-- Ends what has ended and begun again since it was seen last. An earlier beginning is the same alert, told of anew.
UPDATE alerts SET ended_at = greatest(alerts.seen_at, alerts.started_at), waiting_since = NULL
FROM jsonb_to_recordset(%(alerts)s) AS now_firing (fingerprint text, started_at timestamptz)
WHERE alerts.fingerprint = now_firing.fingerprint AND alerts.ended_at IS NULL
    AND now_firing.started_at > alerts.started_at AND now_firing.started_at > alerts.seen_at;

-- name: gone :exec
-- Ends what fires no more: what was not among those that fired so many seconds ago, and is not known only since then.
UPDATE alerts SET ended_at = greatest(now(), started_at), waiting_since = NULL
WHERE ended_at IS NULL AND fingerprint <> ALL(%(fingerprints)s::text[])
    AND seen_at < now() - make_interval(secs => %(seconds)s);

-- name: seen :many
-- Writes what fires: new alerts, and of known ones whether they wait for somebody and who took them up first.
INSERT INTO alerts (
    id, fingerprint, name, severity, labels, annotations, started_at, waiting_since, acknowledged_at, acknowledged_by
)
SELECT id, fingerprint, name, severity, labels, annotations, started_at,
    CASE WHEN waits THEN least(started_at, now()) END, acknowledged_at, acknowledged_by
FROM jsonb_to_recordset(%(alerts)s) AS now_firing (
    id uuid, fingerprint text, name text, severity text, labels jsonb, annotations jsonb, started_at timestamptz,
    waits boolean, acknowledged_at timestamptz, acknowledged_by text
)
ON CONFLICT (fingerprint) WHERE ended_at IS NULL DO UPDATE SET
    seen_at = now(),
    annotations = excluded.annotations,
    waiting_since = CASE WHEN excluded.waiting_since IS NOT NULL THEN coalesce(alerts.waiting_since, now()) END,
    acknowledged_at = coalesce(alerts.acknowledged_at, excluded.acknowledged_at),
    acknowledged_by = coalesce(alerts.acknowledged_by, excluded.acknowledged_by)
RETURNING fingerprint, waiting_since;

-- name: firing :many
-- What is known of alerts that fire.
SELECT fingerprint, waiting_since, acknowledged_at, acknowledged_by
FROM alerts WHERE ended_at IS NULL AND fingerprint = ANY(%(fingerprints)s);

-- name: ended :many
-- Alerts that have ended, newest first, from a place on; a filter that is null lets all pass.
SELECT id, fingerprint, name, severity, labels, annotations, started_at, acknowledged_at, acknowledged_by, ended_at
FROM alerts
WHERE ended_at IS NOT NULL AND (ended_at, id) < (%(before)s::timestamptz, %(before_id)s::uuid)
    AND (%(severity)s::text IS NULL OR severity = %(severity)s) AND (%(name)s::text IS NULL OR name = %(name)s)
ORDER BY ended_at DESC, id DESC LIMIT %(limit)s;

-- name: figures :many
-- What a window of time has, by alert: how many began, how many ended and after how long, and how soon they were taken up.
SELECT name, severity,
    count(*) FILTER (WHERE started_at >= %(since)s AND started_at < %(until)s) AS fired,
    count(*) FILTER (WHERE ended_at >= %(since)s AND ended_at < %(until)s) AS resolved,
    count(*) FILTER (WHERE acknowledged_at >= %(since)s AND acknowledged_at < %(until)s) AS acknowledged,
    coalesce(sum(greatest(extract(epoch FROM ended_at - started_at), 0))
        FILTER (WHERE ended_at >= %(since)s AND ended_at < %(until)s), 0)::float8 AS seconds_to_resolve,
    coalesce(sum(greatest(extract(epoch FROM acknowledged_at - started_at), 0))
        FILTER (WHERE acknowledged_at >= %(since)s AND acknowledged_at < %(until)s), 0)::float8 AS seconds_to_acknowledge
FROM alerts
WHERE name <> ALL(%(without)s::text[]) AND ((started_at >= %(since)s::timestamptz AND started_at < %(until)s::timestamptz)
    OR (ended_at >= %(since)s::timestamptz AND ended_at < %(until)s::timestamptz)
    OR (acknowledged_at >= %(since)s::timestamptz AND acknowledged_at < %(until)s::timestamptz))
GROUP BY name, severity;

-- name: lock_alert :value
-- Who acknowledges an alert, or takes that back, waits here for others who do.
SELECT pg_advisory_xact_lock(7402022, hashtext(%(fingerprint)s));

-- name: acknowledge :exec
-- An acknowledgement, whose silence stands.
INSERT INTO acknowledgements (id, fingerprint, silence_id, user_id, author, comment, created_at, expires_at)
VALUES (
    %(id)s, %(fingerprint)s, %(silence_id)s, %(user_id)s, %(author)s, %(comment)s, %(created_at)s, %(expires_at)s
);

-- name: name_silence :exec
-- The silence that stands for an acknowledgement now, unless another was named meanwhile, or it was taken back.
UPDATE acknowledgements SET silence_id = %(silence_id)s
WHERE id = %(id)s AND silence_id = %(former)s AND withdrawn_at IS NULL AND expires_at > now();

-- name: of_silences :many
-- Which of some silences are acknowledgements of users of the service.
SELECT silence_id, user_id FROM acknowledgements WHERE silence_id = ANY(%(silence_ids)s);

-- name: withdraw :many
-- Ends what is in force for an alert.
UPDATE acknowledgements SET withdrawn_at = now() WHERE fingerprint = %(fingerprint)s AND withdrawn_at IS NULL
RETURNING silence_id, expires_at > now() AS holds;

-- name: withdraw_one :exec
-- Ends one that somebody ended in Alertmanager.
UPDATE acknowledgements SET withdrawn_at = now() WHERE id = %(id)s AND withdrawn_at IS NULL;

-- name: holding :many
-- The acknowledgements in force for some alerts.
SELECT * FROM acknowledgements
WHERE fingerprint = ANY(%(fingerprints)s) AND withdrawn_at IS NULL AND expires_at > now();

-- name: holding_all :many
-- The acknowledgements in force, newest first, with the labels of their alerts as they were last seen.
SELECT a.*, seen.labels
FROM acknowledgements a CROSS JOIN LATERAL (
    SELECT labels FROM alerts WHERE fingerprint = a.fingerprint ORDER BY seen_at DESC LIMIT 1
) AS seen
WHERE a.withdrawn_at IS NULL AND a.expires_at > now()
ORDER BY a.created_at DESC LIMIT %(limit)s;

-- name: over :many
-- Acknowledgements in force of alerts that ended so many seconds ago.
SELECT * FROM acknowledgements a
WHERE withdrawn_at IS NULL AND expires_at > now()
    AND NOT EXISTS (
        SELECT FROM alerts
        WHERE fingerprint = a.fingerprint
            AND (ended_at IS NULL OR ended_at > now() - make_interval(secs => %(seconds)s))
    )
LIMIT %(limit)s;

-- name: sweep :exec
-- Removes what ended longer ago than that many days, and of the rest all but the newest so many.
DELETE FROM alerts WHERE ended_at < now() - make_interval(days => %(days)s)
    OR ended_at <= (SELECT ended_at FROM alerts WHERE ended_at IS NOT NULL ORDER BY ended_at DESC OFFSET %(most)s LIMIT 1);

-- name: sweep_acknowledgements :exec
-- Removes those whose time was over that many days ago.
DELETE FROM acknowledgements WHERE expires_at < now() - make_interval(days => %(days)s);
