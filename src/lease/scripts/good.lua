
-- GOOD n: counts mails that the server took, while its saturation is on record (KEYS[4])
local mails = text()
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HINCRBY', KEYS[4], 'good', mails) end
return {'OK'}
