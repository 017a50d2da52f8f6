-- What a grant writes: as acquire.lua decides it, and as rebuild.lua hears that it was decided. request: of acquire.lua.

-- Who a holder is, for the audit log.
local function host_and_pid(holder)
  return holder[1] .. ':' .. text(holder[2])
end

local function create_run(run_key, projects_key, now, request)
  redis.call('HSET', run_key, 'id', request.typed, 'name', request.new_name, 'created', text(now), 'points', '0',
    'last', '-1', 'last_log', '0', 'next', '0', 'runtime', '0', 'notes', '', 'tags', '[]')
  redis.call('ZADD', projects_key, text(now), request.project)
end

-- Leaves the run's last attempt to what it came to; returns how it ended. fence, attempt, ending, sync, expiry: as the
-- record has them.
local function leave_attempt(run_key, attempts_key, events_key, now, request, fence, attempt, ending, sync, expiry)
  if ending == '' then
    ending = end_expired(attempts_key, run_key, events_key, request.project, request.id, fence, attempt, sync, expiry,
      now)
  end
  -- What came in after its end counts, too.
  local counted = redis.call('HMGET', run_key, 'a_points', 'a_last')
  redis.call('HSET', attempts_key, attempt .. '.points', counted[1], attempt .. '.last', counted[2])
  return ending
end

-- Writes the lease into the record. call: that may take it back; '': none may any more.
local function lease_to(run_key, live_key, runs_key, now, request, fence, call, granted, epoch)
  local expiry = now + request.ttl
  redis.call('HSET', run_key, 'fence', fence, 'nonce', request.nonce, 'call', call, 'holder', request.holder,
    'ttl', text(request.ttl), 'granted', text(granted), 'updated', text(now), 'expiry', text(expiry),
    'avail', text(expiry + request.lock_delay), 'end', '', 'epoch', epoch)
  redis.call('HDEL', run_key, 'revoked')
  redis.call('ZADD', live_key, text(expiry), request.project .. '/' .. request.id)
  redis.call('ZADD', runs_key, text(now), request.id)
end

-- Opens an attempt under the lease's fence. previous: how the one before ended ('': there is none); next_step: that of
-- the record until now; start: where it begins; all texts.
local function open_attempt(run_key, attempts_key, ckpt_key, auto_key, now, request, fence, granted, attempt, previous,
  next_step, start)
  for _, field in ipairs({'name', 'notes', 'tags'}) do
    if request[field] then redis.call('HSET', run_key, field, request[field]) end
  end
  if request.auto_keys then bind_keys(run_key, auto_key, request.id, request.auto_keys, request.auto_until, now) end
  redis.call('HSET', run_key, 'attempt', attempt, 'wrote', '0', 'a_points', '0', 'a_last', '-1')
  redis.call('HSET', attempts_key, attempt .. '.fence', fence, attempt .. '.holder', request.holder,
    attempt .. '.granted', text(granted), attempt .. '.start', start, attempt .. '.previous', previous,
    attempt .. '.next', next_step, 'fence.' .. fence, attempt, 'nonce.' .. request.nonce, attempt)
  if request.rewinds then
    redis.call('HSET', attempts_key, attempt .. '.counts', '1')
    redis.call('HSET', run_key, 'wrote', 'rewound', 'next', start)
    supersede_checkpoints(ckpt_key, tonumber(start))
  end
end
