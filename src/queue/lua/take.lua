-- KEYS: 13 claims, 14 stages of the process. ARGV: process, pod, now, most bytes (and, after a space, how many the first
-- entry may have all the same), number of this take, claim ids.
-- Takes from `arrived` first, then by weight, so that the urgent overtakes and nothing starves. A long entry is taken alone,
-- so that the others do not wait until it is read.
-- Answers the time, and for each claim: its id, letter of its list, length, and the entry, or nothing when it is too long to
-- come along. One word more is the length of an entry that was left, since the first may not be so long.
-- Numbers of a process's takes grow, each as long as any other, and the last one lies beside the stages. One that is not
-- greater was run before, or a later one overtook it: it takes nothing more, since its claims may have ended by now and nobody
-- would know of the mail, and answers what was taken under its ids and not looked at yet.
local LONG, ANSWER = 64 * 1024, 128 * 1024
local PLACES = 5
local LAST, FIRST_CLAIM = 'last', 6
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

-- The same for an entry of at most so many bytes, since the one that is next is too long; and its place when that is not the
-- end. Mail that came to those who wait lies in one list, so a few places of it are looked at.
local function fitting_entry(length)
  for place = -2, -PLACES, -1 do
    local entry = redis.call('LINDEX', ARRIVED, place)
    if not entry then break end
    if #entry <= length then return entry, 'n', ARRIVED, place end
  end
  for _, letter in ipairs(LETTERS) do
    local entry = redis.call('LINDEX', LISTS[letter], -1)
    if entry and #entry <= length then return entry, letter, LISTS[letter] end
  end
end

local function remove(list, place)
  if place then
    redis.call('LSET', list, place, '')
    redis.call('LREM', list, -1, '')
  else
    redis.call('RPOP', list)
  end
end

local process, pod, now = ARGV[1], ARGV[2], clock(ARGV[3])
local most, of_first = string.match(ARGV[4], '^(%d+) ?(%d*)$')
most, of_first = tonumber(most), tonumber(of_first) or math.huge
local taken, bytes, left = {now}, 0, nil
local function answer(claim, letter, entry)
  table.insert(taken, claim)
  table.insert(taken, letter)
  table.insert(taken, string.format('%.0f', #entry))
  table.insert(taken, #entry > LONG and '' or entry)
end

local number, last = ARGV[5], redis.call('HGET', KEYS[14], LAST)
if last and number <= last then
  for place, mark in ipairs(redis.call('HMGET', KEYS[14], unpack(ARGV, FIRST_CLAIM))) do
    local claim, letter = ARGV[FIRST_CLAIM + place - 1], string.match(mark or '', '^taken %d+ ([hnl])$')
    local entry = letter and redis.call('HGET', KEYS[13], claim)
    if entry then answer(claim, letter, entry) end
  end
  return taken
end
-- Also when nothing waits: whoever heard so must not get something later.
if redis.call('HSET', PROCESSES, process, pod) == 1 then redis.call('PERSIST', KEYS[14]) end
redis.call('HSET', KEYS[14], LAST, number)

for at = FIRST_CLAIM, #ARGV do
  local entry, letter, list, place = next_entry()
  if not entry then
    count('drains', 1)
    break
  end
  if at == FIRST_CLAIM and #entry > of_first then
    left = #entry
    entry, letter, list, place = fitting_entry(of_first)
    if not entry then break end
  end
  if at > FIRST_CLAIM and (#entry > LONG or bytes + #entry > math.min(most, ANSWER)) then break end
  count('taken', 1)
  if headed(entry) then
    count('counted', -1)
    count('bytes', -#entry)
  else
    accept(now)
  end
  redis.call('HSET', KEYS[14], ARGV[at], 'taken ' .. now .. ' ' .. letter)
  redis.call('HSET', KEYS[13], ARGV[at], entry)
  remove(list, place)
  bytes = bytes + #entry
  answer(ARGV[at], letter, entry)
  if #entry > LONG then break end
end
if left then table.insert(taken, string.format('%.0f', left)) end
return taken
