-- A backup's rows are put back by a session that knows no schema by itself, and in any order of the tables: then this
-- function did not find its table, and no event came back at all.
CREATE OR REPLACE FUNCTION await_link() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit_pending (event_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
