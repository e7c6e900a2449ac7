-- KEYS[13]: differences that were accepted. ARGV: how many were before; what corrects the sum; how many counted mails should wait by
-- the counter, and how many do ('' when nobody knows); now; what is written down of it.
-- A person has seen that the sum is wrong: the audit goes on from there. Answers 'done', or 'changed' when somebody else did
-- the same, or the counter moved.
local known = redis.call('HMGET', COUNTERS, 'corrections', 'counted')
if (known[1] or '0') ~= ARGV[1] or (known[2] or '0') ~= ARGV[3] then return 'changed' end
count('corrections', 1)
count('accepted', ARGV[2])
if ARGV[4] ~= '' then redis.call('HSET', COUNTERS, 'counted', ARGV[4]) end
if redis.call('HEXISTS', COUNTERS, 'began') == 0 then redis.call('HSET', COUNTERS, 'began', ARGV[5]) end
if redis.call('LPUSH', KEYS[13], ARGV[6]) > 100 then redis.call('RPOP', KEYS[13]) end
return 'done'
