-- A person's decision on a dead letter. KEYS[12..]: records. ARGV: the entry as it lies in the list, action (requeue,
-- discard), the entry to queue, now, ttl, id, serial, Message-ID.
if redis.call('LREM', DEAD, -1, ARGV[1]) == 0 then return 'gone' end
local state, ttl = 'discarded', tonumber(ARGV[5])
if ARGV[2] == 'requeue' then
  state, ttl = 'queued', 0
  -- To the end of the line: a bulk re-drive must not hold up new mail.
  give(ARGV[3], 'LPUSH')
  count('returned', 1)
else
  count('discarded', 1)
end
record(12, #KEYS - 11, ARGV[7], ttl, 'id', ARGV[6], 'state', state, 'at', ARGV[4], 'messageId', ARGV[8])
event(state, ARGV[6], ARGV[4], 'ByHand')
return 'done'
