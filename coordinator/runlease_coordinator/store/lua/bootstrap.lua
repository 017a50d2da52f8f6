#!lua flags=allow-oom
-- Opens a partition, or changes what it was opened for. A repetition writes, too, so that a WAIT behind it covers it.
-- KEYS  1 meta
-- ARGV  1 max ttl (us; '': as it is)  2 replicas that a control write must reach ('': as it is)
--       3 max ttl of a new one (us), where nothing is given  4 schema version
--       5 how: 'new'; 'lost': a new one in place of one that had data; 'embedded': taken over, nothing is ever lost
-- Returns {'OPENED' | 'CHANGED' | 'PRESENT', now}.
local now, how = now_us(), ARGV[5]
local meta = redis.call('HMGET', KEYS[1], 'incarnation', 'epoch', 'max_ttl_us', 'replicas', 'quarantine_us',
  'quarantine_until_us')
local incarnation, epoch, until_us = meta[1], tonumber(meta[2] or meta[1] and 0 or now), tonumber(meta[6] or 0)
local was_max_ttl, was_replicas = meta[3] or ARGV[3], meta[4] or '0'
local max_ttl = ARGV[1] ~= '' and ARGV[1] or was_max_ttl
local replicas = ARGV[2] ~= '' and ARGV[2] or was_replicas
local quarantine_us = how == 'embedded' and 0 or quarantine_after(max_ttl, meta[5])
local verdict = 'PRESENT'
if not incarnation or how == 'embedded' then
  verdict, incarnation = 'OPENED', incarnation_of(tonumber(replicas))
  if how == 'lost' then until_us = now + quarantine_us end -- else it stays: an embedded one may be in its clock's
elseif replicas ~= was_replicas then
  -- What reached fewer replicas until now may be lost as with a failover.
  verdict, incarnation = 'CHANGED', incarnation_of(tonumber(replicas))
  epoch, until_us = math.max(epoch + 1, now), now + quarantine_us
elseif max_ttl ~= was_max_ttl then
  verdict = 'CHANGED'
end
redis.call('HSET', KEYS[1], 'incarnation', incarnation, 'epoch', text(epoch), 'max_ttl_us', max_ttl,
  'replicas', replicas, 'quarantine_us', text(quarantine_us), 'quarantine_until_us', text(until_us), 'schema', ARGV[4])
return {verdict, text(now)}
