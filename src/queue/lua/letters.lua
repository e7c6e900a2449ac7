-- ARGV: the place of the first dead letter to look at, from the end of the list (-1 is the oldest); how many at most; after
-- how many bytes to stop; up to which length an entry is given whole.
-- Answers for each, towards the newest: its length, and the entry, or only what comes before its payload: Redis and whoever
-- asks must not hold a hundred large mails to list them.
local place, seen, answers = tonumber(ARGV[1]), 0, {}
local function before_payload(entry)
  -- No text holds this: quotes are escaped in it.
  local at = string.find(entry, ',"payload', 1, true)
  if at and string.sub(entry, at, at + 12) == ',"payloadKey"' then at = string.find(entry, ',"payload', at + 1, true) end
  return string.sub(entry, 1, at and at - 1 or 4096)
end
for _ = 1, tonumber(ARGV[2]) do
  local entry = seen < tonumber(ARGV[3]) and redis.call('LINDEX', DEAD, place)
  if not entry then break end
  seen, place = seen + #entry, place - 1
  table.insert(answers, string.format('%.0f', #entry))
  table.insert(answers, #entry <= tonumber(ARGV[4]) and entry or before_payload(entry))
end
return answers
