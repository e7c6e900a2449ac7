-- KEYS: the record. ARGV: epoch. Removes it, or what else is there under its name, unless a later leader wrote it. Answers 1,
-- or minus the later epoch.
local stored = redis.pcall('GET', KEYS[1])
local read, old = pcall(cjson.decode, type(stored) == 'string' and stored or '')
if read and type(old) == 'table' and (tonumber(old.epoch) or 0) > tonumber(ARGV[1]) then return -old.epoch end
if redis.call('DEL', KEYS[1]) == 1 then redis.call('PUBLISH', KEYS[1], ARGV[1] .. ':gone') end
return 1
