-- A person's decision on a held mail. KEYS[13..]: buckets of the records. ARGV: claim, action (release, discard), now, id,
-- serial, names of the records, the stage it was at: a header that was only taken was not checked, so its records must be
-- its own already. Then the Message-ID.
local parked = redis.call('HGET', HELD, ARGV[1])
if not parked then return 'gone' end
local now, id, serial = clock(ARGV[3]), ARGV[4], ARGV[5]
local records = look_all(13, ARGV[6])
local trusted = #records > 0 and (ARGV[7] ~= 'taken' or records[1].serial == serial)
local state, has = 'discarded', '*'
if ARGV[2] == 'release' then
  state, has = 'queued', nil
  count('returned', 1)
  give(seal(string.sub(parked, (string.find(parked, '\n', 1, true) or #parked) + 1), 'n'))
  if not trusted then gave_silently() end
else
  -- Whoever discards it says that it was delivered: a repeat is for nobody.
  count('discarded', 1)
end
redis.call('HDEL', HELD, ARGV[1])
if trusted then
  record(records, serial, state, '', has, has and ending(NO_OPERATION, 'ByHand') or drains(), id)
end
event(state, id, now, 'ByHand', nil, trusted and ARGV[8])
return 'done'
