#!lua flags=allow-oom
-- An operator's hand: revokes a lease (no renewal any more; it frees at release or expiry), or, forced, ends the attempt
-- (or the sync) at once under a new fence. Idempotent for the fence that it names.
-- A repetition writes what is there already: no change, but a write that a WAIT behind it covers, too.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events  7 wait  8 waitx
-- ARGV  1 project  2 canonical ID  3 fence  4 '1' to force  5 reason  6 by whom
-- Returns {verdict, now, ...}:
--   BROKEN  fence after the break     STALE  record [field, value, ...]     FREE (nobody holds it) ABSENT DELETED
--   UNCONFIRMED  epoch, quarantine left (us): the lease may be lost, or superseded     UNBOOTSTRAPPED NOREPLICAS
local project, id, fence, force, reason, by = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5], ARGV[6]
local run_key, attempts_key = KEYS[2], KEYS[3]
local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'end', 'attempt', 'deleted', 'avail', 'broken',
  'revoked', 'sync', 'epoch')
if not run[1] then return {'ABSENT', text(now)} end
if run[4] then return {'DELETED', text(now)} end
local broken, fence_then = string.match(run[6] or '', '^(%d+) (%d+)$')
if broken == fence then -- a repetition: the break is done
  redis.call('HSET', run_key, 'broken', run[6])
  return {'BROKEN', text(now), fence_then}
end
if run[1] ~= fence then return {'STALE', text(now), redis.call('HGETALL', run_key)} end
local confirmed = is_confirmed(run[9], epoch)
if quarantine > 0 and not confirmed then return unconfirmed(now, epoch, quarantine) end
if tonumber(run[5]) <= now or not confirmed then return {'FREE', text(now)} end

local details = {reason = reason, by = by}
if not force then
  if run[7] then -- a repetition, too
    redis.call('HSET', run_key, 'revoked', run[7])
    return {'BROKEN', text(now), fence}
  end
  redis.call('HSET', run_key, 'revoked', '1', 'updated', text(now))
  redis.call('ZADD', KEYS[5], text(now), id)
  event(KEYS[6], now, project, id, 'revoked', fence, run[3], details)
  return {'BROKEN', text(now), fence}
end
local next_fence = text(math.max(tonumber(fence) + 1, now))
local ending, kind = end_lease(attempts_key, run_key, fence, run[3], run[2], run[8], 'killed', now, 'broken', 'broken',
  reason)
redis.call('HSET', run_key, 'fence', next_fence, 'end', ending, 'expiry', '0', 'avail', '0', 'updated', text(now),
  'broken', fence .. ' ' .. next_fence)
redis.call('HDEL', run_key, 'revoked')
redis.call('ZREM', KEYS[4], project .. '/' .. id)
redis.call('ZADD', KEYS[5], text(now), id)
event(KEYS[6], now, project, id, kind, next_fence, run[3], details)
wake_head(KEYS[7], KEYS[8], project .. '/' .. id, now)
return {'BROKEN', text(now), next_fence}
