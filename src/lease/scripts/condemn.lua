
-- CONDEMN version: the leader has seen this version, so a ledger below it is an older copy
local version = number()
local refused = refusal(nil, version)
if refused then return refused end
return {'OK'}
