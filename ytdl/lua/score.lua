-- What came from each address: points that drain with time, and how often each offence came while any were left.
-- KEYS: an address each, the same one several times if it did several things. ARGV: points that drain in a second,
-- points at most, points whose counts are wanted, for how many seconds the same evidence counts once; then for each
-- key: points, offence, how often, and the evidence, empty where each time counts.
-- Answers for each key the points as text, followed by offences and counts in turn where there are so many points.
local drain, most, wanted, again = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local answers = {}
for i, key in ipairs(KEYS) do
  local points, offence = tonumber(ARGV[4 * i + 1]), ARGV[4 * i + 2]
  local times, evidence = tonumber(ARGV[4 * i + 3]), ARGV[4 * i + 4]
  if evidence ~= '' and not redis.call('SET', key .. ':' .. evidence, '1', 'NX', 'EX', again) then
    points, times = 0, 0
  end
  local held = redis.call('HMGET', key, 'points', 'at')
  local left = (tonumber(held[1]) or 0) - (now - (tonumber(held[2]) or now)) * drain
  points = math.min(most, math.max(0, left) + points)
  redis.call('HSET', key, 'points', points, 'at', now)
  if times > 0 then redis.call('HINCRBY', key, 'of:' .. offence, times) end
  redis.call('EXPIRE', key, math.ceil(points / drain) + 1)
  answers[i] = {tostring(points)}
  if points >= wanted then
    for _, part in ipairs(redis.call('HGETALL', key)) do table.insert(answers[i], part) end
  end
end
return answers
