-- A writer's place in its log. The `seq` hash has, of each writer, 'fence session seq segment wrote' of the last session
-- that opened it, and behind that ' attempt' where it brought in what an ended one could not deliver. Of the attempts
-- before, '<writer>@<attempt>' has 'seq segment wrote'. Where sessions took over from each other under one fence,
-- '<writer>~' has 'fence session ...' of those replaced, oldest first.

-- Returns fence, session, seq, segment, wrote ('0', '1'), attempt ('': that of the fence); nil where nobody opened it.
local function writer_state(seq_key, writer)
  return string.match(redis.call('HGET', seq_key, writer) or '', '^(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*)$')
end

local function set_writer_state(seq_key, writer, fence, session, seq, segment, wrote, late)
  local state = {fence, session, seq, segment, wrote}
  if late ~= '' then state[6] = late end
  redis.call('HSET', seq_key, writer, table.concat(state, ' '))
end

-- Whether a session had the writer under this fence and was replaced: then it has only not heard of it, and gets nothing
-- back. Otherwise notes the session that it replaces itself; the last 32 are remembered.
local function was_replaced(seq_key, writer, fence, session)
  local field, replaced = writer .. '~', {fence}
  local known = redis.call('HGET', seq_key, field) or ''
  if string.match(known, '^%S+') == fence then
    for other in string.gmatch(known, ' (%S+)') do
      if other == session then return true end
      replaced[#replaced + 1] = other
    end
  end
  local last_fence, owner = writer_state(seq_key, writer)
  if last_fence == fence and owner ~= session then
    replaced[#replaced + 1] = owner
    if #replaced > 33 then table.remove(replaced, 2) end
    redis.call('HSET', seq_key, field, table.concat(replaced, ' '))
  end
  return false
end

-- The segments of the whole run, or of `main`, that are later than a segment of an attempt and count: returns the lowest
-- of their starts (nil: none), and whether one of them is of a later attempt.
local function later_segments(attempts_key, attempt, segment)
  local flat, fields = redis.call('HGETALL', attempts_key), {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  local lowest, is_continued = nil, false
  local function take(start) lowest = math.min(tonumber(start), lowest or tonumber(start)) end
  for field, value in pairs(fields) do
    local other = string.match(field, '^(%d+)%.counts$')
    if other and value == '1' and tonumber(other) > tonumber(attempt) then
      is_continued = true
      take(fields[other .. '.start'])
    end
    local owner, number = string.match(field, '^(%d+)%.segment%.(%d+)%.main$')
    if owner and (tonumber(owner) > tonumber(attempt) or (owner == attempt and tonumber(number) > segment)) then
      take(value)
    end
  end
  return lowest, is_continued
end

-- Returns the segment that `main` is in, within an attempt.
local function segment_of_main(seq_key, attempts_key, attempt)
  local fence, _, _, segment, _, late = writer_state(seq_key, 'main')
  local last = fence and (late ~= '' and late or redis.call('HGET', attempts_key, 'fence.' .. fence))
  if last == attempt then return segment end
  return string.match(redis.call('HGET', seq_key, 'main@' .. attempt) or '', '^%S+ (%S+) ') or '0'
end
