-- KEYS: 13 claims, 14 stages. ARGV: claim, stage, now. Compares the claim: one taken over meanwhile is lost.
-- Never back from committing: a 'sending' that comes late would make an ambiguous mail look safe to send again.
local FROM = {
  sending = {claimed = true, sending = true},
  committing = {claimed = true, sending = true, committing = true},
}
local stage = word(redis.call('HGET', KEYS[14], ARGV[1]))
if redis.call('HEXISTS', KEYS[13], ARGV[1]) == 0 or not (FROM[ARGV[2]] or {})[stage] then return 'lost' end
redis.call('HSET', KEYS[14], ARGV[1], ARGV[2] .. ' ' .. clock(ARGV[3]))
return 'done'
