#!lua
-- Appends one entry of a writer's log: points, a commit, a rewind, or nothing (an entry refused before it came here
-- uses up its seq; lost ones use up theirs). Order of the checks: incarnation, fence, session, seq, segment, rate limits
-- (of points only; where a commit waits behind them they are taken in and charged). Acknowledged means appended.
-- A writer opened for an ended attempt (open_writer.lua) appends to that one: what came after it goes on hiding it.
-- A duplicate writes the writer's state again: no change, but a write that a WAIT behind it covers, too.
-- No allow-oom: metrics must not take the memory that leases need.
-- KEYS  1 meta  2 run  3 attempts  4 log  5 seq  6 ckpt  7 ckptdoc  8 limits  9 gcra  10 events  11 auto
--       12 hot  13 names
-- ARGV  1 fence  2 writer  3 session  4 seq  5 segment  6 kind: p, c, r, l (lost), e (end of an ended attempt) or x
--       7 payload (p: packed points; c: document, JSON; e: outcome)  8 number of points
--       9 highest step (p), step (c, r), entries lost (l)  10 canonical ID  11 '1': a commit waits behind it, else '0'
--       12-16 default limits: run_points run_bytes project_points project_bytes (per second) burst_us
--       17 points  18 bytes of the largest batch  19 project  20 ended attempt that it was opened for ('': none)
--       21 names of metrics  22 bytes of checkpoints that there may be of a run  23... names that may be new (p)
-- Returns {verdict, now, ...}:
--   APPENDED DUPLICATE  seq      GAP  last seq      SEGMENT  current segment      NOT_LOST  entries missing      SESSION
--   FULL  seq, names or checkpoints: there are as many as may be; nothing is stored, the seq is used up
--   THROTTLED  limit's name, rate, points or bytes left, us until the entry is worth another try, us until all is paid
--   STALE  record [field, value, ...]               ABSENT DELETED UNBOOTSTRAPPED NOREPLICAS
--   UNCONFIRMED  epoch, quarantine left (us): a newer fence may be lost; the holder has to renew first
local fence, writer, session, seq, segment = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local kind, payload, points, step = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local id, is_barrier, defaults = ARGV[10], ARGV[11] == '1', {unpack(ARGV, 12, 16)}
local largest_points, largest_bytes, project = tonumber(ARGV[17]), tonumber(ARGV[18]), ARGV[19]
local limits_key, gcra_key = KEYS[8], KEYS[9]
local run_key, attempts_key, log_key, seq_key, ckpt_key, doc_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local is_main = writer == 'main'

local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'wrote', 'next', 'attempt', 'last', 'a_last',
  'tat.points', 'tat.bytes', 'end', 'epoch', 'alias')
if is_newer(fence, run[1], run[11], epoch, quarantine) then return unconfirmed(now, epoch, quarantine) end
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
local own = own_fence(run[1], run[12])
if not is_same_lease(attempts_key, fence, run[1], own, run[5]) then
  return {'STALE', text(now), redis.call('HGETALL', run_key)}
end
fence = own
if not is_confirmed(run[11], epoch) then return unconfirmed(now, epoch, quarantine) end
local last_fence, owner, last_seq, current, wrote, late = writer_state(seq_key, writer)
if last_fence ~= fence or owner ~= session or late ~= ARGV[20] then return {'SESSION', text(now)} end
last_seq, current = tonumber(last_seq), tonumber(current)
if seq <= last_seq then
  set_writer_state(seq_key, writer, fence, session, text(last_seq), text(current), wrote, late)
  return {'DUPLICATE', text(now), text(last_seq)}
end
if kind == 'l' then
  if step ~= seq - last_seq then return {'NOT_LOST', text(now), text(seq - last_seq)} end
elseif seq > last_seq + 1 then
  return {'GAP', text(now), text(last_seq)}
end
-- A rewind stays in its segment before the writer's first write, and opens the next one after it.
local next_segment = kind == 'r' and current + tonumber(wrote) or current
if kind == 'l' and segment >= current and segment - current <= step then next_segment = segment end -- a rewind is lost
if kind ~= 'x' and kind ~= 'e' and segment ~= next_segment then return {'SEGMENT', text(now), text(next_segment)} end

local full
if kind == 'p' and #ARGV > 22 and are_too_many(KEYS[13], tonumber(ARGV[21]), 23) then
  full = 'names'
elseif kind == 'c' and (redis.call('HGET', run_key, 'ckpt_bytes') or 0) + #payload > tonumber(ARGV[22]) then
  full = 'checkpoints'
end
if full then kind = 'x' end

