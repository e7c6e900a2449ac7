-- Shared by all scripts of the ledger; the header line with the flags and the operation itself are added around it.
-- KEYS[1] is the ledger (a HASH), KEYS[2] the log (a capped stream), KEYS[3] the twin, ARGV[1] the events channel.
-- Fields: schema (absent: 1), fence, token, state (REC or OPEN), epoch, revision, budget, lease (milliseconds), version, floor, servers,
--   twinned (1 when the ledger is of no force without its twin);
--   h:<inc>    = claim gen seq limit want open busy pod_uid namespace/pod process boot    (one space between)
--   e:<podUID> = share          g:<podUID> = last generation          q:<id> = slots seconds why
-- The totals, so that SYNC need not read all holders:
--   claimed = the sum of all claims    withheld = the ids of all q:    i:<podUID> = the <inc> of each of its h:
--   counted = the version at which they were written. When the ledger has another one they are out of date: an older release,
--   which does not know them, has changed it, or a script failed half-way. Whoever changes it next counts anew.
-- version rises with each change and never falls, so that whoever heard a higher one knows the ledger for an older copy.
-- floor is the highest of the last generations that were dropped. servers are words with a space between.
-- All numbers are decimal integers below 2^53. Answers are lists of strings; the first says what happened. Arguments that
-- came later are at the end and may be missing.

-- The newest schema that is known here. A ledger of a newer one is left as it is, since what it says is not known.
local SCHEMA = 1

local ledger, log, channel = KEYS[1], KEYS[2], ARGV[1]
-- A caller of the first release names two keys; the twin lies beside the ledger.
local twin = KEYS[3] or string.gsub(ledger, ':ledger$', '') .. ':twin'

-- The totals as they are now; nil when they are out of date.
local claimed, withheld

local cursor = 1
local function text()
  cursor = cursor + 1
  return ARGV[cursor]
end
local function number()
  return tonumber(text())
end

local function decimal(n)
  return string.format('%.0f', n)
end

-- words are a string with a space between
local function with(words, word)
  return words == '' and word or words .. ' ' .. word
end

-- unwanted is a set
local function without(words, unwanted)
  local kept = {}
  for word in string.gmatch(words, '%S+') do
    if not unwanted[word] then kept[#kept + 1] = word end
  end
  return table.concat(kept, ' ')
end

-- The node's fence, and whether it is a master.
local function node()
  local info = redis.call('INFO', 'server', 'replication')
  local fence = string.match(info, '\nrun_id:(%w+)') .. ':' .. string.match(info, '\nmaster_replid:(%w+)')
  return fence, string.match(info, '\nrole:(%w+)') == 'master'
end

local function note(...)
  redis.call('XADD', log, 'MAXLEN', '~', '1000', '*', ...)
end

-- The twin is the version once more, in a string that SETRANGE alone writes. Redis keeps such a string `raw` as long as its
-- process lives, while one that is brought back (RESTORE, MIGRATE, a reload) is `embstr`. So it tells a ledger that is
-- an older copy, brought back alone or together with it, even from somebody who heard nothing newer.
--
-- Its version; nil when it is gone, was brought back, or cannot tell.
local function twin_version()
  if redis.call('OBJECT', 'ENCODING', twin) ~= 'raw' then return nil end
  return tonumber(redis.call('GET', twin))
end

-- Whether the ledger says that it has a twin. One that an older release made has none at first.
local twinned = false

local function write_twin(version)
  redis.call('SETRANGE', twin, 0, string.format('%020.0f', version))
  -- A store that does not tell `raw` from `embstr` is taken without.
  if not twinned and twin_version() then redis.call('HSET', ledger, 'twinned', '1') end
end

-- schema as it is stored
local function is_newer(schema)
  return (tonumber(schema or '1') or SCHEMA + 1) > SCHEMA
end

-- nil when the ledger is in force here and the token is its own (token nil: not asked); otherwise the answer to give (R7).
-- seen is the version that the caller heard last, or nil. A ledger below it, or below its twin, is an older copy, brought
-- back into the running Redis: fence and token say nothing of that. It has lost grants and withheld slots, so it is of no
-- force any more.
local function refusal(token, seen)
  local fence, master = node()
  if not master then return {'WAIT', 'replica'} end
  local stored = redis.call('HMGET', ledger, 'fence', 'token', 'state', 'version', 'schema', 'twinned',
    'counted', 'claimed', 'withheld')
  if is_newer(stored[5]) then return {'WAIT', 'schema'} end
  if not stored[1] then return {'WAIT', 'missing'} end
  if stored[1] ~= fence then return {'WAIT', 'fence'} end
  local version = tonumber(stored[4] or '0')
  twinned = stored[6] ~= false
  local known = twinned and twin_version() or nil
  local newest = math.max(version, seen or 0, known or 0)
  if newest > version or (twinned and not known) then
    redis.call('HSET', ledger, 'fence', 'lost', 'version', decimal(newest))
    -- A leader that looks at twins alone sees that something happened; and SET makes it a string that is no version of ours.
    redis.call('SET', twin, string.format('lost%016.0f', newest))
    note('op', 'lost', 'version', decimal(version), 'seen', decimal(newest))
    return {'WAIT', 'fence'}
  end
  if token and stored[2] ~= token then return {'TOKEN', stored[2], stored[3]} end
  if stored[7] and stored[7] == stored[4] then claimed, withheld = tonumber(stored[8]), stored[9] end
  return nil
end

local HOLDER = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+)$'
local function holder(value)
  local claim, generation, seq, limit, want, open, busy, uid, pod, process, boot = string.match(value, HOLDER)
  return {
    claim = tonumber(claim), generation = tonumber(generation), seq = tonumber(seq), limit = tonumber(limit),
    want = tonumber(want), open = tonumber(open), busy = tonumber(busy), uid = uid, pod = pod, process = process,
    boot = boot,
  }
