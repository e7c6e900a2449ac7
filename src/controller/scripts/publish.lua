-- KEYS: the record. ARGV: JSON, epoch, revision. Writes it unless a later one, or the same one, is there.
-- Answers 1 written, 0 the same, or minus the later epoch.
local stored = redis.call('GET', KEYS[1])
if stored == ARGV[1] then return 0 end
local read, old = pcall(cjson.decode, stored or '')
if read and type(old) == 'table' then
  local epoch, revision = tonumber(old.epoch) or 0, tonumber(old.revision) or 0
  if epoch > tonumber(ARGV[2]) then return -epoch end
  if epoch == tonumber(ARGV[2]) and revision > tonumber(ARGV[3]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[2] .. ':' .. ARGV[3])
return 1
