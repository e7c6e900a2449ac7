
-- INIT fence token epoch revision budget lease n (uid share)* n (id slots seconds why)*
local wanted, token, epoch, revision, budget, lease = text(), text(), number(), text(), text(), text()
local fence, master = node()
if not master then return {'WAIT', 'replica'} end
if fence ~= wanted then return {'WAIT', 'fence'} end
local stored = redis.call('HMGET', ledger, 'fence', 'epoch', 'token', 'state')
if stored[2] and tonumber(stored[2]) > epoch then
  note('op', 'refused', 'what', 'init', 'epoch', decimal(epoch), 'later', stored[2])
end
if stored[1] == fence then return {'EXISTS', stored[2], stored[3], stored[4]} end
if stored[2] and tonumber(stored[2]) > epoch then return {'OLD', stored[2]} end
redis.call('DEL', ledger)
redis.call('HSET', ledger, 'fence', fence, 'token', token, 'state', 'REC', 'epoch', decimal(epoch),
  'revision', revision, 'budget', budget, 'lease', lease)
replace_shares()
for _ = 1, number() do
  local id, slots, seconds, why = text(), number(), number(), text()
  quarantine(id, slots, seconds, why)
end
note('op', 'init', 'epoch', decimal(epoch), 'token', token, 'budget', budget)
tell('init', '-')
return {'OK'}
