#!lua flags=allow-oom
-- Decides the resume and grants the lease, in one step; or takes a place in the queue.
-- KEYS  1 meta  2 run  3 attempts  4 ckpt  5 ckptdoc  6 live  7 runs  8 projects  9 events  10 wait  11 waitx
--       12 auto  13 parent's run  14 parent's attempts  15 parent's ckpt  16 parent's ckptdoc  17 parent's log
--       (13..17: those of the run itself where nothing is forked)  18 limits  19 gcra
-- ARGV  1 request, JSON; times in microseconds, absent where not given:
--         project, typed (the ID as typed), id (canonical), mode, nonce, ttl, lock_delay, holder (JSON text),
--         latest (store time at which it may be decided at the latest), new_name (for a new run), name, notes,
--         tags (JSON text), config ([key, JSON text, ...]), resume_step, rewinds (resume_from: counts at once),
--         fork_step, fork_id (the parent's canonical ID), call (of the coordinator), wait (the place's life; absent: does
--         not queue up), group, member (only joins its group's holder), holds (never joins), proof {fence, boot_id,
--         pid_namespace, pid, process_started}, auto_keys (will be bound to the run, until auto_until), auto_search (the
--         keys chose the run: auto_found did, or none was bound), sync (holds the run for what its ended attempts bring
--         in: opens no attempt), acquires (the default limit per second; absent: not counted, a look of a call that waits),
--         acquires_burst, guard (the latest store time that its coordinator believes), bounds
--         (how much there may be of what: projects, runs, attempts, waiters, record_bytes)
-- Returns {verdict, now, ...}:
--   GRANTED  fence, attempt, remaining (us, the ttl at most), resumed (0|1), previous end, next_step, starting_step,
--            checkpoint document ('' if none), config changes [key, before, after, ...], record [field, value, ...]
--            (of a sync: attempt 0, starts at the next step, no checkpoint)
--   MEMBER   as GRANTED, of the holder of the same group
--   EXISTS HELD LOCK_DELAY QUEUED NO_HOLDER  record [field, value, ...] (empty: absent), place (0: none)
--   COLLISION  ID as first typed          PARENT_ABSENT PARENT_DELETED   PARENT_STEP  parent's next step
--   NONCE_ENDED  its attempt (0: that of a sync)     QUARANTINE  left (us)
--   THROTTLED  limit's rate, us until it is worth another try
--   FULL  projects, runs, attempts, record or waiters: there are as many, it is as large, as may be
--   CLOCK (store time is beyond the guard: nothing is decided)
--   DELETED NOT_FOUND TOO_OLD REBOUND UNBOOTSTRAPPED NOREPLICAS
local request = cjson.decode(ARGV[1])
local project, id, nonce = request.project, request.id, request.nonce
-- A fork is a new run, always; a sync is of one that is there.
local mode = request.fork_step and 'never' or request.sync and 'must' or request.mode
local meta_key, run_key, attempts_key, ckpt_key, doc_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local live_key, runs_key, projects_key, events_key = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local wait_key, waitx_key, auto_key = KEYS[10], KEYS[11], KEYS[12]
local member = project .. '/' .. id

local now, quarantine, refusal, epoch = gate(meta_key)
if refusal then return refusal end
if quarantine == 0 and now > request.guard then return {'CLOCK', text(now)} end
if now > request.latest then return {'TOO_OLD', text(now)} end
local rate = request.acquires and tonumber(redis.call('HGET', KEYS[18], 'acquires') or request.acquires)
if rate and rate > 0 then
  local used = redis.call('HGET', KEYS[19], 'acquires')
  local acquires = limit('project/acquires', now, rate, request.acquires_burst, 1, used, 1)
  if acquires.wait_us > 0 then return {'THROTTLED', text(now), text(rate), text(acquires.wait_us)} end
  redis.call('HSET', KEYS[19], 'acquires', text(acquires.after))
end

local old = redis.call('HMGET', run_key, 'id', 'deleted', 'end', 'expiry', 'avail', 'fence', 'attempt', 'nonce',
  'next', 'granted', 'holder', 'sync', 'ttl', 'call', 'epoch')
local exists, confirmed = old[1] ~= false, is_confirmed(old[15], epoch)
if exists and request.typed ~= old[1] and request.typed ~= id then
  return {'COLLISION', text(now), old[1]}
end

