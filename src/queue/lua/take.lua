-- KEYS: 12 claims, 13 stages of the process. ARGV: process, pod, now, most bytes, claim ids.
-- Answers the time, and for each claim: claim, letter of its list, entry.
-- Takes from `arrived` first, then by weight, so that the urgent overtakes and nothing starves.
local TURNS = 'hnhlhnh'
local LISTS = {h = HIGH, n = NORMAL, l = LOW}
local LETTERS = {'h', 'n', 'l'}

-- The entry that is next, the letter of its list, and the list.
local function next_entry()
  local entry = redis.call('LINDEX', ARRIVED, -1)
  if entry then return entry, 'n', ARRIVED end
  local turn = redis.call('HINCRBY', COUNTERS, 'turn', 1) % #TURNS + 1
  local first = string.sub(TURNS, turn, turn)
  entry = redis.call('LINDEX', LISTS[first], -1)
  if entry then return entry, first, LISTS[first] end
  for _, letter in ipairs(LETTERS) do
    entry = redis.call('LINDEX', LISTS[letter], -1)
    if entry then return entry, letter, LISTS[letter] end
  end
end

local process, pod, now, most = ARGV[1], ARGV[2], clock(ARGV[3]), tonumber(ARGV[4])
local taken, bytes = {now}, 0
for at = 5, #ARGV do
  if bytes >= most then break end
  local entry, letter, list = next_entry()
  if not entry then
    count('drains', 1)
    break
  end
  if at == 5 then redis.call('HSET', PROCESSES, process, pod) end
  count('taken', 1)
  if headed(entry) then
    count('counted', -1)
    count('bytes', -#entry)
  else
    accept(now)
  end
  redis.call('HSET', KEYS[13], ARGV[at], 'taken ' .. now .. ' ' .. letter)
  redis.call('HSET', KEYS[12], ARGV[at], entry)
  redis.call('RPOP', list)
  bytes = bytes + #entry
  table.insert(taken, ARGV[at])
  table.insert(taken, letter)
  table.insert(taken, entry)
end
return taken
