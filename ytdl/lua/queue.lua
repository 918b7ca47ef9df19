-- The queue's index: a suggestion of what to run next, made from PostgreSQL's rows and thrown away at will.
-- One script for all moves, so the layout stands in one place. KEYS[1] is the prefix p; below it:
--   p:epoch        incarnation; a call that names another one is answered 'EPOCH' and changes nothing
--   p:jobs         hash  job -> user|score          every job in the index
--   p:users        zset  user -> turn               users with a ready job and fewer running jobs than their cap
--   p:u:<user>     zset  job -> score               that user's ready jobs; score is (9-priority)*2^49 + id
--   p:turns        zset  user -> turn               the claim that served a user last; none is before all others
--   p:turn         number of the last claim
--   p:delayed      zset  job -> due, ms
--   p:leases       zset  job -> expiry, ms
--   p:run          hash  user -> number of leases
--   p:caps         hash  user -> cap                users whose cap is not the common one
-- Fairness: the user who was served longest ago is next. Between two claims of one user every other user with work is
-- served once, so their numbers never differ by more than one however much one of them has queued, and somebody who
-- comes one job at a time gains nothing by it.
local p, op, epoch, common = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local JOBS, USERS, TURNS, TURN = p .. ':jobs', p .. ':users', p .. ':turns', p .. ':turn'
local DELAYED, LEASES, RUN, EPOCH, CAPS = p .. ':delayed', p .. ':leases', p .. ':run', p .. ':epoch', p .. ':caps'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function ready(user) return p .. ':u:' .. user end

local function split(entry)
  local user, score = string.match(entry, '^(.-)|(.+)$')
  return user, score
end

-- Most have the common cap, and nobody is asked one by one while that goes for all.
local capped = redis.call('EXISTS', CAPS) == 1
local function cap(user) return capped and tonumber(redis.call('HGET', CAPS, user) or common) or common end

-- Puts the user among those served, or takes them out, by what they have ready and running.
local function seat(user)
  local running = tonumber(redis.call('HGET', RUN, user) or '0')
  if redis.call('ZCARD', ready(user)) > 0 and running < cap(user) then
    redis.call('ZADD', USERS, 'NX', redis.call('ZSCORE', TURNS, user) or '0', user)
  else
    redis.call('ZREM', USERS, user)
  end
end

local function unlease(job, user)
  if redis.call('ZREM', LEASES, job) == 1 and redis.call('HINCRBY', RUN, user, -1) <= 0 then
    redis.call('HDEL', RUN, user)
  end
end

-- Forgets a job wherever it stands.
local function forget(job)
  local entry = redis.call('HGET', JOBS, job)
  if not entry then return end
  local user = split(entry)
  redis.call('HDEL', JOBS, job)
  redis.call('ZREM', DELAYED, job)
  redis.call('ZREM', ready(user), job)
  unlease(job, user)
  seat(user)
  -- With nothing left all users are equal again, and nobody who came once is remembered for ever.
  if redis.call('HLEN', JOBS) == 0 then redis.call('DEL', TURNS, TURN) end
end

local function lease(job, user, expiry)
  if redis.call('ZADD', LEASES, expiry, job) == 1 then redis.call('HINCRBY', RUN, user, 1) end
end

local function purge()
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 200)) do forget(job) end
end

local function promote()
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, 200)) do
    redis.call('ZREM', DELAYED, job)
    local entry = redis.call('HGET', JOBS, job)
    if entry then
      local user, score = split(entry)
      redis.call('ZADD', ready(user), score, job)
      seat(user)
    end
  end
end

-- job, user, score, due in ms: the index holds it ready or delayed, unless it is leased. True when that is news.
-- Whoever calls seats the user: once for many jobs, as a thousand of them are to take ten milliseconds at most.
local function ensure(job, user, score, due)
  if redis.call('ZSCORE', LEASES, job) then return false end
  local entry, known = user .. '|' .. score, redis.call('HGET', JOBS, job)
  if known ~= entry then redis.call('HSET', JOBS, job, entry) end
  if due > now then
    redis.call('ZREM', ready(user), job)
    redis.call('ZADD', DELAYED, due, job)
  elseif not redis.call('ZSCORE', ready(user), job) then
    redis.call('ZREM', DELAYED, job)
    redis.call('ZADD', ready(user), score, job)
  end
  return not known
end

local moves = {}

