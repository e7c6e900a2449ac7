-- Somebody's decision on dead letters. KEYS[13..]: buckets of each letter's records in turn. ARGV: action (requeue, discard),
-- now, and for each letter, oldest first: how it begins, or all of it; the entry to queue, id, serial, names of the records,
-- its place from the end of the list (negative), its length, Message-ID.
-- Answers one word for each letter: done, or gone when another lies there.
-- A header is believed when the record of its id names its serial (admit.lua). When that record is another mail's by now,
-- the letter goes back as its producer pushed it, and its next claim sees what it is to the other.
local action, now, answers, goes = ARGV[1], clock(ARGV[2]), {}, 0
local first, firsts, entries, owners = 13, {}, {}, {}
for at = 3, #ARGV, 8 do
  local begin, entry, place, length = ARGV[at], ARGV[at + 1], ARGV[at + 5], tonumber(ARGV[at + 6])
  local serial, own = ARGV[at + 3], look_all(first, string.sub(ARGV[at + 4], 1, FIELD))[1]
  local found, answer = redis.call('LINDEX', DEAD, place), 'gone'
  if found and #found == length and string.sub(found, 1, #begin) == begin then
    answer = 'done'
    if action == 'requeue' then
      -- To the end of the line: a bulk re-drive must not hold up new mail.
      count('returned', 1)
      -- One of several of the same id is the first.
      local name = own and own.key .. own.field
      if own and (forbids(own, serial) or (owners[name] or serial) ~= serial) then
        entry = seal(payload(entry), string.sub(entry, #MAGIC + 1, #MAGIC + 1))
      elseif own and headed(entry) then
        owners[name] = serial
      end
      give(entry, 'LPUSH')
    else
      count('discarded', 1)
    end
    -- Places stay as they are until all is decided.
    redis.call('LSET', DEAD, place, '')
    goes = goes + 1
  end
  table.insert(answers, answer)
  table.insert(firsts, first)
  table.insert(entries, entry)
  first = first + #ARGV[at + 4] / FIELD
end
if goes > 0 then redis.call('LREM', DEAD, -goes, '') end
for number, answer in ipairs(answers) do
  local at, entry = 8 * number - 5, entries[number]
  local id, serial, records = ARGV[at + 2], ARGV[at + 3], look_all(firsts[number], ARGV[at + 4])
  if answer == 'done' then
    local state = action == 'requeue' and 'queued' or 'discarded'
    if state == 'queued' and not headed(entry) then
      -- Its next claim gives it another identity: a record of this one would make it a duplicate of itself. Who has the mail
      -- is not forgotten.
      for _, own in ipairs(records) do
        if own.serial == serial and not own.has then erase(own) end
      end
    else
      record(records, serial, state, '', nil, state == 'queued' and drains() or ending(NO_OPERATION, 'ByHand'), id)
    end
    event(state, id, now, 'ByHand', nil, ARGV[at + 7])
  end
end
return answers
