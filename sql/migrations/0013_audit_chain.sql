-- The audit trail is only ever added to, and whoever changes it all the same is found out: every event gets a link in a
-- chain of hashes, each made over the one before it and the whole row.

CREATE TABLE audit_chain (
    seq bigint CONSTRAINT audit_chain_pkey PRIMARY KEY,
    -- No foreign key: an event that was taken away must not keep the rest from being looked at.
    event_id uuid NOT NULL CONSTRAINT audit_chain_event_once UNIQUE,
    hash bytea NOT NULL,
    CONSTRAINT audit_chain_form CHECK (seq > 0 AND octet_length(hash) = 32)
);

-- Events that are committed and have no link yet. Transactions commit in another order than they write in, so neither a
-- time nor a number says up to where the events are linked; and to look for those without a link in the whole trail
-- would take longer every day.
CREATE TABLE audit_pending (
    event_id uuid CONSTRAINT audit_pending_pkey PRIMARY KEY
);
INSERT INTO audit_pending (event_id) SELECT id FROM audit_events;

CREATE FUNCTION await_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_pending (event_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_events_pending AFTER INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION await_link();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is only ever added to', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
-- For the statement, so that one which would change no row is refused as well, and TRUNCATE with it.
CREATE TRIGGER audit_events_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_chain_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Also for a session that replays what another server did, which leaves other triggers out.
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER audit_events_kept;
ALTER TABLE audit_chain ENABLE ALWAYS TRIGGER audit_chain_kept;

-- For the events of an address or a network, and for the few that are critical.
CREATE INDEX audit_events_ip ON audit_events (ip, at DESC);
CREATE INDEX audit_events_critical ON audit_events (at DESC, id DESC) WHERE severity = 'critical';
