-- Who was promised room on the disk, and who waits for it. All processes write to one disk, so they ask in one place.

CREATE TABLE reservations (
    job_id bigint CONSTRAINT reservations_pkey PRIMARY KEY
        CONSTRAINT reservations_job_id_fkey REFERENCES jobs ON DELETE CASCADE,
    -- The attempt that asked. A promise stands while that attempt runs: every end and every new lease changes the job's
    -- state or its fence, so none of them has to take the promise back.
    fence bigint NOT NULL,
    -- What the attempt may yet write.
    wanted_bytes bigint NOT NULL CONSTRAINT reservations_wanted_range CHECK (wanted_bytes >= 0),
    -- How large its folder may become; null is a refusal, with which the job stands in line.
    reserved_bytes bigint CONSTRAINT reservations_reserved_range CHECK (reserved_bytes >= 0)
);
CREATE INDEX reservations_in_line ON reservations (job_id) WHERE reserved_bytes IS NULL;

CREATE INDEX jobs_waiting_for_disk ON jobs (id) WHERE waiting = 'disk';
