-- A person's decision on a dead letter. KEYS[12..]: buckets of the records. ARGV: how the entry begins, or all of it, action
-- (requeue, discard), the entry to queue, now, id, serial, names of the records, the entry's place from the end of the list
-- (negative), its length, Message-ID.
local entry, now, id, serial, records = ARGV[3], clock(ARGV[4]), ARGV[5], ARGV[6], look_all(12, ARGV[7])
local place, length = ARGV[8], tonumber(ARGV[9])
local found = redis.call('LINDEX', DEAD, place)
if not found or #found ~= length or string.sub(found, 1, #ARGV[1]) ~= ARGV[1] then return 'gone' end
local state = 'discarded'
if ARGV[2] == 'requeue' then
  state = 'queued'
  -- To the end of the line: a bulk re-drive must not hold up new mail.
  count('returned', 1)
  give(entry, 'LPUSH')
else
  count('discarded', 1)
end
redis.call('LSET', DEAD, place, '')
redis.call('LREM', DEAD, -1, '')
if state == 'queued' and not headed(entry) then
  -- Its next claim gives it another identity: a record of this one would make it a duplicate of itself.
  for _, own in ipairs(records) do
    if own.serial == serial then erase(own) end
  end
else
  record(records, serial, state, '', nil, state == 'queued' and drains() or ending(NO_OPERATION, 'ByHand'), id)
end
event(state, id, now, 'ByHand', nil, ARGV[10])
return 'done'
