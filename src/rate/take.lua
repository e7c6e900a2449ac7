-- Takes from, or gives back to, the token buckets of a mail server, all of them or none.
-- KEYS: a hash of when each bucket is full again, by its field. ARGV: how many items are wanted at most, or how many are given
-- back when that is negative; then for each bucket: its field, microseconds a token, how many it holds, tokens an item.
-- Answers: how many items were granted; or 0, after how many microseconds it is worth to ask again, and how many asked in
-- vain since something was granted.
local time = redis.call('TIME')
local now, wanted = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local DAYS = 2592000000

-- A bucket of other figures, or of a store that lost it, is empty: nobody knows what was taken a moment ago.
local buckets, fields = {}, {}
for at = 2, #ARGV, 4 do
  local bucket = {field = ARGV[at], token = tonumber(ARGV[at + 1]), size = tonumber(ARGV[at + 2]), item = tonumber(ARGV[at + 3])}
  local known = tonumber(redis.call('HGET', KEYS[1], bucket.field) or '')
  -- What lies further ahead than anybody can have taken comes of a clock that was set back.
  local most = now + (bucket.size + 100) * bucket.token
  bucket.full = math.max(now, math.min(known or now + bucket.size * bucket.token, most))
  bucket.new, fields[bucket.field] = not known, true
  table.insert(buckets, bucket)
end

local function write(items)
  for _, bucket in ipairs(buckets) do
    if bucket.new then
      for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
        if not fields[field] then redis.call('HDEL', KEYS[1], field) end
      end
    end
    redis.call('HSET', KEYS[1], bucket.field, string.format('%.0f', math.ceil(bucket.full + items * bucket.item * bucket.token)))
  end
  redis.call('PEXPIRE', KEYS[1], DAYS)
end

if wanted < 0 then
  write(wanted)
  return {-wanted, 0, 0}
end

local granted, wait = wanted, 0
for _, bucket in ipairs(buckets) do
  -- An item of more tokens than the bucket holds takes a full one, and what is missing comes out of the next.
  local needs = math.min(bucket.item, bucket.size)
  local there = (now + bucket.size * bucket.token - bucket.full) / bucket.token
  if bucket.item > 0 then
    granted = math.min(granted, there < needs and 0 or math.max(1, math.floor(there / bucket.item)))
    wait = math.max(wait, (needs - there) * bucket.token)
  end
end
if granted > 0 then
  write(granted)
  redis.call('HSET', KEYS[1], 'vain', 0)
  return {granted, 0, 0}
end
-- An empty bucket fills from now on.
for _, bucket in ipairs(buckets) do
  if bucket.new then write(0) break end
end
return {0, math.ceil(wait), redis.call('HINCRBY', KEYS[1], 'vain', 1)}
