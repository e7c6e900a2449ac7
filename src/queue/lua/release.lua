-- A person's decision on a held mail. KEYS[12..]: records. ARGV: claim, action (release, discard), now, ttl, id, serial,
-- Message-ID.
local parked = redis.call('HGET', HELD, ARGV[1])
if not parked then return 'gone' end
local state, ttl = 'discarded', tonumber(ARGV[4])
if ARGV[2] == 'release' then
  state, ttl = 'queued', 0
  count('returned', 1)
  give(seal(string.sub(parked, (string.find(parked, '\n', 1, true) or #parked) + 1), 'n'))
else
  count('discarded', 1)
end
redis.call('HDEL', HELD, ARGV[1])
record(12, #KEYS - 11, ARGV[6], ttl, 'id', ARGV[5], 'state', state, 'at', ARGV[3], 'messageId', ARGV[7])
event(state, ARGV[5], ARGV[3], 'ByHand')
return 'done'
