
-- INIT fence token epoch revision budget lease n (uid share)* n (id slots seconds why)* [version [servers]]
-- The version leaps, and begins with the epoch: workers that were answered after the leader's last look at a ledger that is
-- lost saw more than it did, and a new leader saw nothing. When that is not enough one of them condemns this ledger too, and
-- the next one is above what it saw.
local LEAP = 4294967296
local wanted, token, epoch, revision, budget, lease = text(), text(), number(), text(), text(), text()
local fence, master = node()
if not master then return {'WAIT', 'replica'} end
if fence ~= wanted then return {'WAIT', 'fence'} end
local stored = redis.call('HMGET', ledger, 'fence', 'epoch', 'token', 'state', 'version', 'floor', 'schema')
if is_newer(stored[7]) then return {'WAIT', 'schema'} end
if stored[2] and tonumber(stored[2]) > epoch then
  note('op', 'refused', 'what', 'init', 'epoch', decimal(epoch), 'later', stored[2])
end
if stored[1] == fence then return {'EXISTS', stored[2], stored[3], stored[4]} end
if stored[2] and tonumber(stored[2]) > epoch then return {'OLD', stored[2]} end
local floor = tonumber(stored[6] or '0')
local flat = redis.call('HGETALL', ledger)
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 2) == 'g:' then floor = math.max(floor, tonumber(flat[i + 1])) end
end
redis.call('DEL', ledger, twin)
redis.call('HSET', ledger, 'schema', decimal(SCHEMA), 'fence', fence, 'token', token, 'state', 'REC', 'epoch', decimal(epoch),
  'revision', revision, 'budget', budget, 'lease', lease, 'floor', decimal(floor))
replace_shares()
claimed, withheld = 0, ''
for _ = 1, number() do
  local id, slots, seconds, why = text(), number(), number(), text()
  quarantine(id, slots, seconds, why)
end
local version = math.max(tonumber(stored[5] or '0'), tonumber(text() or '0'), epoch * LEAP) + LEAP
redis.call('HSET', ledger, 'version', decimal(version))
write_twin(version)
replace_servers(text())
keep_totals(version)
note('op', 'init', 'epoch', decimal(epoch), 'token', token, 'budget', budget)
tell('init', '-')
return {'OK'}