local run_limits, project_limits = {}, {}
if kind == 'p' then
  local rates, project_burst_us = limits_of(limits_key, id, defaults)
  local used = redis.call('HMGET', gcra_key, 'points', 'bytes')
  local function add(list, field, name, rate, burst_us, largest, stored, cost)
    if rate > 0 then list[field] = limit(name, now, rate, burst_us, largest, stored, cost) end
  end
  add(run_limits, 'tat.points', 'run/points', rates[1], rates[5], largest_points, run[8], points)
  add(run_limits, 'tat.bytes', 'run/bytes', rates[2], rates[5], largest_bytes, run[9], #payload)
  add(project_limits, 'points', 'project/points', rates[3], project_burst_us, largest_points, used[1], points)
  add(project_limits, 'bytes', 'project/bytes', rates[4], project_burst_us, largest_bytes, used[2], #payload)
  local worst
  for _, list in ipairs({run_limits, project_limits}) do
    for _, one in pairs(list) do
      if one.wait_us > 0 and (not worst or one.wait_us > worst.wait_us) then worst = one end
    end
  end
  if worst and not is_barrier then
    return {'THROTTLED', text(now), worst.name, text(worst.rate), text(worst.left), text(worst.wait_us),
      text(worst.tat - now)}
  end
end

local is_late = late ~= ''
local attempt, next_step, counts = run[5], tonumber(run[4]), run[3]
if is_late then
  attempt = late
  counts = redis.call('HGET', attempts_key, attempt .. '.counts') or '0'
end
local is_last = attempt == run[5]

-- Whether the run has gone on since: then its next step is not this attempt's to set.
local function is_continued()
  local _, continued
  if is_late then _, continued = later_segments(attempts_key, attempt, current) end
  return continued
end
local function count_from(start, spares)
  if not is_continued() then
    next_step = spares and math.max(start, redis.call('HGET', run_key, 'parent_step') + 1) or start
  end
  supersede_checkpoints(ckpt_key, start, attempts_key, spares, is_late and attempt or nil)
end

-- First of all the entry itself: a script that stops at an error must not have changed anything else.
if kind == 'p' or kind == 'c' or kind == 'r' then
  local entry = {'w', writer, 's', text(seq), 'g', text(segment), 'k', kind, 'b', payload}
  if is_late then entry[#entry + 1], entry[#entry + 2] = 'o', attempt end
  redis.call('XADD', log_key, fence .. '-*', unpack(entry))
  redis.call('ZINCRBY', KEYS[12], #payload, project .. '/' .. id)
end
if kind == 'p' or kind == 'c' or (kind == 'l' and points > 0) then
  if counts ~= '1' and is_last then redis.call('HSET', run_key, 'wrote', '1') end -- 'rewound' counted without a write
  if counts == '0' then
    redis.call('HSET', attempts_key, attempt .. '.counts', '1')
    local start = tonumber(redis.call('HGET', attempts_key, attempt .. '.start'))
    count_from(start, spares_parent(run_key, attempt, start))
  end
  wrote = '1'
  if is_main and kind ~= 'l' and step >= next_step and not is_continued() then next_step = step + 1 end
end
if kind == 'p' then
  for field, one in pairs(run_limits) do redis.call('HSET', run_key, field, text(one.after)) end
  for field, one in pairs(project_limits) do redis.call('HSET', gcra_key, field, text(one.after)) end
  redis.call('HINCRBY', run_key, 'points', points)
  if is_last then redis.call('HINCRBY', run_key, 'a_points', points) end
  local last, a_last = tonumber(run[6]), tonumber(run[7])
  if is_main then last, a_last = math.max(last, step), is_last and math.max(a_last, step) or a_last end
  redis.call('HSET', run_key, 'last', text(last), 'a_last', text(a_last), 'last_log', text(now))
  if is_late then
    redis.call('HINCRBY', attempts_key, attempt .. '.points', points)
    local highest = tonumber(redis.call('HGET', attempts_key, attempt .. '.last') or -1)
    if is_main and step > highest then redis.call('HSET', attempts_key, attempt .. '.last', text(step)) end
  end
elseif kind == 'c' then
  -- What a rewind of `main` has superseded stays; within its segment a commit replaces that of the same step.
  local of = is_late and redis.call('HGET', attempts_key, attempt .. '.fence') or fence
  redis.call('HINCRBY', run_key, 'ckpt_bytes', #payload)
  local of_main = is_main and text(segment) or segment_of_main(seq_key, attempts_key, attempt)
  local every = text(step) .. ':' .. of
  local name = of_main == '0' and every or every .. ':' .. of_main
  redis.call('HSET', doc_key, name, table.concat({attempt, text(now), writer, payload}, ' '))
  local lowest = is_late and later_segments(attempts_key, attempt, segment) or nil
  if not lowest or step < lowest then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', ckpt_key, text(step), text(step))) do
      if string.sub(other .. ':', 1, #every + 1) == every .. ':' then redis.call('ZREM', ckpt_key, other) end
    end
    redis.call('ZADD', ckpt_key, text(step), name)
  end
elseif kind == 'r' then
  if counts == '0' then -- nothing was accepted yet: the attempt just starts elsewhere
    redis.call('HSET', attempts_key, attempt .. '.start', text(step))
  else
    -- A writer without a write of its own stays in its segment: what an earlier rewind hid there stays hidden.
    local field = attempt .. '.segment.' .. text(segment) .. '.' .. writer
    local before = tonumber(redis.call('HGET', attempts_key, field))
    redis.call('HSET', attempts_key, field, text(math.min(step, before or step)))
    if is_main then count_from(step) end
  end
elseif kind == 'l' then
  event(KEYS[10], now, project, id, 'points_lost', fence, attempt,
    {entries = text(step), points = text(points), writer = writer})
elseif kind == 'e' and not redis.call('HGET', attempts_key, attempt .. '.released') then
  redis.call('HSET', attempts_key, attempt .. '.end', payload, attempt .. '.released', '1')
  if is_last then
    if run[10] ~= '' then redis.call('HSET', run_key, 'end', payload) end -- else the sync still holds it
    if payload == 'finished' then forget_keys(run_key, KEYS[11], id) end
  end
  event(KEYS[10], now, project, id, 'outcome', fence, attempt, {outcome = payload})
end
redis.call('HSET', run_key, 'next', text(next_step))
set_writer_state(seq_key, writer, fence, session, text(seq), text(next_segment), wrote, late)
if full then return {'FULL', text(now), text(seq), full} end
return {'APPENDED', text(now), text(seq)}
