-- Somebody's decision on dead letters. KEYS[13..]: buckets of each letter's records in turn. ARGV: action (requeue, discard),
-- now, and for each letter, oldest first: how it begins, or all of it; the entry to queue, id, serial, names of the records,
-- its place from the end of the list (negative), its length, Message-ID.
-- Answers one word for each letter: done, or gone when another lies there.
local action, now, answers, goes = ARGV[1], clock(ARGV[2]), {}, 0
for at = 3, #ARGV, 8 do
  local begin, entry, place, length = ARGV[at], ARGV[at + 1], ARGV[at + 5], tonumber(ARGV[at + 6])
  local found, answer = redis.call('LINDEX', DEAD, place), 'gone'
  if found and #found == length and string.sub(found, 1, #begin) == begin then
    answer = 'done'
    if action == 'requeue' then
      -- To the end of the line: a bulk re-drive must not hold up new mail.
      count('returned', 1)
      give(entry, 'LPUSH')
    else
      count('discarded', 1)
    end
    -- Places stay as they are until all is decided.
    redis.call('LSET', DEAD, place, '')
    goes = goes + 1
  end
  table.insert(answers, answer)
end
if goes > 0 then redis.call('LREM', DEAD, -goes, '') end
local first = 13
for number, answer in ipairs(answers) do
  local at = 8 * number - 5
  local entry, id, serial, fields = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local records = look_all(first, fields)
  first = first + #records
  if answer == 'done' then
    local state = action == 'requeue' and 'queued' or 'discarded'
    if state == 'queued' and not headed(entry) then
      -- Its next claim gives it another identity: a record of this one would make it a duplicate of itself.
      for _, own in ipairs(records) do
        if own.serial == serial then erase(own) end
      end
    else
      record(records, serial, state, '', nil, state == 'queued' and drains() or ending(NO_OPERATION, 'ByHand'), id)
    end
    event(state, id, now, 'ByHand', nil, ARGV[at + 7])
  end
end
return answers
