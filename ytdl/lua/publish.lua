-- One event: into the user's own stream, for readers who come back, and out to every process.
-- KEYS[1] the user's stream, KEYS[2] the channel; ARGV: event as JSON, how many to keep, seconds to keep them.
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], id .. ' ' .. ARGV[1])
return id
