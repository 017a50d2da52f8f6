#!lua
-- Appends one entry of a writer's log: points, a commit, a rewind, or nothing (an entry refused before it came here
-- uses up its seq). Order of the checks: incarnation, fence, session, seq, segment, rate limits (of points only; where a
-- commit waits behind them they are taken in and charged). Acknowledged means appended.
-- No allow-oom: metrics must not take the memory that leases need.
-- KEYS  1 meta  2 run  3 attempts  4 log  5 seq  6 ckpt  7 ckptdoc  8 limits  9 gcra
--       10 hot
-- ARGV  1 fence  2 writer  3 session  4 seq  5 segment  6 kind: p, c, r or x
--       7 payload (p: packed points; c: document, JSON)  8 number of points  9 highest step (p), step (c, r)
--       10 canonical ID  11 '1': a commit waits behind it, else '0'  12-16 default limits: run_points run_bytes
--       project_points project_bytes (per second) burst_us  17 points  18 bytes of the largest batch
--       19 member of hot
-- Returns {verdict, now, ...}:
--   APPENDED DUPLICATE  seq      GAP  last seq      SEGMENT  current segment      SESSION
--   THROTTLED  limit's name, rate, points or bytes left, us until the entry is worth another try, us until all is paid
--   STALE  record [field, value, ...]               ABSENT DELETED UNBOOTSTRAPPED
local fence, writer, session, seq, segment = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local kind, payload, points, step = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local id, is_barrier, defaults = ARGV[10], ARGV[11] == '1', {unpack(ARGV, 12, 16)}
local largest_points, largest_bytes = tonumber(ARGV[17]), tonumber(ARGV[18])
local limits_key, gcra_key = KEYS[8], KEYS[9]
local run_key, attempts_key, log_key, seq_key, ckpt_key, doc_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local is_main = writer == 'main'

local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'wrote', 'next', 'attempt', 'last', 'a_last',
  'tat.points', 'tat.bytes')
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
if run[1] ~= fence then return {'STALE', text(now), redis.call('HGETALL', run_key)} end
local last_fence, owner, last_seq, current, wrote =
  string.match(redis.call('HGET', seq_key, writer) or '', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
if last_fence ~= fence or owner ~= session then return {'SESSION', text(now)} end
last_seq, current = tonumber(last_seq), tonumber(current)
if seq <= last_seq then return {'DUPLICATE', text(now), text(last_seq)} end
if seq > last_seq + 1 then return {'GAP', text(now), text(last_seq)} end
-- A rewind stays in its segment before the writer's first write, and opens the next one after it.
local next_segment = kind == 'r' and current + tonumber(wrote) or current
if kind ~= 'x' and segment ~= next_segment then return {'SEGMENT', text(now), text(next_segment)} end

local run_limits, project_limits = {}, {}
if kind == 'p' then
  local rates, project_burst_us = limits_of(limits_key, id, defaults)
  local project = redis.call('HMGET', gcra_key, 'points', 'bytes')
  local function add(list, field, name, rate, burst_us, largest, stored, cost)
    if rate > 0 then list[field] = limit(name, now, rate, burst_us, largest, stored, cost) end
  end
  add(run_limits, 'tat.points', 'run/points', rates[1], rates[5], largest_points, run[8], points)
  add(run_limits, 'tat.bytes', 'run/bytes', rates[2], rates[5], largest_bytes, run[9], #payload)
  add(project_limits, 'points', 'project/points', rates[3], project_burst_us, largest_points, project[1], points)
  add(project_limits, 'bytes', 'project/bytes', rates[4], project_burst_us, largest_bytes, project[2], #payload)
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

local attempt, next_step = run[5], tonumber(run[4])
local function count_from(start)
  next_step = start
  supersede_checkpoints(ckpt_key, start)
end

-- First of all the entry itself: a script that stops at an error must not have changed anything else.
if kind ~= 'x' then
  redis.call('XADD', log_key, fence .. '-*', 'w', writer, 's', text(seq), 'g', text(segment), 'k', kind, 'b', payload)
  redis.call('ZINCRBY', KEYS[10], #payload, ARGV[19])
end
if kind == 'p' or kind == 'c' then
  if run[3] == '0' then
    redis.call('HSET', run_key, 'wrote', '1')
    redis.call('HSET', attempts_key, attempt .. '.counts', '1')
    local start = tonumber(redis.call('HGET', attempts_key, attempt .. '.start'))
    if spares_parent(run_key, attempt, start) then
      supersede_checkpoints(ckpt_key, start, attempts_key)
      next_step = math.max(start, redis.call('HGET', run_key, 'parent_step') + 1)
    else
      count_from(start)
    end
  elseif run[3] == 'rewound' then -- by resume_from, which counts without a write
    redis.call('HSET', run_key, 'wrote', '1')
  end
  wrote = '1'
  if is_main then next_step = math.max(next_step, step + 1) end
end
if kind == 'p' then
  for field, one in pairs(run_limits) do redis.call('HSET', run_key, field, text(one.after)) end
  for field, one in pairs(project_limits) do redis.call('HSET', gcra_key, field, text(one.after)) end
  redis.call('HINCRBY', run_key, 'points', points)
  redis.call('HINCRBY', run_key, 'a_points', points)
  local last, a_last = tonumber(run[6]), tonumber(run[7])
  if is_main then last, a_last = math.max(last, step), math.max(a_last, step) end
  redis.call('HSET', run_key, 'last', text(last), 'a_last', text(a_last), 'last_log', text(now))
elseif kind == 'c' then
  local name = text(step) .. ':' .. fence
  redis.call('HSET', doc_key, name, table.concat({attempt, text(now), writer, payload}, ' '))
  redis.call('ZADD', ckpt_key, text(step), name)
elseif kind == 'r' then
  if run[3] == '0' then -- nothing was accepted yet: the attempt just starts elsewhere
    redis.call('HSET', attempts_key, attempt .. '.start', text(step))
  else
    -- A writer without a write of its own stays in its segment: what an earlier rewind hid there stays hidden.
    local field = attempt .. '.segment.' .. text(segment) .. '.' .. writer
    local before = tonumber(redis.call('HGET', attempts_key, field))
    redis.call('HSET', attempts_key, field, text(math.min(step, before or step)))
    if is_main then count_from(step) end
  end
end
redis.call('HSET', run_key, 'next', text(next_step))
redis.call('HSET', seq_key, writer, table.concat({fence, session, text(seq), text(next_segment), wrote}, ' '))
return {'APPENDED', text(now), text(seq)}
