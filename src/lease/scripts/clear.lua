
-- CLEAR token id
local token, id = text(), text()
local refused = refusal(token)
if refused then return refused end
if redis.call('HDEL', ledger, 'q:' .. id) == 0 then return {'GONE'} end
note('op', 'clear', 'id', id)
tell('free', '-')
return {'OK'}
