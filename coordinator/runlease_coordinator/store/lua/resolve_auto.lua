#!lua flags=allow-oom
-- Finds the run that automatic keys lead to.
-- KEYS  1 meta  2 auto
-- ARGV  keys, most explicit first
-- Returns {'BOUND', now, key, ID} ('' where none is bound) or {'UNBOOTSTRAPPED'}.
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local key, id = bound_run(KEYS[2], ARGV, now)
return {'BOUND', text(now), key or '', id or ''}
