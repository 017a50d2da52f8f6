#!lua flags=allow-oom
-- Takes a deletion back. Idempotent.
-- A repetition writes what is there already: no change, but a write that a WAIT behind it covers, too.
-- KEYS  1 meta  2 run  3 runs  4 events
-- ARGV  1 project  2 canonical ID  3 reason
-- Returns {'UNDELETED' | 'ABSENT', now} or {'UNBOOTSTRAPPED'}.
local project, id, reason = ARGV[1], ARGV[2], ARGV[3]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'deleted', 'attempt', 'updated')
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then
  redis.call('HDEL', KEYS[2], 'deleted')
  redis.call('HSET', KEYS[2], 'updated', text(now))
  redis.call('ZADD', KEYS[3], text(now), id)
  event(KEYS[4], now, project, id, 'undeleted', run[1], run[3], {reason = reason})
else
  redis.call('HSET', KEYS[2], 'updated', run[4])
end
return {'UNDELETED', text(now)}
