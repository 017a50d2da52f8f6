#!lua flags=allow-oom
-- Removes the points of a run that ended long ago, archived and hot; its record, attempts and checkpoints stay.
-- KEYS  1 meta  2 run  3 attempts  4 parts  5 log  6 hot  7 garbage  8 events
-- ARGV  1 project  2 canonical ID  3 it ended so long ago, or longer (us)  4 objects stay so long for readers (us)
-- Returns {verdict, now}:
--   EXPIRED   KEPT (it has not ended, or not for so long, other runs show its history, or nothing is left)
--   ABSENT UNBOOTSTRAPPED
local project, id, age_us, grace_us = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'end', 'attempt', 'children')
if not run[1] then return {'ABSENT', text(now)} end
local ended = tonumber(redis.call('HGET', KEYS[3], run[3] .. '.ended') or 0)
if run[2] == '' or ended > now - age_us or tonumber(run[4] or 0) > 0 then return {'KEPT', text(now)} end
if redis.call('EXISTS', KEYS[4]) + redis.call('XLEN', KEYS[5]) == 0 then return {'KEPT', text(now)} end
local archived = discard_parts(KEYS[4], KEYS[7], text(now + grace_us))
redis.call('XTRIM', KEYS[5], 'MAXLEN', '=', 0) -- the empty stream remembers its last ID
redis.call('ZREM', KEYS[6], project .. '/' .. id)
event(KEYS[8], now, project, id, 'points_expired', run[1], run[3], {archived = text(archived)})
return {'EXPIRED', text(now)}
