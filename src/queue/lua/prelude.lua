-- What all scripts of the queue share. Payloads are moved as bytes, never decoded; all keys come in KEYS.
-- A script that fails half-way is not rolled back (a key of the wrong type is enough): so each counts first, then puts
-- the mail where it goes, then takes it from where it was, and writes records and events last. Nothing is lost then.
local COUNTERS, EVENTS, NORMAL, HIGH, LOW, ARRIVED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DELAYED, DELAYED_MAILS, HELD, PROCESSES, DEAD = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local MAGIC = 'mailrelay/1 '
-- The states after which a second mail with the same key or id may be sent.
local ABSENT = {dead = true, discarded = true, expired = true}

local function count(name, by)
  redis.call('HINCRBY', COUNTERS, name, by)
end

local function sealed(entry)
  return string.sub(entry, 1, #MAGIC) == MAGIC
end

-- The producer's bytes of an entry.
local function payload(entry)
  local at = sealed(entry) and string.find(entry, '\n', 1, true)
  return at and string.sub(entry, at + 1) or entry
end

-- A counted entry: with a header, if only an empty one of this priority.
local function seal(entry, letter)
  if sealed(entry) then return entry end
  return MAGIC .. letter .. ' {}\n' .. entry
end

local function list_of(entry)
  local letter = string.sub(entry, #MAGIC + 1, #MAGIC + 1)
  return letter == 'h' and HIGH or letter == 'l' and LOW or NORMAL
end

-- Puts a sealed entry into its list: to the end that is taken next, or to the end of the line.
local function give(entry, push)
  count('counted', 1)
  count('bytes', #entry)
  redis.call(push or 'RPUSH', list_of(entry), entry)
end

local function delay(token, due, entry)
  redis.call('HSET', DELAYED_MAILS, token, entry)
  redis.call('ZADD', DELAYED, due, token)
end

-- The id of the other mail that a record belongs to, when it forbids this one.
local function owner(key, serial)
  local found = redis.call('HMGET', key, 'serial', 'state', 'id')
  if found[1] and found[1] ~= serial and not ABSENT[found[2]] then return found[3] or '' end
end

-- Writes the records KEYS[first .. first + number - 1] of a mail, unless they belong to another; kept for ttl
-- milliseconds, or for good while ttl is 0.
local function record(first, number, serial, ttl, ...)
  for at = first, first + number - 1 do
    local key = KEYS[at]
    if not owner(key, serial) then
      redis.call('DEL', key)
      redis.call('HSET', key, 'serial', serial, ...)
      if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
    end
  end
end

local function event(outcome, id, at, reason, reply)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', 10000, '*', 'id', id, 'outcome', outcome, 'at', at, 'reason', reason or '', 'reply', reply or '')
end

local function word(text)
  return text and string.match(text, '^%S+') or ''
end
