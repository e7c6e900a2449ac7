-- A person's decision on a dead letter. KEYS[12..]: records. ARGV: the entry as it lies in the list, action (requeue,
-- discard), the entry to queue, now, ttl, id, serial, Message-ID.
if not redis.call('LPOS', DEAD, ARGV[1], 'RANK', -1) then return 'gone' end
local entry, now, ttl, id, serial = ARGV[3], clock(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local state = 'discarded'
if ARGV[2] == 'requeue' then
  state, ttl = 'queued', 0
  -- To the end of the line: a bulk re-drive must not hold up new mail.
  count('returned', 1)
  give(entry, 'LPUSH')
else
  count('discarded', 1)
end
redis.call('LREM', DEAD, -1, ARGV[1])
if state == 'queued' and not headed(entry) then
  -- Its next claim gives it another identity: a record of this one would make it a duplicate of itself.
  for at = 12, #KEYS do
    if look(KEYS[at]).serial == serial then redis.call('DEL', KEYS[at]) end
  end
else
  record(12, #KEYS - 11, serial, ttl, nil, 'id', id, 'state', state, 'at', now, 'messageId', ARGV[8],
    ttl == 0 and 'drains' or 'reason', ttl == 0 and drains() or 'ByHand')
end
event(state, id, now, 'ByHand')
return 'done'