end

-- Changes the incarnations of a pod: gone is a set, new is one that comes, or nil.
local function replace_incs(uid, gone, new)
  local incs = without(redis.call('HGET', ledger, 'i:' .. uid) or '', gone)
  if new then incs = with(incs, new) end
  if incs == '' then
    redis.call('HDEL', ledger, 'i:' .. uid)
  else
    redis.call('HSET', ledger, 'i:' .. uid, incs)
  end
end

-- As words; sorted, since Redis gives fields in an order that differs from one to the next.
local function sorted(list)
  table.sort(list)
  return table.concat(list, ' ')
end

-- Counts anew. Returns all fields and their values.
local CLAIM_AND_POD = '^(%d+) %d+ %d+ %d+ %d+ %d+ %d+ (%S+)'
local function recount()
  local ids, incs, stale = {}, {}, {}
  claimed = 0
  local flat = redis.call('HGETALL', ledger)
  for i = 1, #flat, 2 do
    local kind, name, value = string.sub(flat[i], 1, 2), string.sub(flat[i], 3), flat[i + 1]
    if kind == 'h:' then
      local claim, uid = string.match(value, CLAIM_AND_POD)
      claimed = claimed + tonumber(claim)
      incs[uid] = incs[uid] or {}
      table.insert(incs[uid], name)
    elseif kind == 'q:' then
      table.insert(ids, name)
    elseif kind == 'i:' then
      stale[name] = value
    end
  end
  withheld = sorted(ids)
  for uid, names in pairs(incs) do
    local words = sorted(names)
    if stale[uid] ~= words then redis.call('HSET', ledger, 'i:' .. uid, words) end
  end
  for uid in pairs(stale) do
    if not incs[uid] then redis.call('HDEL', ledger, 'i:' .. uid) end
  end
  return flat
end

-- To be called by whatever changes the ledger, before it does, so that totals that lag behind are known by it. Returns the
-- new version.
local function raise()
  if not claimed or not withheld then recount() end
  local version = redis.call('HINCRBY', ledger, 'version', 1)
  write_twin(version)
  return version
end

-- To be called by whatever changed the ledger, after that.
local function keep_totals(version)
  redis.call('HSET', ledger, 'claimed', decimal(claimed), 'withheld', withheld, 'counted', decimal(version))
end

-- Puts slots into quarantine; the same id again can only enlarge or lengthen it.
local function quarantine(id, slots, seconds, why)
  local stored = redis.call('HGET', ledger, 'q:' .. id)
  if stored then
    local old_slots, old_seconds, old_why = string.match(stored, '^(%d+) (%d+) (%S+)$')
    slots = math.max(slots, tonumber(old_slots))
    seconds = math.max(seconds, tonumber(old_seconds))
    why = old_why
  else
    withheld = with(withheld, id)
  end
  redis.call('HSET', ledger, 'q:' .. id, decimal(slots) .. ' ' .. decimal(seconds) .. ' ' .. why)
end

-- Ends the quarantine of these ids.
local function release(ids)
  local ended = {}
  for _, id in ipairs(ids) do
    redis.call('HDEL', ledger, 'q:' .. id)
    ended[id] = true
  end
  withheld = without(withheld, ended)
end

-- Takes a holder out; seconds > 0 sends its slots into quarantine, 0 frees them.
local function remove(inc, record, seconds, why)
  if seconds > 0 and record.claim > 0 then
    quarantine(inc .. '.' .. decimal(record.seq), record.claim, seconds, why)
  end
  redis.call('HDEL', ledger, 'h:' .. inc)
  replace_incs(record.uid, {[inc] = true})
  claimed = claimed - record.claim
end

local function tell(kind, inc)
  redis.call('PUBLISH', channel, kind .. ' ' .. inc)
end

-- servers is nil when the caller said nothing about them. Returns whether they differ from those stored.
local function replace_servers(servers)
  if not servers or servers == (redis.call('HGET', ledger, 'servers') or '') then return false end
  if servers == '' then
    redis.call('HDEL', ledger, 'servers')
  else
    redis.call('HSET', ledger, 'servers', servers)
  end
  return true
end

-- The shares in the arguments; replaces those stored. Returns whether they differ, and the set of pods.
local function replace_shares()
  local shares, changed = {}, false
  for _ = 1, number() do
    local uid, share = text(), text()
    shares[uid] = share
  end
  local fields = redis.call('HKEYS', ledger)
  for _, field in ipairs(fields) do
    if string.sub(field, 1, 2) == 'e:' and not shares[string.sub(field, 3)] then
      redis.call('HDEL', ledger, field)
      changed = true
    end
  end
  for uid, share in pairs(shares) do
    if redis.call('HGET', ledger, 'e:' .. uid) ~= share then
      redis.call('HSET', ledger, 'e:' .. uid, share)
      changed = true
    end
  end
  return changed, shares
end
