#!lua flags=allow-oom
-- Turns an expired run into a crashed one, or ends its sync. Judges expiry again: a renewal may have come between.
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events
-- ARGV  1 project  2 canonical ID
-- Returns {'EXPIRED' | 'ALIVE', now} or {'UNBOOTSTRAPPED'}.
local project, id = ARGV[1], ARGV[2]
local meta_key, run_key, attempts_key = KEYS[1], KEYS[2], KEYS[3]
local live_key, runs_key, events_key = KEYS[4], KEYS[5], KEYS[6]

local now, quarantine, refusal = gate(meta_key)
if refusal then return refusal end
if quarantine > 0 then return {'ALIVE', text(now)} end
local run = redis.call('HMGET', run_key, 'fence', 'end', 'expiry', 'attempt', 'deleted', 'sync')
local expiry = tonumber(run[3] or 0)
if run[2] == '' and now < expiry then
  redis.call('ZADD', live_key, text(expiry), project .. '/' .. id)
  return {'ALIVE', text(now)}
end
redis.call('ZREM', live_key, project .. '/' .. id)
if run[2] ~= '' then return {'ALIVE', text(now)} end
local ending, kind = end_lease(attempts_key, run_key, run[1], run[4], '', run[6], 'crashed', expiry, 'expired')
redis.call('HSET', run_key, 'end', ending, 'updated', text(now))
if not run[5] then redis.call('ZADD', runs_key, text(now), id) end
event(events_key, now, project, id, kind, run[1], run[4])
return {'EXPIRED', text(now)}