-- n -> how many jobs a claim of n would take
function moves.ready(n)
  purge()
  promote()
  local found = 0
  for _, user in ipairs(redis.call('ZRANGE', USERS, 0, tonumber(n) - 1)) do
    local room = cap(user) - tonumber(redis.call('HGET', RUN, user) or '0')
    found = found + math.max(0, math.min(room, redis.call('ZCARD', ready(user))))
  end
  return math.min(found, tonumber(n))
end

-- n, lease in ms -> job, job, ...
function moves.claim(n, lease_ms)
  purge()
  promote()
  local taken = {}
  while #taken < tonumber(n) do
    local user = redis.call('ZRANGE', USERS, 0, 0)[1]
    if not user then break end
    -- Another process may have seated the user under a higher cap.
    local room = tonumber(redis.call('HGET', RUN, user) or '0') < cap(user)
    local job = room and redis.call('ZPOPMIN', ready(user))[1]
    if job then
      redis.call('ZADD', TURNS, redis.call('INCR', TURN), user)
      lease(job, user, now + tonumber(lease_ms))
      taken[#taken + 1] = job
    end
    redis.call('ZREM', USERS, user)
    seat(user)
  end
  -- Who was served before all who wait now comes first anyway; nothing needs to be remembered of them.
  local first = redis.call('ZRANGE', USERS, 0, 0, 'WITHSCORES')[2]
  if first then redis.call('ZREMRANGEBYSCORE', TURNS, '-inf', first) end
  return taken
end

-- (job, user, score, due)* -> how many the index did not know
function moves.ensure(...)
  local rows, news, users = { ... }, 0, {}
  for i = 1, #rows, 4 do
    users[rows[i + 1]] = true
    if ensure(rows[i], rows[i + 1], rows[i + 2], tonumber(rows[i + 3])) then news = news + 1 end
  end
  for user in pairs(users) do seat(user) end
  return news
end

-- lease in ms, (job, user, score)*: only pairs that PostgreSQL confirmed in this same beat may be named here.
function moves.beat(lease_ms, ...)
  local rows = { ... }
  for i = 1, #rows, 3 do
    local job, user = rows[i], rows[i + 1]
    redis.call('HSET', JOBS, job, user .. '|' .. rows[i + 2])
    redis.call('ZREM', DELAYED, job)
    redis.call('ZREM', ready(user), job)
    lease(job, user, now + tonumber(lease_ms))
    seat(user)
  end
  purge()
  return #rows / 3
end

-- job*: they ended, were handed back or were never there; who wants one back calls ensure.
function moves.drop(...)
  local jobs = { ... }
  for i = 1, #jobs do forget(jobs[i]) end
  return #jobs
end

-- job*: they were claimed and could not be taken; ready for whoever comes next.
function moves.give_back(...)
  local jobs = { ... }
  for i = 1, #jobs do
    local entry = redis.call('HGET', JOBS, jobs[i])
    if entry and redis.call('ZSCORE', LEASES, jobs[i]) then
      local user, score = split(entry)
      unlease(jobs[i], user)
      redis.call('ZADD', ready(user), score, jobs[i])
      seat(user)
    end
  end
  return #jobs
end

-- job -> how many of the same user's ready jobs stand before it, -1 when it is not ready
function moves.rank(job)
  promote()
  local entry = redis.call('HGET', JOBS, job)
  local rank = entry and redis.call('ZRANK', ready((split(entry))), job)
  return rank or -1
end

if op == 'reset' then
  -- Who has jobs ready is seated, or else has some running. Freeing what may be large is left to another thread.
  for _, user in ipairs(redis.call('ZRANGE', USERS, 0, -1)) do redis.call('UNLINK', ready(user)) end
  for _, user in ipairs(redis.call('HKEYS', RUN)) do redis.call('UNLINK', ready(user)) end
  redis.call('UNLINK', JOBS, USERS, TURNS, TURN, DELAYED, LEASES, RUN, CAPS)
  redis.call('SET', EPOCH, epoch)
  return 'OK'
end
if redis.call('GET', EPOCH) ~= epoch then return 'EPOCH' end
if op == 'caps' then
  -- (user, cap)*: everybody with a cap of their own. They may be more than a call takes arguments.
  local users = redis.call('HKEYS', CAPS)
  redis.call('UNLINK', CAPS)
  for i = 4, #ARGV, 2 do
    redis.call('HSET', CAPS, ARGV[i], ARGV[i + 1])
    users[#users + 1] = ARGV[i]
  end
  capped = #ARGV >= 4
  for _, user in ipairs(users) do seat(user) end
  return 'OK'
end
return moves[op](unpack(ARGV, 4))
