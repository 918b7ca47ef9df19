-- Units of rate limits, for any number of callers one after the other; the arithmetic is that of gcra.py.
-- KEYS: each caller's policies, all callers in order. A key holds when its debt is paid, in microseconds since 1970.
-- ARGV: for each caller how many units it needs at once, how many it wants, how many policies there are, and for each
-- of these: the debt that the process knows of, the interval, the limit, in microseconds and requests.
-- Answers for each caller the units given, then the debts after that. All policies give the same, or nothing is taken.
local SHARE, AHEAD = 8, 2
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, key, arg = {}, 0, 1

while arg <= #ARGV do
  local need, want, count = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  local given, debts = want, {}
  for i = 1, count do
    local at = arg + 3 * i
    local interval = tonumber(ARGV[at + 1])
    local limit = tonumber(ARGV[at + 2])
    local full = interval * limit
    local paid = tonumber(redis.call('GET', KEYS[key + i]) or '0')
    -- What the process knows counts where Redis was emptied; more than all is owed only after a clock was set back.
    debts[i] = math.min(math.max(paid - now, tonumber(ARGV[at]), 0), full)
    local left = math.floor((full - debts[i]) / interval)
    local ahead = math.min(math.floor(left / SHARE), left - math.floor(limit / AHEAD))
    given = math.min(given, math.max(math.min(need, left), ahead))
  end
  answer[#answer + 1] = given
  for i = 1, count do
    if given > 0 then
      debts[i] = debts[i] + given * tonumber(ARGV[arg + 3 * i + 1])
      local paid = string.format('%.0f', now + debts[i])
      redis.call('SET', KEYS[key + i], paid, 'PX', math.ceil(debts[i] / 1000))
    end
    answer[#answer + 1] = debts[i]
  end
  key, arg = key + count, arg + 3 + 3 * count
end
return answer