local function answer(verdict, fence, attempt, left, changes)
  if attempt == '0' then
    local stood = redis.call('HGET', attempts_key, old[7] .. '.end')
    return {verdict, text(now), fence, attempt, text(left), 1, stood, old[9], old[9], '', changes,
      redis.call('HGETALL', run_key)}
  end
  local given = redis.call('HMGET', attempts_key, attempt .. '.previous', attempt .. '.next', attempt .. '.start')
  local found = redis.call('ZREVRANGEBYSCORE', ckpt_key, '(' .. given[3], '-inf', 'LIMIT', 0, 1)
  local doc = found[1] and redis.call('HGET', doc_key, found[1]) or ''
  return {verdict, text(now), fence, attempt, text(left), given[1] == '' and 0 or 1, given[1], given[2],
    given[3], doc, changes, redis.call('HGETALL', run_key)}
end

-- What is left of the lease that the record names. Its ttl at most: behind a step back of the store's clock the record's
-- expiry is further away than that, and who believed so would outlast the next holder's grant if the clock comes back.
local function remaining()
  return math.min(tonumber(old[4]) - now, tonumber(old[13]))
end

-- Also for a repeated nonce: the record that names it may have been rolled back, and its grant superseded.
if quarantine > 0 and not old[2] then return {'QUARANTINE', text(now), text(quarantine)} end

-- A retry of a call whose answer was lost: the same grant, not extended, for as long as it lives. It
-- writes in any case: a WAIT behind it covers the grant, too.
local earlier = redis.call('HGET', attempts_key, 'nonce.' .. nonce)
if earlier then
  if nonce == old[8] and confirmed and old[3] == '' and now < tonumber(old[4]) and not old[2] then
    -- Once renewed (call: '') it was delivered, and no call may take it back.
    redis.call('HSET', run_key, 'call', old[14] == '' and '' or request.call)
    return answer('GRANTED', old[6], earlier, remaining(), {})
  end
  return {'NONCE_ENDED', text(now), earlier}
end
if request.auto_search then -- always with keys
  local key, bound = bound_run(auto_key, request.auto_keys, now)
  if key ~= request.auto_found or (key and bound ~= id) then return {'REBOUND', text(now)} end
end

-- Behind the quarantine a record that nobody has confirmed holds nothing, whatever its expiry says.
local run = exists and {deleted = old[2], ['end'] = old[3], expiry = confirmed and tonumber(old[4]) or 0,
  avail = confirmed and tonumber(old[5]) or 0} or nil
local prover = request.proof and cjson.decode(request.holder)
if prover and run and not run.deleted and now < run.avail
  and proves_death(request.proof, old[6], cjson.decode(old[11]), prover) then
  local by = host_and_pid(prover)
  local ending, kind = end_lease(attempts_key, run_key, old[6], old[7], old[3], old[12], 'crashed',
    math.min(now, run.expiry), 'proved-dead', 'proof', by)
  redis.call('HSET', run_key, 'end', ending, 'expiry', '0', 'avail', '0', 'updated', text(now))
  redis.call('ZREM', live_key, member)
  redis.call('ZADD', runs_key, text(now), id)
  event(events_key, now, project, id, kind, old[6], old[7], {by = by})
  wake_head(wait_key, waitx_key, member, now) -- it may be somebody else's turn
  old[3], run['end'], run.expiry, run.avail = ending, ending, 0, 0
end
local held = run and run['end'] == '' and now < run.expiry and not run.deleted
if held and request.group and not request.holds and cjson.decode(old[11])[5] == request.group then
  leave_queue(wait_key, waitx_key, nonce)
  return answer('MEMBER', old[6], old[7], remaining(), {})
end
if request.auto_found and string.sub(request.auto_found, 1, 6) == 'group:' and not request.member then
  -- A group's key leads to what the group holds; of an earlier start of the same name it means nothing.
  redis.call('HDEL', auto_key, request.auto_found)
  return {'REBOUND', text(now)}
end
if request.member and not (run and run.deleted) then
  return {'NO_HOLDER', text(now), redis.call('HGETALL', run_key), 0}
end

