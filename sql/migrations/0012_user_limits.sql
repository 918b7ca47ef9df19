-- What an admin allows one user, where that differs from the settings; null is what the settings say.

ALTER TABLE users
    ADD COLUMN concurrent_downloads integer CONSTRAINT users_concurrent_downloads_range CHECK (concurrent_downloads > 0),
    ADD COLUMN requests_per_minute integer CONSTRAINT users_requests_per_minute_range CHECK (requests_per_minute > 0),
    ADD COLUMN file_bytes bigint CONSTRAINT users_file_bytes_range CHECK (file_bytes > 0);
-- Few have a limit of their own; the queue asks who again and again.
CREATE INDEX users_concurrent_downloads ON users (id) WHERE concurrent_downloads IS NOT NULL;
