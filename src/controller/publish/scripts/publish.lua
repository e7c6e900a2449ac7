-- KEYS: the record. ARGV: JSON, epoch, revision. Writes it unless a later one, or the same one, is there. What cannot be read as
-- a record, such as a key of another type, is replaced: the name is ours, and the record is made from the relay alone.
-- Answers 1 written, 0 the same, or minus the epoch of the later one. Another record of this revision, or of a later one in
-- the same epoch, is another leader's: the highest epoch was forgotten. A command of our own that comes so late has no one
-- who reads its answer.
local stored = redis.pcall('GET', KEYS[1])
if type(stored) ~= 'string' then stored = '' end
if stored == ARGV[1] then return 0 end
local read, old = pcall(cjson.decode, stored)
if read and type(old) == 'table' then
  local epoch, revision = tonumber(old.epoch) or 0, tonumber(old.revision) or 0
  if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and revision >= tonumber(ARGV[3])) then return -epoch end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[2] .. ':' .. ARGV[3])
return 1
