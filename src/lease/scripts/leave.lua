
-- LEAVE token inc seq
local token, inc, seq = text(), text(), number()
local refused = refusal(token)
if refused then return refused end
local stored = redis.call('HGET', ledger, 'h:' .. inc)
if not stored then return {'GONE'} end
local record = holder(stored)
if seq <= record.seq then return {'STALE'} end
local version = raise()
remove(inc, record, 0, 'left')
keep_totals(version)
note('op', 'leave', 'inc', inc, 'pod', record.pod, 'claim', decimal(record.claim))
tell('free', inc)
return {'OK'}
