
-- DISCARD token epoch revision [carried]: the pool is used no more. carried is 1 when what is withheld here is withheld in
-- another ledger of the same server.
local token, epoch, revision, carried = text(), text(), text(), text()
local refused = refusal(token)
if refused then return refused end
local stored = redis.call('HMGET', ledger, 'epoch', 'revision')
if stored[1] ~= epoch or stored[2] ~= revision then return {'STALE'} end
for _, field in ipairs(redis.call('HKEYS', ledger)) do
  local kind = string.sub(field, 1, 2)
  if kind == 'h:' or kind == 'e:' or (kind == 'q:' and carried ~= '1') then return {'STALE'} end
end
redis.call('DEL', ledger, log, twin)
return {'OK'}
