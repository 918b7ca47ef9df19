-- What came from each address: points that drain with time, and how often each offence came while any were left.
-- KEYS: an address each, the same one several times if it did several things. ARGV: points that drain in a second,
-- points at most, points whose counts are wanted; then for each key: points, offence, how often.
-- Answers for each key the points as text, followed by offences and counts in turn where there are so many points.
local drain, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local answers = {}
for i, key in ipairs(KEYS) do
  local points, offence, times = tonumber(ARGV[3 * i + 1]), ARGV[3 * i + 2], ARGV[3 * i + 3]
  local held = redis.call('HMGET', key, 'points', 'at')
  local left = (tonumber(held[1]) or 0) - (now - (tonumber(held[2]) or now)) * drain
  points = math.min(most, math.max(0, left) + points)
  redis.call('HSET', key, 'points', points, 'at', now)
  redis.call('HINCRBY', key, 'of:' .. offence, times)
  redis.call('EXPIRE', key, math.ceil(points / drain) + 1)
  answers[i] = {tostring(points)}
  if points >= wanted then
    for _, part in ipairs(redis.call('HGETALL', key)) do table.insert(answers[i], part) end
  end
end
return answers
