-- KEYS: 13 a hash of entries. ARGV: cursor, after how many bytes to stop, how many lines of each entry are wanted, and
-- perhaps fields: then of these alone.
-- Answers the next cursor ('0' at the end), and for each entry its field, its length, and its first lines. Headers lie there;
-- whoever decides about a hundred large mails must not hold them.
local cursor, seen, answers = ARGV[1], 0, {}
local function first_lines(entry)
  local at = 0
  for _ = 1, tonumber(ARGV[3]) do
    at = string.find(entry, '\n', at + 1, true)
    if not at then return string.sub(entry, 1, 4096) end
  end
  return string.sub(entry, 1, at)
end
local function tell(field, entry)
  seen = seen + #entry
  table.insert(answers, field)
  table.insert(answers, string.format('%.0f', #entry))
  table.insert(answers, first_lines(entry))
end
if #ARGV > 3 then
  for at = 4, #ARGV do
    local entry = redis.call('HGET', KEYS[13], ARGV[at])
    if entry then tell(ARGV[at], entry) end
  end
else
  repeat
    local page = redis.call('HSCAN', KEYS[13], cursor, 'COUNT', 4)
    cursor = page[1]
    for at = 1, #page[2], 2 do tell(page[2][at], page[2][at + 1]) end
  until cursor == '0' or seen >= tonumber(ARGV[2])
end
table.insert(answers, 1, cursor)
return answers
