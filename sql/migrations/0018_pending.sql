-- A try of a password that is under way has a moment of its own, so that what a dead process left behind runs out
-- whatever else is tried under the name meanwhile. Tries under way during this change are forgotten.
ALTER TABLE sign_in_attempts DROP COLUMN pending;
-- When each try under way began, oldest first, each but once; after a minute it counts no more.
ALTER TABLE sign_in_attempts ADD COLUMN pending timestamptz[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN sign_in_attempts.expires_at IS 'When failures count no more.';
