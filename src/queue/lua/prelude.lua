-- What all scripts of the queue share. Payloads are moved as bytes, never decoded; all keys come in KEYS.
-- A script that fails half-way is not rolled back (a key of the wrong type is enough): so each counts first, then puts
-- the mail where it goes, then takes it from where it was, and writes records and events last. Nothing is lost then.
local COUNTERS, EVENTS, NORMAL, HIGH, LOW, ARRIVED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DELAYED, DELAYED_MAILS, HELD, PROCESSES, DEAD = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
-- Since when those of the delayed mails wait that are put off, and not only meant for later.
local PUT_OFF = KEYS[12]
local MAGIC = 'mailrelay/1 '
local DAY = 86400000
-- The time by which a script acts, and the same as records have it, rounded down to seconds.
local NOW, STAMP

-- Seconds in 8 hexadecimal digits, which compare like numbers.
local function stamp(ms)
  return string.format('%08x', math.min(math.floor(ms / 1000), 4294967295))
end

-- The time by which a script acts, in milliseconds: Redis' own, unless a test gives another. Clocks of workers differ.
local function clock(given)
  local now = given
  if given == '' then
    local time = redis.call('TIME')
    now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  end
  NOW = tonumber(now)
  STAMP = stamp(NOW)
  return now
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

