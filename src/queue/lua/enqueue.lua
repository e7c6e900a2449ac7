-- KEYS[13..]: buckets of the mail's records. ARGV: entry, serial, id, max length, max bytes, now, not before or '', token,
-- expires or '', fingerprint, whether doubts about another's record were looked into, names of the records.
-- The one script that is refused at maxmemory: it fills the queue, the others drain it.
local entry, serial, id, now, due, token = ARGV[1], ARGV[2], ARGV[3], clock(ARGV[6]), ARGV[7], ARGV[8]
local expires, sum, sure = ARGV[9], ARGV[10], ARGV[11] ~= ''
if expires ~= '' and tonumber(expires) <= tonumber(now) then return {'expired'} end
local records = look_all(13, ARGV[12])
-- Nobody else has this serial: the very same command was run before, and its answer was lost or it comes twice.
if records[1].serial == serial then return {'queued', id} end
for _, found in ipairs(records) do
  if forbids(found, serial) then
    if not sure and doubtful(found) then return {'doubtful', named(found, id)} end
    local name, other = named(found, id), differs(found, sum)
    accept(now)
    duplicate(id, now, name, other)
    return {'duplicate', name, other and 'differs' or ''}
  end
end
local queued = waiting()
local length, max_length = queued + redis.call('ZCARD', DELAYED), tonumber(ARGV[4])
if length >= max_length then return {'full', tostring(length), ARGV[4], 'mails'} end
local max_bytes = tonumber(ARGV[5])
if max_bytes > 0 then
  local known = redis.call('HMGET', COUNTERS, 'counted', 'bytes')
  -- Raw entries were never measured: the newest of the plain list stands for all of them.
  local raw = math.max(0, queued - tonumber(known[1] or 0))
  local newest = raw > 0 and redis.call('LINDEX', NORMAL, 0) or ''
  local bytes = math.max(0, tonumber(known[2] or 0)) + raw * #(newest or '') + #entry
  if bytes > max_bytes then return {'full', string.format('%.0f', bytes), ARGV[5], 'bytes'} end
end
accept(now)
if due == '' or tonumber(due) <= tonumber(now) then
  give(entry, 'LPUSH')
  record(records, serial, 'queued', sum, nil, drains(), id)
else
  delay(token, due, entry)
  record(records, serial, 'delayed', sum, nil, token, id, due)
end
return {'queued', id}
