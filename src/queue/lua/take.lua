-- KEYS: 12 claims, 13 stages of the process. ARGV: process, pod, now, most bytes, claim ids.
-- Takes from `arrived` first, then by weight, so that the urgent overtakes and nothing starves.
local TURNS = 'hnhlhnh'
local LISTS = {h = HIGH, n = NORMAL, l = LOW}
local LETTERS = {'h', 'n', 'l'}

local function next_entry()
  local entry = redis.call('RPOP', ARRIVED)
  if entry then return entry, 'n' end
  local turn = redis.call('HINCRBY', COUNTERS, 'turn', 1) % #TURNS + 1
  local first = string.sub(TURNS, turn, turn)
  entry = redis.call('RPOP', LISTS[first])
  if entry then return entry, first end
  for _, letter in ipairs(LETTERS) do
    entry = redis.call('RPOP', LISTS[letter])
    if entry then return entry, letter end
  end
end

local process, pod, now, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local taken, bytes = {}, 0
for at = 5, #ARGV do
  if bytes >= most then break end
  local entry, letter = next_entry()
  if not entry then break end
  redis.call('HSET', KEYS[12], ARGV[at], entry)
  redis.call('HSET', KEYS[13], ARGV[at], 'taken ' .. now .. ' ' .. letter)
  if sealed(entry) then
    count('counted', -1)
    count('bytes', -#entry)
  else
    count('accepted', 1)
  end
  bytes = bytes + #entry
  table.insert(taken, ARGV[at])
  table.insert(taken, letter)
  table.insert(taken, entry)
end
if #taken > 0 then
  count('taken', #taken / 3)
  redis.call('HSET', PROCESSES, process, pod)
end
return taken
