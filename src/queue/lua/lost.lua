-- KEYS[12..]: records, then the claims of every process. ARGV: now, ttl of final records, serial of the mail that they
-- forbid, number of records, processes. Ends the records whose mail is nowhere any more. Answers the ids of those mails;
-- or nothing at all when the set of processes changed meanwhile.
local now, ttl, serial, number = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
if redis.call('HLEN', PROCESSES) ~= #ARGV - 4 then return false end
for at = 5, #ARGV do
  if redis.call('HEXISTS', PROCESSES, ARGV[at]) == 0 then return false end
end

local function in_hand(found)
  local words = '"serial":"' .. found.serial .. '"'
  for at = 12 + number, #KEYS do
    for _, claim in ipairs(redis.call('HKEYS', KEYS[at])) do
      local entry = redis.call('HGET', KEYS[at], claim)
      local line = headed(entry) and string.sub(entry, 1, string.find(entry, '\n', 1, true) or #entry) or ''
      if string.find(line, words, 1, true) then return true end
    end
  end
  return false
end

local lost = {}
for at = 12, 11 + number do
  local found = look(KEYS[at])
  if forbids(found, serial) and doubtful(found) and not in_hand(found) then
    redis.call('HSET', KEYS[at], 'state', 'lost', 'at', now)
    redis.call('PEXPIRE', KEYS[at], ttl)
    event('lost', found.id, now, 'Removed')
    table.insert(lost, found.id)
  end
end
return lost
