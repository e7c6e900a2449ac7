-- A person's decision on a dead letter. KEYS[12..]: records. ARGV: the entry as it lies in the list, action (requeue,
-- discard), the entry to queue, now, ttl, id, serial, Message-ID.
if not redis.call('LPOS', DEAD, ARGV[1], 'RANK', -1) then return 'gone' end
local state, ttl = 'discarded', tonumber(ARGV[5])
if ARGV[2] == 'requeue' then
  state, ttl = 'queued', 0
  -- To the end of the line: a bulk re-drive must not hold up new mail.
  count('returned', 1)
  give(ARGV[3], 'LPUSH')
else
  count('discarded', 1)
end
redis.call('LREM', DEAD, -1, ARGV[1])
record(12, #KEYS - 11, ARGV[7], ttl, 'id', ARGV[6], 'state', state, 'at', ARGV[4], 'messageId', ARGV[8])
event(state, ARGV[6], ARGV[4], 'ByHand')
return 'done'
