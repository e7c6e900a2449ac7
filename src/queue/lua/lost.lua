-- KEYS[13..]: buckets of records, then the claims of every process. ARGV: now, id and serial of the mail that they forbid,
-- names of the records, processes. Ends the records whose mail is nowhere any more. Answers the ids of those mails; or
-- nothing at all when the set of processes changed meanwhile.
local now, id, serial, records = clock(ARGV[1]), ARGV[2], ARGV[3], look_all(13, ARGV[4])
if redis.call('HLEN', PROCESSES) ~= #ARGV - 4 then return false end
for at = 5, #ARGV do
  if redis.call('HEXISTS', PROCESSES, ARGV[at]) == 0 then return false end
end

local function in_hand(found)
  for at = 13 + #records, #KEYS do
    for _, claim in ipairs(redis.call('HKEYS', KEYS[at])) do
      if is_of(redis.call('HGET', KEYS[at], claim), found.serial) then return true end
    end
  end
  return false
end

local lost = {}
for _, found in ipairs(records) do
  if forbids(found, serial) and doubtful(found) and not in_hand(found) then
    local name = named(found, id)
    record({found}, found.serial, 'lost', '', nil, ending(NO_OPERATION, 'Removed'), name)
    event('lost', name, now, 'Removed')
    table.insert(lost, name)
  end
end
return lost
