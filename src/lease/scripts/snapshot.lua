
-- SNAPSHOT: the node's fence and all fields. A replica's view would not be the truth.
local fence, master = node()
if not master then return redis.error_reply('READONLY this node is a replica; ask the master') end
return {fence, redis.call('HGETALL', ledger)}
