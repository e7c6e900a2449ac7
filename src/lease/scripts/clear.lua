
-- CLEAR token id*
local token = text()
local refused = refusal(token)
if refused then return refused end
local cleared = false
for id in text do
  if redis.call('HDEL', ledger, 'q:' .. id) == 1 then
    cleared = true
    note('op', 'clear', 'id', id)
  end
end
if not cleared then return {'GONE'} end
raise()
tell('free', '-')
return {'OK'}
