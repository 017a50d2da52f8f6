#!lua flags=allow-oom
-- Names a project's runs, most recently updated first.
-- KEYS  1 meta  2 runs
-- ARGV  1 from this update time downwards (us, or '+inf')  2 at most so many
-- Returns {'RUNS', now, [ID, update time, ...]} or {'UNBOOTSTRAPPED'}.
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
return {'RUNS', text(now), redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])}
