
-- POLICY epoch revision budget lease n (uid share)* [servers]
local epoch, revision, budget, lease = number(), number(), text(), text()
local refused = refusal(nil)
if refused then return refused end
local stored = redis.call('HMGET', ledger, 'epoch', 'revision', 'budget', 'lease')
local old_epoch, old_revision = tonumber(stored[1]), tonumber(stored[2])
if epoch < old_epoch or (epoch == old_epoch and revision < old_revision) then
  note('op', 'refused', 'what', 'policy', 'epoch', decimal(epoch), 'later', stored[1])
  return {'OLD', stored[1], stored[2]}
end
-- All is read here anyway, so the totals are counted anew whatever they say.
local flat = recount()
local version = raise()
redis.call('HSET', ledger, 'epoch', decimal(epoch), 'revision', decimal(revision), 'budget', budget, 'lease', lease)
local changed, shares = replace_shares()
changed = replace_servers(text()) or changed
-- The last generation of a pod is kept while the pod has a share or a holder. One that is dropped raises the floor: a
-- registration that was sent before and comes after must not pass for the next one of the pod.
local floor = tonumber(redis.call('HGET', ledger, 'floor') or '0')
for i = 1, #flat, 2 do
  local kind, uid = string.sub(flat[i], 1, 2), string.sub(flat[i], 3)
  if kind == 'g:' and not shares[uid] and redis.call('HEXISTS', ledger, 'i:' .. uid) == 0 then
    redis.call('HDEL', ledger, flat[i])
    floor = math.max(floor, tonumber(flat[i + 1]))
  end
end
redis.call('HSET', ledger, 'floor', decimal(floor))
keep_totals(version)
if changed or stored[3] ~= budget or stored[4] ~= lease then
  note('op', 'policy', 'epoch', decimal(epoch), 'revision', decimal(revision), 'budget', budget)
  tell('policy', '-')
end
return {'OK'}
