-- KEYS: 13 samples, 14.. claims of every process. ARGV: now (audit takes no sample, and is told no time), then the processes.
-- Answers: now, pending, delayed, in flight, held, dead, oldest known, estimate for raw arrivals, counters; or nothing when
-- the set of processes changed meanwhile. For the audit also how many entries with a header wait, as they lie there ('' when
-- they are too many for one look), and how many delayed mails there are.
local SAMPLES, audits = KEYS[13], ARGV[1] == 'audit'
local now = not audits and tonumber(clock(ARGV[1]))
if redis.call('HLEN', PROCESSES) ~= #ARGV - 1 then return {} end
for at = 2, #ARGV do
  if redis.call('HEXISTS', PROCESSES, ARGV[at]) == 0 then return {} end
end
local flying = 0
for at = 14, #KEYS do flying = flying + redis.call('HLEN', KEYS[at]) end

local pending, oldest, raw = 0, nil, false
for _, list in ipairs({ARRIVED, HIGH, NORMAL, LOW}) do
  pending = pending + redis.call('LLEN', list)
  local entry = redis.call('LINDEX', list, -1)
  local since = entry and headed(entry) and since_of(entry)
  if since then
    oldest = math.min(oldest or since, since)
  elseif entry then
    raw = true
  end
end

-- A mail that was put off waits as well. What was removed by hand leaves a word behind, which goes here.
for _ = 1, audits and 0 or 100 do
  local token = redis.call('ZRANGEBYSCORE', PUT_OFF, '-inf', '+inf', 'LIMIT', 0, 1)[1]
  if not token then break end
  if redis.call('ZSCORE', DELAYED, token) then
    local since = tonumber(redis.call('ZSCORE', PUT_OFF, token))
    oldest = math.min(oldest or since, since)
    break
  end
  redis.call('ZREM', PUT_OFF, token)
end

-- How many had ever arrived at which time: the oldest that waits came no later than the first sample that counts it.
local estimate = ''
if not audits then
  local known = redis.call('HMGET', COUNTERS, 'taken', 'returned')
  local gone = tonumber(known[1] or 0) - tonumber(known[2] or 0)
  local function sample(at)
    local text = redis.call('LINDEX', SAMPLES, at)
    if text then
      local arrived, time = string.match(text, '^(%-?%d+) (%d+)$')
      return tonumber(arrived), tonumber(time)
    end
  end
  local first, time = sample(-1)
  while first and first <= gone do
    redis.call('RPOP', SAMPLES)
    first, time = sample(-1)
  end
  local last, last_time = sample(0)
  -- Samples lie further apart the longer they reach back: a stuck queue needs no more than some hundreds.
  if pending > 0 and (not last or (gone + pending > last and now - last_time >= math.max(1000, (last_time - time) / 256))) then
    redis.call('LPUSH', SAMPLES, string.format('%.0f %.0f', gone + pending, now))
  end
  if raw then estimate = string.format('%.0f', time or now) end
end
-- What counters say of the lists can be wrong: they may be gone, or entries may have been removed by hand. One look must
-- not hold up Redis, so it ends after so many entries and bytes; and it has one entry in memory at a time, which may be long.
local MOST, MOST_BYTES = 10000, 8 * 1024 * 1024
local function recount()
  local seen, bytes, found = 0, 0, 0
  for _, list in ipairs({ARRIVED, HIGH, NORMAL, LOW}) do
    for at = 0, redis.call('LLEN', list) - 1 do
      if seen >= MOST or bytes > MOST_BYTES then return '' end
      local entry = redis.call('LINDEX', list, at)
      seen, bytes = seen + 1, bytes + #entry
      if headed(entry) then found = found + 1 end
    end
  end
  return tostring(found)
end

return {now and string.format('%.0f', now) or '', pending, redis.call('ZCARD', DELAYED), flying, redis.call('HLEN', HELD), redis.call('LLEN', DEAD),
  oldest and string.format('%.0f', oldest) or '', estimate, redis.call('HGETALL', COUNTERS), audits and recount() or '', redis.call('HLEN', DELAYED_MAILS)}
