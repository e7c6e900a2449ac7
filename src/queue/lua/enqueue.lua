-- KEYS[12..]: records of the mail. ARGV: entry, serial, id, max length, max bytes, now, due or '', token.
-- The one script that is refused at maxmemory: it fills the queue, the others drain it.
local entry, serial, id, now, due, token = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[7], ARGV[8]
for at = 12, #KEYS do
  local first = owner(KEYS[at], serial)
  if first then
    count('accepted', 1)
    count('duplicates', 1)
    event('duplicate', id, now, first)
    return {'duplicate', first}
  end
end
local waiting = redis.call('LLEN', NORMAL) + redis.call('LLEN', HIGH) + redis.call('LLEN', LOW) + redis.call('LLEN', ARRIVED)
local length, max_length = waiting + redis.call('ZCARD', DELAYED), tonumber(ARGV[4])
if length >= max_length then return {'full', tostring(length), ARGV[4], 'mails'} end
local max_bytes = tonumber(ARGV[5])
if max_bytes > 0 then
  local known = redis.call('HMGET', COUNTERS, 'counted', 'bytes')
  -- Raw entries were never measured: the newest of the plain list stands for all of them.
  local raw = math.max(0, waiting - tonumber(known[1] or 0))
  local newest = raw > 0 and redis.call('LINDEX', NORMAL, 0) or ''
  local bytes = math.max(0, tonumber(known[2] or 0)) + raw * #(newest or '') + #entry
  if bytes > max_bytes then return {'full', string.format('%.0f', bytes), ARGV[5], 'bytes'} end
end
count('accepted', 1)
if due == '' then
  give(entry, 'LPUSH')
  record(12, #KEYS - 11, serial, 0, 'id', id, 'state', 'queued', 'at', now)
else
  delay(token, due, entry)
  record(12, #KEYS - 11, serial, 0, 'id', id, 'state', 'delayed', 'at', now, 'due', due)
end
return {'queued', id}
