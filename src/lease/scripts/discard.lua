
-- DISCARD token epoch revision: the pool is used no more
local token, epoch, revision = text(), text(), text()
local refused = refusal(token)
if refused then return refused end
local stored = redis.call('HMGET', ledger, 'epoch', 'revision')
if stored[1] ~= epoch or stored[2] ~= revision then return {'STALE'} end
for _, field in ipairs(redis.call('HKEYS', ledger)) do
  local kind = string.sub(field, 1, 2)
  if kind == 'h:' or kind == 'q:' or kind == 'e:' then return {'STALE'} end
end
redis.call('DEL', ledger, log)
return {'OK'}
