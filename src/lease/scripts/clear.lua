
-- CLEAR token id*
local token = text()
local refused = refusal(token)
if refused then return refused end
local there = {}
for id in text do
  if redis.call('HEXISTS', ledger, 'q:' .. id) == 1 then there[#there + 1] = id end
end
if #there == 0 then return {'GONE'} end
local version = raise()
release(there)
keep_totals(version)
for _, id in ipairs(there) do note('op', 'clear', 'id', id) end
tell('free', '-')
return {'OK'}
