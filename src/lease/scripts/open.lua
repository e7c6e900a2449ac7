
-- OPEN epoch token n (inc id slots seconds why)*
local epoch, token = number(), text()
local refused = refusal(token)
if refused then return refused end
local stored = redis.call('HMGET', ledger, 'epoch', 'state')
if tonumber(stored[1]) > epoch then
  note('op', 'refused', 'what', 'open', 'epoch', decimal(epoch), 'later', stored[1])
  return {'OLD', stored[1]}
end
if stored[2] == 'OPEN' then return {'ALREADY'} end
-- First what is withheld: a script that fails half-way undoes nothing, and must not leave an open ledger behind.
local version = raise()
for _ = 1, number() do
  local inc, id, slots, seconds, why = text(), text(), number(), number(), text()
  if inc == '-' or redis.call('HEXISTS', ledger, 'h:' .. inc) == 0 then
    quarantine(id, slots, seconds, why)
    note('op', 'missing', 'inc', inc, 'id', id, 'slots', decimal(slots), 'seconds', decimal(seconds), 'why', why)
  end
end
redis.call('HSET', ledger, 'state', 'OPEN')
keep_totals(version)
note('op', 'open', 'epoch', decimal(epoch), 'token', token)
tell('open', '-')
return {'OK'}
