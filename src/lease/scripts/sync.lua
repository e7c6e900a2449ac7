
-- SYNC token inc uid pod process boot generation seq need want open busy hold seen n (id slots seconds why)* n account*
-- hold: for how many seconds the slots of an older process of the pod are withheld. An account is the id of an older process
-- whose every connection of this pool is proven to have ended, or is withheld by an entry of this call.
local token, inc, uid, pod, process, boot = text(), text(), text(), text(), text(), text()
local generation, seq, need, want, open, busy, hold, seen =
  number(), number(), number(), number(), number(), number(), number(), number()

local refused = refusal(token, seen)
if refused then return refused end

local head = redis.call('HMGET', ledger, 'state', 'budget', 'lease', 'e:' .. uid, 'g:' .. uid, 'h:' .. inc, 'floor')
local state, budget, share = head[1], tonumber(head[2]), tonumber(head[4] or '0')
local floor = tonumber(head[7] or '0')
local last = head[5] and tonumber(head[5]) or floor
if generation == 0 then return {'REGISTER', decimal(last)} end

local mine = head[6] and holder(head[6])
if mine then
  if seq <= mine.seq then return {'STALE'} end
  generation = mine.generation
else
  if head[5] then
    if generation < last then return {'GONE'} end
  elseif seq == 1 and generation <= floor then
    -- A first call that was late: the pod's last generation was dropped meanwhile. With a later seq, in recovery, it is a
    -- living process that re-asserts, whatever the floor is.
    return {'REGISTER', decimal(last)}
  end
  if state == 'OPEN' then
    if seq ~= 1 or need ~= 0 then return {'GONE'} end
    if generation ~= last + 1 then return {'REGISTER', decimal(last)} end
  end
end

local version = raise()
for _ = 1, number() do
  local id, slots, seconds, why = text(), number(), number(), text()
  quarantine(id, slots, seconds, why)
  note('op', 'quarantine', 'id', id, 'pod', pod, 'slots', decimal(slots), 'seconds', decimal(seconds), 'why', why)
end

local freed = false
if not mine then
  -- Older incarnations of the pod: their process is dead (R5a), which says nothing of what the server knows. Only those of
  -- this process, which accounted for all their sockets before it registered again (R3), and those that it accounts for
  -- are free.
  local accounted = {[process] = true}
  for _ = 1, number() do accounted[text()] = true end
  for name in string.gmatch(redis.call('HGET', ledger, 'i:' .. uid) or '', '%S+') do
    local older = holder(redis.call('HGET', ledger, 'h:' .. name))
    if older.generation < generation then
      local seconds = accounted[older.process] and 0 or hold
      remove(name, older, seconds, 'replaced')
      freed = freed or older.claim > 0
      note('op', 'replace', 'inc', name, 'pod', older.pod, 'claim', decimal(older.claim), 'seconds', decimal(seconds))
    end
  end
  -- What a leader withheld for them is no longer needed, unless it came over from another ledger: their connections
  -- of that one are not accounted for here.
  local needless = {}
  for id in string.gmatch(withheld, '%S+') do
    local former = string.match(id, '^([^.]+)%.%d+%.%d+$')
    if former and accounted[former] and string.match(redis.call('HGET', ledger, 'q:' .. id), '%S+$') ~= 'carried' then
      needless[#needless + 1] = id
      note('op', 'accounted', 'id', id, 'pod', pod)
    end
  end
  if #needless > 0 then
    release(needless)
    freed = true
  end
  if not head[5] or generation > last then redis.call('HSET', ledger, 'g:' .. uid, decimal(generation)) end
end

local before = mine and mine.claim or 0
claimed = claimed - before
local others = claimed
local answer = {'OK', '', '', decimal(share), state, head[3], decimal(version)}
for id in string.gmatch(withheld, '%S+') do
  local slots, seconds, why = string.match(redis.call('HGET', ledger, 'q:' .. id), '^(%d+) (%d+) (%S+)$')
  others = others + tonumber(slots)
  answer[#answer + 1] = id
  answer[#answer + 1] = slots
  answer[#answer + 1] = seconds
  answer[#answer + 1] = why
end

local claim, limit = need, need
if state == 'OPEN' then
  local available = math.max(budget - others, 0)
  claim = math.max(need, math.min(want, share, available))
  limit = math.min(claim, share, available)
end
redis.call('HSET', ledger, 'h:' .. inc, table.concat({
  decimal(claim), decimal(generation), decimal(seq), decimal(limit), decimal(want), decimal(open), decimal(busy),
  uid, pod, process, boot,
}, ' '))
if not mine or mine.uid ~= uid then
  if mine then replace_incs(mine.uid, {[inc] = true}) end
  replace_incs(uid, {}, inc)
end
claimed = claimed + claim
keep_totals(version)

if not mine or before ~= claim then
  note('op', mine and 'claim' or 'register', 'inc', inc, 'pod', pod, 'before', decimal(before), 'claim', decimal(claim),
    'limit', decimal(limit))
end
if state == 'OPEN' then
  -- Others may take what was given up; or give up what is missing here, told once each time it begins to be missing.
  local was_short = mine and math.min(mine.want, share) > mine.claim
  if freed or claim < before then
    tell('free', inc)
  elseif math.min(want, share) > claim and not was_short then
    tell('short', inc)
  end
end
answer[2], answer[3] = decimal(claim), decimal(limit)
return answer
