#!lua flags=allow-oom
-- Marks a run deleted; its fence, its typed ID and its data stay. Idempotent.
-- KEYS  1 meta  2 run  3 runs  4 events
-- ARGV  1 project  2 canonical ID  3 fence that the caller saw  4 reason
-- Returns {verdict, now, ...}:  DELETED     HELD STALE  record [field, value, ...]     ABSENT UNBOOTSTRAPPED
local project, id, fence, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'deleted', 'end', 'expiry', 'attempt')
if not run[1] then return {'ABSENT', text(now)} end
if run[1] ~= fence then return {'STALE', text(now), redis.call('HGETALL', KEYS[2])} end
if run[2] then return {'DELETED', text(now)} end
if run[3] == '' and now < tonumber(run[4]) then return {'HELD', text(now), redis.call('HGETALL', KEYS[2])} end
redis.call('HSET', KEYS[2], 'deleted', text(now), 'updated', text(now))
redis.call('ZREM', KEYS[3], id)
event(KEYS[4], now, project, id, 'deleted', fence, run[5], 'reason', reason)
return {'DELETED', text(now)}
