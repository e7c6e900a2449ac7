-- A person's decision on a held mail. KEYS[12..]: records. ARGV: claim, action (release, discard), now, ttl, id, serial,
-- Message-ID, the stage it was at: a header that was only taken was not checked, so its records must be its own already.
local parked = redis.call('HGET', HELD, ARGV[1])
if not parked then return 'gone' end
local trusted = #KEYS > 11 and (ARGV[8] ~= 'taken' or look(KEYS[12]).serial == ARGV[6])
local now, state, ttl, has = clock(ARGV[3]), 'discarded', tonumber(ARGV[4]), '*'
if ARGV[2] == 'release' then
  state, ttl, has = 'queued', 0, nil
  count('returned', 1)
  give(seal(string.sub(parked, (string.find(parked, '\n', 1, true) or #parked) + 1), 'n'))
  if not trusted then gave_silently() end
else
  -- Whoever discards it says that it was delivered: a repeat is for nobody.
  count('discarded', 1)
end
redis.call('HDEL', HELD, ARGV[1])
if trusted then
  record(12, #KEYS - 11, ARGV[6], ttl, has, 'id', ARGV[5], 'state', state, 'at', now, 'messageId', ARGV[7],
    ttl == 0 and 'drains' or 'reason', ttl == 0 and drains() or 'ByHand')
end
event(state, ARGV[5], now, 'ByHand', nil, trusted and ARGV[7])
return 'done'
