-- What all scripts of the queue share. Payloads are moved as bytes, never decoded; all keys come in KEYS.
-- A script that fails half-way is not rolled back (a key of the wrong type is enough): so each counts first, then puts
-- the mail where it goes, then takes it from where it was, and writes records and events last. Nothing is lost then.
local COUNTERS, EVENTS, NORMAL, HIGH, LOW, ARRIVED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DELAYED, DELAYED_MAILS, HELD, PROCESSES, DEAD = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local MAGIC = 'mailrelay/1 '
-- The states after which a second mail with the same key or id may be sent, to those who lack it.
local ABSENT = {dead = true, discarded = true, expired = true, duplicate = true, lost = true}

-- The time by which a script acts, in milliseconds: Redis' own, unless a test gives another. Clocks of workers differ.
local function clock(given)
  if given ~= '' then return given end
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end

local function after(now, wait)
  return string.format('%.0f', tonumber(now) + tonumber(wait))
end

local function count(name, by)
  return redis.call('HINCRBY', COUNTERS, name, by)
end

-- A mail more, of which the audit knows from now on.
local function accept(now)
  if count('accepted', 1) == 1 and redis.call('HEXISTS', COUNTERS, 'began') == 0 then
    redis.call('HSET', COUNTERS, 'began', now)
  end
end

local function counter(name)
  return tonumber(redis.call('HGET', COUNTERS, name) or 0)
end

local function sealed(entry)
  return string.sub(entry, 1, #MAGIC) == MAGIC
end

-- Whether an entry has a header. Nobody counted one whose header is empty: it was never looked at.
local function headed(entry)
  return sealed(entry) and string.sub(entry, #MAGIC + 3, #MAGIC + 5) ~= '{}\n'
end

-- The producer's bytes of an entry.
local function payload(entry)
  local at = sealed(entry) and string.find(entry, '\n', 1, true)
  return at and string.sub(entry, at + 1) or entry
end

-- An entry that keeps its priority wherever it is parked: with a header, if only an empty one.
local function seal(entry, letter)
  if sealed(entry) then return entry end
  return MAGIC .. letter .. ' {}\n' .. entry
end

local function list_of(entry)
  local letter = string.sub(entry, #MAGIC + 1, #MAGIC + 1)
  return letter == 'h' and HIGH or letter == 'l' and LOW or NORMAL
end

-- Puts a sealed entry into its list: to the end that is taken next, or to the end of the line. One that was never looked
-- at goes back as its producer pushed it, and counts as accepted when it is taken again.
local function give(entry, push)
  local list = list_of(entry)
  if headed(entry) then
    count('counted', 1)
    count('bytes', #entry)
  else
    count('accepted', -1)
    entry = payload(entry)
  end
  redis.call(push or 'RPUSH', list, entry)
end

local function delay(token, due, entry)
  redis.call('HSET', DELAYED_MAILS, token, entry)
  redis.call('ZADD', DELAYED, due, token)
end

local function waiting()
  return redis.call('LLEN', NORMAL) + redis.call('LLEN', HIGH) + redis.call('LLEN', LOW) + redis.call('LLEN', ARRIVED)
end

-- How often all lists were seen empty. A mail that came into one before the last time is not there any more.
local function drains()
  return redis.call('HGET', COUNTERS, 'drains') or '0'
end

-- After mails came into lists without a word in their records.
local function gave_silently()
  redis.call('HSET', COUNTERS, 'silent', drains())
end

-- Lists of addresses, one a line, as one without repetitions; `*` stands for everybody.
local function join(some, more)
  some, more = some or '', more or ''
  if some == '' or more == '*' then return more end
  if some == '*' then return some end
  for line in string.gmatch(more, '[^\n]+') do
    if not string.find('\n' .. some .. '\n', '\n' .. line .. '\n', 1, true) then some = some .. '\n' .. line end
  end
  return some
end

-- Whether a line of `some` is not in `more`.
local function lacks(some, more)
  for line in string.gmatch(some, '[^\n]+') do
    if not string.find('\n' .. more .. '\n', '\n' .. line .. '\n', 1, true) then return true end
  end
  return false
end

-- What a record says. `has` are the addresses that need nothing more; `sum` is the fingerprint of the mail.
local function look(key)
  local found = redis.call('HMGET', key, 'serial', 'state', 'id', 'has', 'sum', 'claim', 'drains', 'late')
  return {key = key, serial = found[1], state = found[2], id = found[3] or '', has = found[4] or nil, sum = found[5],
    claim = found[6], drains = tonumber(found[7] or 0), late = found[8]}
end

-- Whether a record forbids the mail of this serial: it belongs to another that is on its way, or that everybody has.
local function forbids(found, serial)
  return found.serial and found.serial ~= serial and (not ABSENT[found.state] or found.has == '*')
end

-- Whether the mail of a record may be nowhere any more, removed by hand: it is not where its record says, and the lists
-- were empty since it can have come into one. It may still be in a process's hands (lost.lua).
local function doubtful(found)
  if found.state == 'delivered' or ABSENT[found.state] then return false end
  if found.state == 'held' then return redis.call('HEXISTS', HELD, found.claim or '') == 0 end
  if found.claim and redis.call('HEXISTS', DELAYED_MAILS, found.claim) == 1 then return false end
  return waiting() == 0 or tonumber(drains()) > math.max(found.drains, counter('silent'))
end

-- Writes the records KEYS[first .. first + number - 1] of a mail, unless they belong to another that forbids it; kept for
-- ttl milliseconds, or for good while ttl is 0. Who has the mail (`has`) is never forgotten, whatever becomes of the rest.
local function record(first, number, serial, ttl, has, ...)
  for at = first, first + number - 1 do
    local found = look(KEYS[at])
    if not forbids(found, serial) then
      local fields = {'serial', serial, ...}
      local all = join(found.has, has)
      if all ~= '' then
        table.insert(fields, 'has')
        table.insert(fields, all)
      end
      if found.serial == serial and found.sum then
        table.insert(fields, 'sum')
        table.insert(fields, found.sum)
      end
      redis.call('DEL', KEYS[at])
      redis.call('HSET', KEYS[at], unpack(fields))
      if ttl > 0 then redis.call('PEXPIRE', KEYS[at], ttl) end
    end
  end
end

-- What became of a mail, for whoever reads the stream (docs/events.md).
local function event(outcome, id, at, reason, reply, message_id)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', 10000, '*', 'id', id, 'outcome', outcome, 'at', at, 'reason', reason or '', 'reply',
    reply or '', 'messageId', message_id or '')
end

-- A mail that was dropped, since an earlier one stands for it; the worse when it is not the same mail.
local function duplicate(id, now, first, differs)
  count('duplicates', 1)
  if differs then count('duplicates.other', 1) end
  event('duplicate', id, now, first, differs and 'OtherContent' or '')
end

local function word(text)
  return text and string.match(text, '^%S+') or ''
end
