#!lua flags=allow-oom
-- Removes a deleted run for good: its ID is free again. Fences go on rising, since they follow the store's time.
-- KEYS  1 meta  2 run  3 attempts  4 ckpt  5 ckptdoc  6 log  7 seq  8 wait  9 waitx  10 events  11 parent's run (or own)
--       12 limits  13 parts  14 hot  15 garbage  16 names
-- ARGV  1 project  2 canonical ID  3 fence that the caller saw  4 reason
-- Returns {verdict, now, ...}:
--   PURGED   REFERENCED  how many runs show its history   STALE  record [field, value, ...]   ALIVE (delete it first)
--   ABSENT UNBOOTSTRAPPED
local project, id, fence, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'deleted', 'attempt', 'children', 'parent')
if not run[1] then return {'ABSENT', text(now)} end
if run[1] ~= fence then return {'STALE', text(now), redis.call('HGETALL', KEYS[2])} end
if not run[2] then return {'ALIVE', text(now)} end
if tonumber(run[4] or 0) > 0 then return {'REFERENCED', text(now), run[4]} end
if run[5] and redis.call('EXISTS', KEYS[11]) == 1 then redis.call('HINCRBY', KEYS[11], 'children', -1) end
discard_parts(KEYS[13], KEYS[15], text(now))
redis.call('ZREM', KEYS[14], project .. '/' .. id)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[16])
redis.call('HDEL', KEYS[12], 'run_points:' .. id, 'run_bytes:' .. id, 'burst_us:' .. id)
event(KEYS[10], now, project, id, 'purged', fence, run[3], {reason = reason})
return {'PURGED', text(now)}
