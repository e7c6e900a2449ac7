-- KEYS: 13 claims, 14 stages, 15.. buckets of the records, then where a dead letter lies that is long. ARGV: claim, operation, action, now, header, wait, dead letter or
-- what is known of a held mail, serial, id, reason, reply, addresses that have it since this try, names of the
-- records, Message-ID.
local CLAIMS, STAGES, claim, operation, action, now = KEYS[13], KEYS[14], ARGV[1], ARGV[2], ARGV[3], clock(ARGV[4])
local header, wait, extra, serial, id, reason = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local reply, has, records, message_id, answer = ARGV[11], ARGV[12], look_all(15, ARGV[13]), ARGV[14], 'done'
local parks = action ~= 'delivered' and action ~= 'dead'
local due = action == 'delayed' and after(now, wait) or ''

local entry = redis.call('HGET', CLAIMS, claim)
-- One that was only taken was sent by nobody: a take that came again put another mail under the id of a claim that had ended.
if entry and word(redis.call('HGET', STAGES, claim)) == 'taken' then entry = nil end
local function leave()
  redis.call('HDEL', CLAIMS, claim)
  redis.call('HDEL', STAGES, claim)
end
if not entry then
  local own = records[1]
  local known = own.serial == serial and own.state
  local mark = parks and claim or string.sub(operation, 1, 8)
  local shape = parks and LETTER[action] or '[dxl]'
  if known and string.find(known, shape) and string.sub(own.rest, 1, #mark) == mark then return 'repeated' end
  local parked = redis.call('HGET', HELD, claim)
  local told = parked and string.sub(parked, 1, string.find(parked, '\n', 1, true) or #parked)
  -- What was only taken under this claim, when the take came again, is another mail.
  if told and string.find(told, '"serial":"' .. serial, 1, true) then
    -- Recovered as an unknown outcome, and still nobody's: the truth wins.
    if action == 'held' then return 'repeated' end
    leave = function() redis.call('HDEL', HELD, claim) end
    entry = string.sub(parked, (string.find(parked, '\n', 1, true) or #parked) + 1)
  elseif known == LETTER.resend and redis.call('ZSCORE', DELAYED, claim) then
    entry = redis.call('HGET', DELAYED_MAILS, claim)
    -- Put off again, it stays in its place with a new time.
    leave = function()
      if action ~= 'delayed' then no_longer_delayed(claim) end
    end
  elseif known == LETTER.resend and action == 'delivered' then
    -- It already lies in a list to be sent again: leave word for the claim that finds it there.
    record(records, serial, 'late', '', has, ending(operation, ''), id)
    event(action, id, now, reason, reply, message_id)
    return 'late'
  else
    return 'lost'
  end
  answer = 'late'
end

local parts = KEYS[15 + #records]
if action == 'dead' and not is_here(extra, parts) then return 'missing' end
if action == 'delivered' then
  count('delivered', 1)
elseif action == 'delayed' then
  count('tries.' .. reason, 1)
  delay(claim, due, header .. payload(entry))
elseif action == 'dead' then
  bury(extra, parts)
else
  redis.call('HSET', HELD, claim, extra .. '\n' .. header .. payload(entry))
end
leave()
record(records, serial, action, '', has, parks and claim or ending(operation, reason), id, due)
event(action, id, now, reason, reply, message_id)
return answer
