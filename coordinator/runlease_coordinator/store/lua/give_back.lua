#!lua flags=allow-oom
-- Takes a grant back that never reached its caller: no attempt of it stays, no lock-delay, and a run that it created
-- is gone. The fence is used up. Idempotent.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events  7 wait  8 waitx  9 auto  10 ckpt  11 ckptdoc
-- ARGV  1 project  2 canonical ID  3 fence
-- Returns {'GIVEN_BACK' | 'KEPT', now} (KEPT: it is not the run's, or was written under) or {'UNBOOTSTRAPPED'}.
local project, id, fence = ARGV[1], ARGV[2], ARGV[3]
local run_key, attempts_key, live_key, runs_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local member = project .. '/' .. id
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'end', 'wrote', 'attempt', 'nonce', 'parent')
if run[1] ~= fence or run[2] ~= '' then return {'KEPT', text(now)} end
local attempt = run[4]
local given = redis.call('HMGET', attempts_key, attempt .. '.previous', attempt .. '.counts')
local rewound = given[2] == '1' -- resume_from counts at once, which cannot be undone
if run[3] == '1' and not rewound then return {'KEPT', text(now)} end

redis.call('ZREM', live_key, member)
event(KEYS[6], now, project, id, 'given-back', fence, attempt)
if given[1] == '' and not run[6] then
  forget_keys(run_key, KEYS[9], id)
  redis.call('DEL', run_key, attempts_key, KEYS[10], KEYS[11])
  redis.call('ZREM', runs_key, id)
elseif rewound or given[1] == '' then
  close_attempt(attempts_key, run_key, attempt, 'killed', now)
  redis.call('HSET', run_key, 'end', 'killed', 'expiry', '0', 'avail', '0')
else
  local prefix = attempt .. '.'
  local flat = redis.call('HGETALL', attempts_key)
  for i = 1, #flat, 2 do
    local field, value = flat[i], flat[i + 1]
    if string.sub(field, 1, #prefix) == prefix then
      local key = string.match(string.sub(field, #prefix + 1), '^config%.(.+)$')
      if key then
        local before = string.match(value, '^(.-)\n')
        if before == '' then
          redis.call('HDEL', run_key, 'config.' .. key)
        else
          redis.call('HSET', run_key, 'config.' .. key, before)
        end
      end
      redis.call('HDEL', attempts_key, field)
    end
  end
  redis.call('HDEL', attempts_key, 'nonce.' .. run[5], 'fence.' .. fence)
  local last = text(tonumber(attempt) - 1)
  local was = redis.call('HMGET', attempts_key, last .. '.holder', last .. '.granted', last .. '.points', last .. '.last')
  redis.call('HSET', run_key, 'end', given[1], 'expiry', '0', 'avail', '0', 'attempt', last, 'nonce', '',
    'holder', was[1], 'granted', was[2], 'a_points', was[3], 'a_last', was[4], 'wrote', '1')
end
wake_head(KEYS[7], KEYS[8], member, now)
return {'GIVEN_BACK', text(now)}
