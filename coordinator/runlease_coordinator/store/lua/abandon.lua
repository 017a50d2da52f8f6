#!lua flags=allow-oom
-- The caller of an acquire is gone: its place in the queue is free, and a grant that never reached it is taken back:
-- no attempt of it stays, no lock-delay, and a run that it created is gone. The fence is used up. Idempotent.
-- A repetition of the call that came in meanwhile keeps both: the record says which call it answered last; and none once
-- the lease was renewed, for then the grant did reach its caller.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events  7 wait  8 waitx  9 auto  10 ckpt  11 ckptdoc
--       12 parent's run (the run itself where there is none, or it is not known)
-- ARGV  1 project  2 canonical ID  3 nonce ('': any)  4 call ('': any)  5 fence ('': any)
-- Returns {'TAKEN_BACK' | 'KEPT' (nothing to take back, it was written under or renewed, or was perhaps
-- superseded by what the store has lost), now} or {'UNBOOTSTRAPPED'} or {'NOREPLICAS', ...}.
local project, id, nonce, call, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local run_key, attempts_key, live_key, runs_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local wait_key, waitx_key, auto_key = KEYS[7], KEYS[8], KEYS[9]
local member = project .. '/' .. id
local now, _, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
if string.match(redis.call('HGET', waitx_key, nonce) or '', ' (%S+)$') == call then
  leave_queue(wait_key, waitx_key, nonce)
end

local function take_back()
  local run = redis.call('HMGET', run_key, 'fence', 'end', 'wrote', 'attempt', 'nonce', 'parent', 'call', 'children',
    'sync', 'epoch')
  local same = run[2] == '' and is_confirmed(run[10], epoch) and (nonce == '' or run[5] == nonce)
    and (call == '' or run[7] == call) and (fence == '' or run[1] == fence)
  if not same then return 'KEPT' end
  local attempt = run[4]
  if run[9] == run[1] then -- a sync leaves nothing to take back but its lease
    local ending, kind = end_lease(attempts_key, run_key, run[1], attempt, '', run[9], '', now, 'given-back')
    redis.call('HSET', run_key, 'end', ending, 'expiry', '0', 'avail', '0', 'nonce', '')
    redis.call('HDEL', attempts_key, 'nonce.' .. run[5])
    redis.call('ZREM', live_key, member)
    event(KEYS[6], now, project, id, kind, run[1], attempt)
    return 'TAKEN_BACK'
  end
  local given = redis.call('HMGET', attempts_key, attempt .. '.previous')
  local rewound = run[3] == 'rewound' -- resume_from counts at once, which cannot be undone
  if run[3] == '1' then return 'KEPT' end
  redis.call('ZREM', live_key, member)
  event(KEYS[6], now, project, id, 'given-back', run[1], attempt)
  local parent_key = run[6] and string.sub(run_key, 1, -#id - 1) .. run[6] or run_key
  if given[1] == '' and tonumber(run[8] or 0) == 0 and KEYS[12] == parent_key then
    if run[6] then redis.call('HINCRBY', KEYS[12], 'children', -1) end
    forget_keys(run_key, auto_key, id)
    redis.call('DEL', run_key, attempts_key, KEYS[10], KEYS[11])
    redis.call('ZREM', runs_key, id)
    return 'TAKEN_BACK'
  end
  if rewound or given[1] == '' then
    close_attempt(attempts_key, run_key, attempt, 'killed', now)
    redis.call('HSET', run_key, 'end', 'killed', 'expiry', '0', 'avail', '0')
    redis.call('HDEL', attempts_key, 'nonce.' .. run[5]) -- a repetition of the call gets an attempt of its own
    return 'TAKEN_BACK'
  end
  if given[1] == 'finished' then forget_keys(run_key, auto_key, id) end
  local prefix, flat = attempt .. '.', redis.call('HGETALL', attempts_key)
  for i = 1, #flat, 2 do
    local field, value = flat[i], flat[i + 1]
    if string.sub(field, 1, #prefix) == prefix then
      local key = string.match(string.sub(field, #prefix + 1), '^config%.(.+)$')
      local before = key and string.match(value, '^(.-)\n')
      if key and before == '' then
        redis.call('HDEL', run_key, 'config.' .. key)
      elseif key then
        redis.call('HSET', run_key, 'config.' .. key, before)
      end
      redis.call('HDEL', attempts_key, field)
    end
  end
  redis.call('HDEL', attempts_key, 'nonce.' .. run[5], 'fence.' .. run[1])
  local last = text(tonumber(attempt) - 1)
  local was = redis.call('HMGET', attempts_key, last .. '.holder', last .. '.granted', last .. '.points', last .. '.last')
  redis.call('HSET', run_key, 'end', given[1], 'expiry', '0', 'avail', '0', 'attempt', last, 'nonce', '',
    'holder', was[1], 'granted', was[2], 'a_points', was[3], 'a_last', was[4], 'wrote', '1')
  return 'TAKEN_BACK'
end

local outcome = take_back()
wake_head(wait_key, waitx_key, member, now)
return {outcome, text(now)}
