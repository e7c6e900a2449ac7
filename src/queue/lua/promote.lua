-- ARGV: now, cap. Due mails go to the end that is taken next, the one due first foremost, and wake blocked workers.
local tokens = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local moved = 0
for at = #tokens, 1, -1 do
  local entry = redis.call('HGET', DELAYED_MAILS, tokens[at])
  if entry then
    count('returned', 1)
    give(seal(entry, 'n'))
    moved = moved + 1
  end
  redis.call('ZREM', DELAYED, tokens[at])
  redis.call('HDEL', DELAYED_MAILS, tokens[at])
end
return moved
