-- KEYS: 12 claims, 13 stages, then the records of each claim in turn. ARGV: now, ttl of final records, and for each
-- claim: claim, action, header ('' keeps the entry), id, serial, Message-ID, due, reason, dead letter, number of records.
-- Answers one word for each claim: kept, delayed, dead, expired, duplicate, delivered, gone.
local CLAIMS, STAGES, now, ttl = KEYS[12], KEYS[13], ARGV[1], tonumber(ARGV[2])
local answers, first = {}, 14
for at = 3, #ARGV, 10 do
  local claim, action, header, id, serial = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local message_id, due, reason, letter, number = ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8], tonumber(ARGV[at + 9])
  local entry = redis.call('HGET', CLAIMS, claim)
  local stage = word(redis.call('HGET', STAGES, claim))
  local other
  if action == 'kept' or action == 'delayed' then
    for key = first, first + number - 1 do other = other or owner(KEYS[key], serial) end
  end
  -- A late settlement reached this mail's record after the mail had gone back to the queue: the server has it.
  local own = number > 0 and redis.call('HMGET', KEYS[first], 'serial', 'state', 'late') or {}
  local late = own[1] == serial and own[2] == 'delivered'
  if not entry or (stage ~= 'taken' and stage ~= 'claimed') then
    action = 'gone'
  elseif action == 'kept' and not other and not late then
    if header ~= '' then redis.call('HSET', CLAIMS, claim, header .. payload(entry)) end
    redis.call('HSET', STAGES, claim, 'claimed ' .. now)
    record(first, number, serial, 0, 'id', id, 'state', 'claimed', 'at', now, 'messageId', message_id)
  else
    if late and own[3] then
      action = 'delivered'
      count('delivered', 1)
    elseif other or late then
      action = 'duplicate'
      count('duplicates', 1)
    elseif action == 'delayed' then
      delay(claim, due, header == '' and entry or header .. payload(entry))
    elseif action == 'dead' then
      redis.call('LPUSH', DEAD, letter)
    else
      count('expired', 1)
    end
    redis.call('HDEL', CLAIMS, claim)
    redis.call('HDEL', STAGES, claim)
    if action == 'duplicate' then
      event(action, id, now, other or id)
    elseif action == 'delayed' then
      record(first, number, serial, 0, 'id', id, 'state', action, 'at', now, 'due', due, 'messageId', message_id)
    elseif action ~= 'delivered' then
      record(first, number, serial, ttl, 'id', id, 'state', action, 'at', now, 'reason', reason)
      event(action, id, now, reason)
    end
  end
  table.insert(answers, action)
  first = first + number
end
return answers
