-- KEYS: 12 claims, 13 stages, 14.. records (the mail's own first). ARGV: claim, operation, action, now, header, wait,
-- dead letter or what is known of a held mail, serial, id, Message-ID, reason, reply, ttl of final records, addresses that
-- have it since this try.
local CLAIMS, STAGES, claim, operation, action, now = KEYS[12], KEYS[13], ARGV[1], ARGV[2], ARGV[3], clock(ARGV[4])
local header, wait, extra, serial, id, message_id = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local reason, reply, ttl, has, answer = ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14], 'done'
local due = action == 'delayed' and after(now, wait) or ''

local entry = redis.call('HGET', CLAIMS, claim)
local function leave()
  redis.call('HDEL', CLAIMS, claim)
  redis.call('HDEL', STAGES, claim)
end
if not entry then
  local known = redis.call('HMGET', KEYS[14], 'operation', 'serial', 'state')
  if known[1] == operation then return 'repeated' end
  local parked = redis.call('HGET', HELD, claim)
  if parked then
    -- Recovered as an unknown outcome, and still nobody's: the truth wins.
    if action == 'held' then return 'repeated' end
    leave = function() redis.call('HDEL', HELD, claim) end
    entry = string.sub(parked, (string.find(parked, '\n', 1, true) or #parked) + 1)
  elseif known[2] == serial and known[3] == 'resend' and redis.call('ZSCORE', DELAYED, claim) then
    entry = redis.call('HGET', DELAYED_MAILS, claim)
    -- Put off again, it stays in its place with a new time.
    leave = function()
      if action ~= 'delayed' then
        redis.call('ZREM', DELAYED, claim)
        redis.call('HDEL', DELAYED_MAILS, claim)
      end
    end
  elseif known[2] == serial and known[3] == 'resend' and action == 'delivered' then
    -- It already lies in a list to be sent again: leave word for the claim that finds it there.
    record(14, #KEYS - 13, serial, ttl, has, 'id', id, 'state', action, 'at', now, 'messageId', message_id, 'operation',
      operation, 'late', '1', 'reply', reply)
    event(action, id, now, reason, reply, message_id)
    return 'late'
  else
    return 'lost'
  end
  answer = 'late'
end

if action == 'delivered' then
  count('delivered', 1)
elseif action == 'delayed' then
  count('tries.' .. reason, 1)
  delay(claim, due, header .. payload(entry))
elseif action == 'dead' then
  redis.call('LPUSH', DEAD, extra)
else
  redis.call('HSET', HELD, claim, extra .. '\n' .. header .. payload(entry))
end
leave()
local parks = action ~= 'delivered' and action ~= 'dead'
if parks then ttl = 0 end
record(14, #KEYS - 13, serial, ttl, has, 'id', id, 'state', action, 'at', now, 'messageId', message_id, 'operation', operation,
  'due', due, 'reason', reason, 'reply', reply, parks and 'claim' or 'state', parks and claim or action)
event(action, id, now, reason, reply, message_id)
return answer
