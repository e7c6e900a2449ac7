
-- GOOD n: counts mails that the server took, while its saturation is on record (KEYS[3])
local mails = text()
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HINCRBY', KEYS[3], 'good', mails) end
return {'OK'}
