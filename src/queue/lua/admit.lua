-- KEYS: 13 claims, 14 stages, then the buckets of each claim's records in turn, and behind them where its dead letter lies
-- when that is long. ARGV: now, and for each claim: claim, action
-- (kept, dead, duplicate), header ('' keeps the entry), id, serial, not before, expires, reason, dead letter, what its
-- envelope is (raw; headed: to be checked here; forged: found out), fingerprint, recipients that are left out, whether
-- doubts about another's record were looked into, names of the records, Message-ID, and when the entry was taken:
-- a take that comes again may have taken another one under the same claim, and an earlier look may come later than this one.
-- Answers one word for each claim: kept, delayed, dead, expired, duplicate, delivered, gone; or what must be thought over,
-- and nothing was changed: missing (its dead letter), forged, doubtful, or partly and a line for each address that has it.
local CLAIMS, STAGES, now = KEYS[13], KEYS[14], clock(ARGV[1])
local answers, first = {}, 15
for at = 2, #ARGV, 16 do
  local claim, action, header, id, serial = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local due, expires, reason, letter = ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  local envelope, sum, spared, sure = ARGV[at + 9], ARGV[at + 10], ARGV[at + 11], ARGV[at + 12] ~= ''
  local message_id, records = ARGV[at + 14], look_all(first, ARGV[at + 13])
  local entry = redis.call('HGET', CLAIMS, claim)
  local mark = redis.call('HGET', STAGES, claim)
  local stage = word(mark)
  local own, other, has = records[1], nil, nil
  for _, found in ipairs(records) do
    if forbids(found, serial) then
      other = other or found
    else
      has = join(has, found.has)
    end
  end
  if action == 'kept' and expires ~= '' and tonumber(expires) <= tonumber(now) then
    action, reason, other = 'expired', 'Expired', nil
  elseif action == 'kept' and due ~= '' and tonumber(due) > tonumber(now) then
    action = 'delayed'
  end
  -- A late settlement reached this mail's record after the mail had gone back to the queue: the server has it.
  local late = own and own.serial == serial and (own.state == LETTER.delivered or own.state == LETTER.late)
  local sends = action == 'kept' or action == 'delayed'
  local answer, parts = action, string.sub(letter, 1, 1) == '=' and KEYS[first + #records]
  -- What was looked at is known by when it was taken, and once it was admitted by its header.
  local is_it = stage == 'taken' and string.match(mark, '^taken (%d+)') == ARGV[at + 15]
  if not entry or not (is_it or stage == 'claimed' and is_of(entry, serial)) then
    answer = 'gone'
  elseif envelope == 'headed' and stage == 'taken' and (not own or own.serial ~= serial) then
    -- A record is born with its header, by our scripts; nobody else knows its serial.
    answer = 'forged'
  elseif action == 'dead' and not is_here(letter, parts) then
    answer = 'missing'
  elseif sends and other and not sure and doubtful(other) then
    answer = 'doubtful'
  elseif sends and not other and has and lacks(has, spared) then
    answer = 'partly\n' .. has
  else
    if envelope == 'forged' and stage == 'taken' then
      -- Taken as one that had been counted, which it was not.
      accept(now)
      count('counted', 1)
      count('bytes', #entry)
    end
    if action == 'kept' and not other and not late then
      if header ~= '' then redis.call('HSET', CLAIMS, claim, header .. payload(entry)) end
      redis.call('HSET', STAGES, claim, 'claimed ' .. now)
      record(records, serial, 'claimed', sum, has, '', id)
    else
      local name = other and named(other, id) or id
      if sends and late then
        answer = 'duplicate'
        if own.state == LETTER.late then
          answer = 'delivered'
          count('delivered', 1)
        else
          duplicate(id, now, id)
        end
      elseif (sends and other) or action == 'duplicate' then
        local another = other and differs(other, sum)
        answer = another and 'duplicate\n' .. name or 'duplicate'
        duplicate(id, now, name, another)
      elseif action == 'delayed' then
        delay(claim, due, header == '' and entry or header .. payload(entry))
      elseif action == 'dead' then
        bury(letter, parts)
      else
        count('expired', 1)
      end
      redis.call('HDEL', CLAIMS, claim)
      redis.call('HDEL', STAGES, claim)
      if answer == 'delayed' then
        record(records, serial, action, sum, has, claim, id, due)
      elseif string.sub(answer, 1, 9) == 'duplicate' then
        if not late then
          record(records, serial, 'duplicate', '', has, '', name)
        end
      elseif answer ~= 'delivered' then
        record(records, serial, action, '', has, ending(NO_OPERATION, reason), id)
        event(action, id, now, reason, nil, message_id)
      end
    end
  end
  table.insert(answers, answer)
  first = first + #records + (parts and 1 or 0)
end
return answers
