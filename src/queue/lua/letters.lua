-- ARGV: the place of the first dead letter to look at, from the end of the list (-1 is the oldest); how many at most; after
-- how many bytes to stop; up to which length an entry is given whole; and of a letter that was seen before, or '' for none,
-- its place, its length and how it begins.
-- Answers 'moved' when that one lies there no more. Otherwise an empty word, and for each letter, towards the newest: its
-- length, and the entry, or only what comes before its payload: Redis and whoever asks must not hold a hundred large mails
-- to list them.
local place, left, most, answers = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), {''}
if ARGV[5] ~= '' then
  local mark = redis.call('LINDEX', DEAD, ARGV[5])
  if not mark or #mark ~= tonumber(ARGV[6]) or string.sub(mark, 1, #ARGV[7]) ~= ARGV[7] then return {'moved'} end
end
local function before_payload(entry)
  -- No text holds this: quotes are escaped in it.
  local at = string.find(entry, ',"payload', 1, true)
  if at and string.sub(entry, at, at + 12) == ',"payloadKey"' then at = string.find(entry, ',"payload', at + 1, true) end
  return string.sub(entry, 1, at and at - 1 or 4096)
end
-- Redis walks to the place each time, so short entries are read some at once; a long one is in memory alone.
local SHORT, SOME = 4096, 8
local seen, some = 0, 1
while left > 0 and seen < most do
  local found, bytes = redis.call('LRANGE', DEAD, place - some + 1, place), 0
  for at = #found, 1, -1 do
    local entry = found[at]
    bytes = bytes + #entry
    table.insert(answers, string.format('%.0f', #entry))
    table.insert(answers, #entry <= tonumber(ARGV[4]) and entry or before_payload(entry))
  end
  if #found < some then break end
  seen, place, left = seen + bytes, place - some, left - some
  some = math.max(1, math.min(bytes <= SHORT * some and 2 * some or 1, SOME, left))
end
return answers
