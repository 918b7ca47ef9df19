-- Why a job that could run does not: something that is not its own fault, so it costs none of its tries.

ALTER TABLE jobs
    -- Set when an attempt was put off, taken away by the next one and by any end. Null is ordinary queueing.
    ADD COLUMN waiting text CONSTRAINT jobs_waiting_known CHECK (waiting IN ('egress', 'disk')),
    -- How often that happened. A job that is put off again and again may be what it complains of.
    ADD COLUMN deferrals smallint NOT NULL DEFAULT 0;
