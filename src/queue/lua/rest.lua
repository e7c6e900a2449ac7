-- KEYS: 13 claims, 14 stages of the process. ARGV: process. Takes the name of a process that has no claim out of the queue, so that
-- nobody looks after it. The number of its last take stays for a while, should it take again. Answers whether it has none.
if redis.call('HLEN', KEYS[13]) > 0 then return 0 end
redis.call('HDEL', PROCESSES, ARGV[1])
redis.call('PEXPIRE', KEYS[14], DAY)
return 1