local head = head_of(wait_key, waitx_key, now)
local verdict = decide(run, mode, now, head ~= nil and head ~= nonce)
if verdict == 'HELD' or verdict == 'LOCK_DELAY' or verdict == 'QUEUED' then
  local place = 0
  if request.wait then
    if is_full(wait_key, waitx_key, nonce, now, request.bounds.waiters) then return {'FULL', text(now), 'waiters'} end
    place = queue_up(wait_key, waitx_key, nonce, now, now + request.wait, request.call)
  end
  if verdict == 'QUEUED' and place == 0 then wake(member, head) end
  return {verdict, text(now), redis.call('HGETALL', run_key), place}
end
leave_queue(wait_key, waitx_key, nonce)
if verdict == 'EXISTS' then return {verdict, text(now), redis.call('HGETALL', run_key), 0} end
if verdict ~= 'CREATE' and verdict ~= 'RESUME' then return {verdict, text(now)} end

local config, bounds = request.config or {}, request.bounds
local full
if not exists then
  full = redis.call('ZCARD', runs_key) >= bounds.runs and 'runs'
  if redis.call('ZCARD', projects_key) >= bounds.projects and not redis.call('ZSCORE', projects_key, project) then
    full = 'projects'
  end
elseif not request.sync then
  full = tonumber(old[7]) >= bounds.attempts and 'attempts'
  if #config > 0 and record_bytes(run_key, config, 'config.') > bounds.record_bytes then full = 'record' end
end
if full then return {'FULL', text(now), full} end

-- A fork: what the parent shows up to its step is this run's history, as of now.
local parent
if request.fork_step then
  parent = redis.call('HMGET', KEYS[13], 'next', 'deleted', 'fence', 'attempt')
  if not parent[1] then return {'PARENT_ABSENT', text(now)} end
  if parent[2] then return {'PARENT_DELETED', text(now)} end
  if request.fork_step >= tonumber(parent[1]) then return {'PARENT_STEP', text(now), parent[1]} end
end
if request.rewinds and (not exists or request.resume_step > tonumber(old[9])) then
  return {'PARENT_STEP', text(now), old[9] or '0'}
end

local previous, next_step, attempt, last_fence = '', '0', 1, 0
if exists then
  next_step, attempt, last_fence = old[9], tonumber(old[7]) + 1, tonumber(old[6])
  previous = leave_attempt(run_key, attempts_key, events_key, now, request, old[6], old[7], old[3], old[12], old[4])
else
  create_run(run_key, projects_key, now, request)
end
if parent then
  next_step = text(request.fork_step + 1)
  redis.call('HSET', run_key, 'next', next_step)
  adopt(run_key, ckpt_key, doc_key, request.fork_id, request.fork_step, '', KEYS[13], KEYS[14], KEYS[15], KEYS[16],
    KEYS[17])
end

local fence = text(math.max(last_fence + 1, now))
local by = host_and_pid(cjson.decode(request.holder))
lease_to(run_key, live_key, runs_key, now, request, fence, request.call, now, epoch)
if request.sync then
  redis.call('HSET', run_key, 'sync', fence)
  redis.call('HSET', attempts_key, 'nonce.' .. nonce, '0')
  event(events_key, now, project, id, 'sync_began', fence, old[7], {holder = by})
  return answer('GRANTED', fence, '0', request.ttl, {})
end
local top = redis.call('ZREVRANGE', ckpt_key, 0, 0, 'WITHSCORES')
local start = starting_step(request.resume_step or (parent and request.fork_step + 1), tonumber(top[2]),
  tonumber(next_step))
attempt, start = text(attempt), text(start)

local changes = {}
for i = 1, #config, 2 do
  local key, after = config[i], config[i + 1]
  local before = redis.call('HGET', run_key, 'config.' .. key)
  if before ~= after then
    redis.call('HSET', run_key, 'config.' .. key, after)
    if exists then
      redis.call('HSET', attempts_key, attempt .. '.config.' .. key, (before or '') .. '\n' .. after)
      changes[#changes + 1] = key
      changes[#changes + 1] = before or ''
      changes[#changes + 1] = after
    end
  end
end
open_attempt(run_key, attempts_key, ckpt_key, auto_key, now, request, fence, now, attempt, previous, next_step, start)
event(events_key, now, project, id, exists and 'granted' or 'created', fence, attempt,
  {holder = by, continues = parent and request.fork_id, step = parent and text(request.fork_step)})
if request.group then -- its members wait for it, some of them without knowing its run
  wake(member, '*')
  if request.auto_keys then wake(project .. '/*', '*') end
end
return answer('GRANTED', fence, attempt, request.ttl, changes)
