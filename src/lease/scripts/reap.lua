
-- REAP token inc seq seconds why; seq is `dead` when the process is proven dead (REAP_DEAD)
local token, inc, seq, seconds, why = text(), text(), text(), number(), text()
local refused = refusal(token)
if refused then return refused end
local stored = redis.call('HGET', ledger, 'h:' .. inc)
if not stored then return {'GONE'} end
local record = holder(stored)
if seq ~= 'dead' and tonumber(seq) ~= record.seq then return {'STALE'} end
local version = raise()
remove(inc, record, seconds, why)
keep_totals(version)
note('op', 'reap', 'inc', inc, 'pod', record.pod, 'claim', decimal(record.claim), 'seconds', decimal(seconds), 'why', why)
tell('free', inc)
return {'OK', decimal(record.claim)}
