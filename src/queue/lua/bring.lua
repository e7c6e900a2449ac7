-- KEYS: 13 where the parts of a dead letter come together. ARGV: from which byte on this one lies, the part, how long all of
-- it is kept, in milliseconds. Repeating it changes nothing.
redis.call('SETRANGE', KEYS[13], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[13], ARGV[3])
