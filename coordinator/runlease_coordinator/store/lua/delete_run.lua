#!lua flags=allow-oom
-- Marks a run deleted; its fence, its typed ID and its data stay until it is purged. Idempotent.
-- A repetition writes what is there already: no change, but a write that a WAIT behind it covers, too.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events  7 auto
-- ARGV  1 project  2 canonical ID  3 fence that the caller saw  4 reason
-- Returns {verdict, now, ...}:  DELETED     HELD STALE  record [field, value, ...]     ABSENT UNBOOTSTRAPPED
--   UNCONFIRMED  epoch, quarantine left (us): its holder may yet confirm it
local project, id, fence, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local run_key = KEYS[2]
local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'end', 'expiry', 'attempt', 'sync', 'epoch')
if not run[1] then return {'ABSENT', text(now)} end
if run[1] ~= fence then return {'STALE', text(now), redis.call('HGETALL', run_key)} end
if run[2] then
  redis.call('HSET', run_key, 'deleted', run[2])
  return {'DELETED', text(now)}
end
local confirmed = is_confirmed(run[7], epoch)
if quarantine > 0 and not confirmed then return unconfirmed(now, epoch, quarantine) end
if confirmed and run[3] == '' and now < tonumber(run[4]) then return {'HELD', text(now), redis.call('HGETALL', run_key)} end
local ending = run[3]
if ending == '' then
  ending = end_expired(KEYS[3], run_key, KEYS[6], project, id, fence, run[5], run[6], run[4], now)
end
redis.call('HSET', run_key, 'end', ending, 'deleted', text(now), 'updated', text(now),
  'expiry', '0', 'avail', '0') -- its holder does not get it back, not even if it is undeleted
redis.call('ZREM', KEYS[4], project .. '/' .. id)
redis.call('ZREM', KEYS[5], id)
forget_keys(run_key, KEYS[7], id)
event(KEYS[6], now, project, id, 'deleted', fence, run[5], {reason = reason})
wake(project .. '/' .. id, '*')
return {'DELETED', text(now)}
