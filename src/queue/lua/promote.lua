-- ARGV: now, cap. Due mails go to the end that is taken next, the one due first foremost, and wake blocked workers.
-- While other mail waits they take every second place: half as many are moved as were taken since the last ones were.
-- So of all workers that call this in one tick the first finds something to do.
local tokens = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', clock(ARGV[1]), 'LIMIT', 0, ARGV[2])
if #tokens == 0 then return 0 end
local cap, known = tonumber(ARGV[2]), redis.call('HMGET', COUNTERS, 'taken', 'promotedAt')
local taken = tonumber(known[1] or 0)
-- What was taken long ago gives no right to a burst.
local since = math.max(tonumber(known[2] or 0), taken - 2 * cap)
local room = #tokens
if waiting() > 0 then
  room = math.min(room, math.floor((taken - since) / 2))
  since = since + 2 * room
else
  since = taken
end
if room <= 0 then return 0 end
local moved = 0
redis.call('HSET', COUNTERS, 'promotedAt', string.format('%.0f', since))
gave_silently()
for at = room, 1, -1 do
  local entry = redis.call('HGET', DELAYED_MAILS, tokens[at])
  if entry then
    count('returned', 1)
    give(seal(entry, 'n'))
    moved = moved + 1
  end
  no_longer_delayed(tokens[at])
end
return moved
