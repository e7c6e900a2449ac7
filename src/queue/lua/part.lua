-- KEYS: 13 a hash of entries. ARGV: field, and which bytes of its entry are wanted: from, to. Nothing when it is not there.
local entry = redis.call('HGET', KEYS[13], ARGV[1])
return entry and string.sub(entry, ARGV[2], ARGV[3])
