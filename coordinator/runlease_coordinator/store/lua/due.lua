#!lua flags=allow-oom
-- Names the runs of a partition whose lease has expired by store time.
-- KEYS  1 meta  2 live
-- ARGV  1 at most so many
-- Returns {'DUE', now, us of quarantine left, member, member, ...} or the gate's refusal; no member in quarantine.
local now, quarantine, refusal = gate(KEYS[1])
if refusal then return refusal end
local due = {'DUE', text(now), text(quarantine)}
if quarantine > 0 then return due end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, ARGV[1])) do
  due[#due + 1] = member
end
return due
