#!lua flags=allow-oom
-- Names a partition's projects.
-- KEYS  1 meta  2 projects
-- Returns {'PROJECTS', now, [project, ...]} or {'UNBOOTSTRAPPED'}.
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
return {'PROJECTS', text(now), redis.call('ZRANGE', KEYS[2], 0, -1)}
