#!lua flags=allow-oom
-- Ends an attempt with its outcome, or a sync. Idempotent: repeating a recorded release answers RELEASED with what is
-- recorded.
-- A repetition writes what is there already: no change, but a write that a WAIT behind it covers, too.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events  7 wait  8 waitx  9 auto
-- ARGV  1 project  2 canonical ID  3 fence  4 outcome
-- Returns {verdict, now, ...}:
--   RELEASED  outcome as recorded     STALE  record [field, value, ...]     ABSENT DELETED UNBOOTSTRAPPED NOREPLICAS
--   UNCONFIRMED  epoch, quarantine left (us): the holder has to renew first, or its outcome comes by a sync
local project, id, fence, outcome = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local meta_key, run_key, attempts_key = KEYS[1], KEYS[2], KEYS[3]
local live_key, runs_key, events_key = KEYS[4], KEYS[5], KEYS[6]

local now, quarantine, refusal, epoch = gate(meta_key)
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'end', 'expiry', 'attempt', 'deleted', 'sync', 'epoch', 'alias')
if is_newer(fence, run[1], run[7], epoch, quarantine) then return unconfirmed(now, epoch, quarantine) end
if not run[1] then return {'ABSENT', text(now)} end
if not is_same_lease(attempts_key, fence, run[1], own_fence(run[1], run[8]), run[4]) then
  local attempt = redis.call('HGET', attempts_key, 'fence.' .. fence)
  local recorded = attempt and redis.call('HMGET', attempts_key, attempt .. '.end', attempt .. '.released')
  if recorded and recorded[2] then
    redis.call('HSET', attempts_key, attempt .. '.released', recorded[2])
    return {'RELEASED', text(now), recorded[1]}
  end
  return {'STALE', text(now), redis.call('HGETALL', run_key)}
end
if run[5] and not redis.call('HGET', attempts_key, run[4] .. '.released') then return {'DELETED', text(now)} end
-- A swept run keeps its expiry; a released one has none.
if run[2] ~= '' and tonumber(run[3]) == 0 then
  redis.call('HSET', run_key, 'end', run[2])
  return {'RELEASED', text(now), run[2]}
end
if not is_confirmed(run[7], epoch) then return unconfirmed(now, epoch, quarantine) end
fence = run[1]
-- 'released', since a sweep, a break, a proof of death end it, too.
local ending, kind = end_lease(attempts_key, run_key, fence, run[4], run[2], run[6], outcome, now, 'released',
  'released', '1')
redis.call('HSET', run_key, 'end', ending, 'expiry', '0', 'avail', '0', 'updated', text(now))
redis.call('HDEL', run_key, 'revoked')
redis.call('ZREM', live_key, project .. '/' .. id)
redis.call('ZADD', runs_key, text(now), id)
if ending == 'finished' then forget_keys(run_key, KEYS[9], id) end
event(events_key, now, project, id, kind, fence, run[4], {outcome = ending})
wake_head(KEYS[7], KEYS[8], project .. '/' .. id, now)
return {'RELEASED', text(now), ending}
