-- KEYS: 13 claims, 14 stages, then the buckets of each claim's records in turn, and behind them where its dead letter lies
-- when that is long. ARGV: process, now, and for each claim:
-- claim, stage it must be at ('early' is any before committing), action (queue, held, resend, dead), header ('' keeps the
-- entry), dead letter or what is known of a held mail, wait, id, serial, reason, names of the records, Message-ID.
-- The header of a claim that was only taken was not checked yet: its records are written only if they are its own already.
-- Answers one word for each claim: the action, or skipped.
local CLAIMS, STAGES, process, now = KEYS[13], KEYS[14], ARGV[1], clock(ARGV[2])
local STATE = {queue = 'queued', held = 'held', resend = 'resend', dead = 'dead'}
local answers, first, silent = {}, 15, false
for at = 3, #ARGV, 11 do
  local claim, expected, action, header, extra, wait = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local id, serial, reason, records = ARGV[at + 6], ARGV[at + 7], ARGV[at + 8], look_all(first, ARGV[at + 9])
  local entry = redis.call('HGET', CLAIMS, claim)
  local mark = redis.call('HGET', STAGES, claim)
  local stage = word(mark)
  local fits = stage == expected or (expected == 'early' and stage ~= 'committing')
  local parts = string.sub(extra, 1, 1) == '=' and KEYS[first + #records]
  local due = action == 'resend' and after(now, wait) or ''
  if not entry or not fits or not is_here(extra, parts) then
    action = 'skipped'
  else
    -- A take that came again took another mail under a claim that had been parked: that one stays where it is.
    local name = claim
    while redis.call('HEXISTS', HELD, name) + redis.call('HEXISTS', DELAYED_MAILS, name) > 0 do name = name .. '+' end
    local trusted = #records > 0 and (stage ~= 'taken' or records[1].serial == serial)
    if header ~= '' then
      entry = header .. payload(entry)
    else
      entry = seal(entry, mark and string.match(mark, ' ([hnl])$') or 'n')
    end
    if action == 'queue' then
      count('returned', 1)
      give(entry)
      silent = silent or not trusted
    elseif action == 'held' then
      redis.call('HSET', HELD, name, extra .. '\n' .. entry)
    elseif action == 'resend' then
      delay(name, due, entry)
    else
      bury(extra, parts)
    end
    redis.call('HDEL', CLAIMS, claim)
    redis.call('HDEL', STAGES, claim)
    if trusted then
      local rest = action == 'queue' and drains() or action == 'dead' and ending(NO_OPERATION, reason) or name
      record(records, serial, STATE[action], '', nil, rest, id, due)
    end
    if expected ~= 'early' then
      count('recovered.' .. expected .. '.' .. action, 1)
      event(STATE[action], id, now, reason, nil, trusted and ARGV[at + 10])
    end
  end
  table.insert(answers, action)
  first = first + #records + (parts and 1 or 0)
end
if silent then gave_silently() end
if redis.call('HLEN', CLAIMS) == 0 then
  redis.call('DEL', STAGES)
  redis.call('HDEL', PROCESSES, process)
end
return answers
