-- A person's decision on a dead letter. KEYS[12..]: buckets of the records. ARGV: the entry as it lies in the list, action
-- (requeue, discard), the entry to queue, now, id, serial, names of the records; and when ARGV[1] is only how the entry
-- begins: its place from the end of the list (negative; '' otherwise), and its length. Then the Message-ID.
local entry, now, id, serial, records = ARGV[3], clock(ARGV[4]), ARGV[5], ARGV[6], look_all(12, ARGV[7])
local place, length = ARGV[8] ~= '' and ARGV[8], tonumber(ARGV[9])
local function is_there()
  if not place then return redis.call('LPOS', DEAD, ARGV[1], 'RANK', -1) end
  local found = redis.call('LINDEX', DEAD, place)
  return found and #found == length and string.sub(found, 1, #ARGV[1]) == ARGV[1]
end
local function remove()
  if not place then return redis.call('LREM', DEAD, -1, ARGV[1]) end
  redis.call('LSET', DEAD, place, '')
  redis.call('LREM', DEAD, -1, '')
end
if not is_there() then return 'gone' end
local state = 'discarded'
if ARGV[2] == 'requeue' then
  state = 'queued'
  -- To the end of the line: a bulk re-drive must not hold up new mail.
  count('returned', 1)
  give(entry, 'LPUSH')
else
  count('discarded', 1)
end
remove()
if state == 'queued' and not headed(entry) then
  -- Its next claim gives it another identity: a record of this one would make it a duplicate of itself.
  for _, found in ipairs(records) do
    if found.serial == serial then erase(found) end
  end
else
  record(records, serial, state, '', nil, state == 'queued' and drains() or ending(NO_OPERATION, 'ByHand'), id)
end
event(state, id, now, 'ByHand', nil, ARGV[10])
return 'done'