-- Whether the header of an entry is that of the mail of this serial.
local function is_of(entry, serial)
  local line = headed(entry) and string.sub(entry, 1, string.find(entry, '\n', 1, true) or #entry)
  return line and string.find(line, '"serial":"' .. serial, 1, true) ~= nil
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

-- Since when the mail of an entry with a header waits.
local function since_of(entry)
  local line = string.sub(entry, 1, (string.find(entry, '\n', 1, true) or 1) - 1)
  return tonumber(string.match(line, '"since":(%d+)') or string.match(line, '"firstSeen":(%d+)'))
end

local function delay(token, due, entry)
  redis.call('HSET', DELAYED_MAILS, token, entry)
  redis.call('ZADD', DELAYED, due, token)
  local since = headed(entry) and since_of(entry)
  if since and since <= NOW then redis.call('ZADD', PUT_OFF, string.format('%.0f', since), token) end
  -- Whoever rests is told when the first of all is due. Without leave to publish it is found later.
  if redis.call('ZRANGEBYSCORE', DELAYED, '-inf', '+inf', 'LIMIT', 0, 1)[1] == token then
    redis.pcall('PUBLISH', DELAYED, string.format('%.0f', math.max(due - NOW, 0)))
  end
end

local function no_longer_delayed(token)
  redis.call('ZREM', DELAYED, token)
  redis.call('ZREM', PUT_OFF, token)
  redis.call('HDEL', DELAYED_MAILS, token)
end

-- Whether a dead letter is here as a whole: `letter` is its text, or '=' and the length of one that was brought in parts and
-- lies under `key` (bring.lua).
local function is_here(letter, key)
  local length = string.match(letter, '^=(%d+)$')
  return not length or redis.call('STRLEN', key) == tonumber(length)
end

-- Puts it among the others.
local function bury(letter, key)
  local parts = string.sub(letter, 1, 1) == '='
  redis.call('LPUSH', DEAD, parts and redis.call('GET', key) or letter)
  if parts then redis.call('DEL', key) end
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

-- Records. Each is one field of a bucket: so small that the hash stays a listpack, which takes a third of the memory of
-- other hashes and never comes back once it was left. So no value is longer than 64 bytes; what may be lies beside it.
-- A field is 12 bytes of the digest of an id or key. A value is the letter of the state; when it was written and until when
-- it is kept, by stamp(); the beginning of the serial (12 digits); the fingerprint of the mail (3 letters); and after that,
-- as state wants it, how often the lists were empty, a claim, or the beginning of an operation (8 digits) and a reason.
-- A capital says that some have the mail. Their addresses, and the id that a key's record names, lie in fields beside it,
-- in pieces: its name, a letter, the number of the piece.
local FIELD, PIECE = 12, 64
local LETTER = {queued = 'q', claimed = 'c', delayed = 'w', resend = 'r', held = 'h', delivered = 'd', late = 'l', dead = 'x',
  discarded = 't', expired = 'e', duplicate = 'b', lost = 'n'}
local PARKED, FINAL = '[wrh]', '[dlxtebn]'
-- The states after which a second mail with the same key or id may be sent, to those who lack it.
local ABSENT = '[xtebn]'
local NO_SUM, NO_OPERATION = '---', '--------'
-- How long a record is kept that is not final, unless its mail may still be where it says; and a bucket in which nothing
-- happens: by then a mail that still waits in it is as good as forgotten.
local OPEN, IDLE = 30 * DAY, 90 * DAY

-- How long a final record is kept, and how many outcomes the stream has: as the relay says, or a day and 10,000.
local settings
local function setting(place)
  settings = settings or redis.call('HMGET', COUNTERS, 'retention', 'eventsLength')
  return settings[place]
end
local function retention()
  return tonumber(setting(1) or DAY)
end

local function attached(found, kind)
  local text, piece, number = '', nil, 0
  repeat
    piece = redis.call('HGET', found.key, found.field .. kind .. number)
    text, number = text .. (piece or ''), number + 1
  until not piece
  return text
end

-- Answers how many fields more there are.
local function attach(found, kind, text)
  local added, number = 0, 0
  for at = 1, #text, PIECE do
    added = added + redis.call('HSET', found.key, found.field .. kind .. number, string.sub(text, at, at + PIECE - 1))
    number = number + 1
  end
  while found.lies and redis.call('HDEL', found.key, found.field .. kind .. number) == 1 do number = number + 1 end
  return added
end

-- Takes a record away with all that lies beside it.
local function erase(found)
  attach(found, 'h', '')
  attach(found, 'i', '')
  redis.call('HDEL', found.key, found.field)
end

-- Takes a value apart into `found`; whether it is one.
local function read(found, text)
  local letter
  letter, found.written, found.kept, found.serial, found.sum, found.rest =
    string.match(text, '^(%a)(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x)(............)(...)(.*)$')
  if not letter then return false end
  found.state = string.lower(letter)
  found.some = letter ~= found.state
  return true
end

-- What a record says; without a serial when there is none, or none any more. `has` are the addresses that need nothing
-- more, `lies` whether anything lies there.
local function look(key, field)
  local found = {key = key, field = field}
  local text = redis.call('HGET', key, field)
  if not text then return found end
  found.lies = true
  local sound = read(found, text)
  if not sound or (found.kept <= STAMP and string.find(found.state, FINAL)) then
    return {key = key, field = field, lies = true}
  end
  if found.some then found.has = attached(found, 'h') end
  return found
end

-- The records of a mail, its own first: their buckets are KEYS[first] and what follows, `fields` has their names in a row.
local function look_all(first, fields)
  local all = {}
  for at = 1, #fields, FIELD do
    table.insert(all, look(KEYS[first + #all], string.sub(fields, at, at + FIELD - 1)))
  end
  return all
end

-- The id of the mail that a record belongs to, as `id` sees it: its own says nothing else, a key's names it.
local function named(found, id)
  local name = attached(found, 'i')
  return name ~= '' and name or id
end

-- Whether a record forbids the mail of this serial: it belongs to another that is on its way, or that everybody has.
local function forbids(found, serial)
  return found.serial and found.serial ~= serial and (not string.find(found.state, ABSENT) or found.has == '*')
end

-- Whether a record belongs to another mail than the one of this fingerprint.
local function differs(found, sum)
  return found.sum ~= NO_SUM and sum ~= '' and found.sum ~= sum
end

-- Whether the mail of a record may be nowhere any more, removed by hand: it is not where its record says, and the lists
-- were empty since it can have come into one. It may still be in a process's hands (lost.lua).
local function doubtful(found)
  if string.find(found.state, FINAL) then return false end
  if found.state == LETTER.held then return redis.call('HEXISTS', HELD, found.rest) == 0 end
  if string.find(found.state, PARKED) and redis.call('HEXISTS', DELAYED_MAILS, found.rest) == 1 then return false end
  local known = found.state == LETTER.queued and tonumber(found.rest) or 0
  return waiting() == 0 or tonumber(drains()) > math.max(known, counter('silent'))
end

-- Takes what has ended out of a bucket, with what lies beside it. One that is not final ends when its mail is nowhere.
local function prune(key)
  local all, ended, gone = redis.call('HGETALL', key), {}, {}
  for at = 1, #all, 2 do
    local found = {}
    if #all[at] == FIELD and read(found, all[at + 1]) and found.kept <= STAMP then
      ended[all[at]] = string.find(found.state, FINAL) or doubtful(found)
    end
  end
  for at = 1, #all, 2 do
    -- No script runs long, and no function takes any number of arguments.
    if #gone < 1000 and ended[string.sub(all[at], 1, FIELD)] then table.insert(gone, all[at]) end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
end

-- After `added` fields came into a bucket, or the first record in a while that is kept for `life`.
local function tend(key, added, life)
  if added > 0 and redis.call('HLEN', key) % 32 < added then prune(key) end
  if redis.call('PTTL', key) < life + OPEN then redis.call('PEXPIRE', key, string.format('%.0f', life + IDLE)) end
end

-- Writes the records of a mail, unless they belong to another that forbids it. `rest` is what the state wants, `name` the
-- id that is told of the mail. Who has the mail (`has`) is never forgotten, whatever becomes of the rest. A mail that waits
-- for a time is not forgotten before.
local function record(all, serial, state, sum, has, rest, name, due)
  local letter = LETTER[state]
  local short = string.find(letter, FINAL) and letter ~= LETTER.late
  local life = short and retention() or math.max(tonumber(due or '') or 0, NOW) - NOW + OPEN
  for place, found in ipairs(all) do
    if not forbids(found, serial) then
      local same, whole, known = found.serial == serial, join(found.has, has), sum
      if known == '' or (same and found.sum ~= NO_SUM) then known = same and found.sum or NO_SUM end
      -- What is kept for a time is kept no shorter.
      local text = (whole == '' and letter or string.upper(letter)) .. STAMP .. stamp(NOW + life + 999) .. serial .. known .. rest
      local added = redis.call('HSET', found.key, found.field, text)
      if whole ~= (found.has or '') or (found.lies and not found.serial) then added = added + attach(found, 'h', whole) end
      if place > 1 and not same or state == 'duplicate' then added = added + attach(found, 'i', name) end
      if not found.serial or string.sub(found.written, 1, 4) ~= string.sub(STAMP, 1, 4) then tend(found.key, added, life) end
    end
  end
end

-- What a final record tells beside its state.
local function ending(operation, reason)
  return string.sub(operation, 1, 8) .. string.sub(reason, 1, 24)
end

-- What became of a mail, for whoever reads the stream (docs/events.md).
local function event(outcome, id, at, reason, reply, message_id)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', setting(2) or '10000', '*', 'id', id, 'outcome', outcome, 'at', at, 'reason', reason or '', 'reply',
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
