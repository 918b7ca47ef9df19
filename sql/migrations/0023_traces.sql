-- Which trace a job was asked for in (W3C Trace Context), so that a collector shows its attempts beneath that request.
-- NULL where nobody collects traces. The form is checked as it may come from a client.
ALTER TABLE jobs ADD COLUMN traceparent text
    CONSTRAINT jobs_traceparent_form CHECK (traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$');
