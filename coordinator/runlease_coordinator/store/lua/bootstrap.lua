#!lua flags=allow-oom
-- Opens a partition: once on a new store, at each start on an embedded one.
-- KEYS  1 meta
-- ARGV  1 quarantine after a loss (us)  2 max ttl (us)  3 schema version  4 '1' to take over an existing partition
-- Returns {'OPENED' | 'PRESENT', now}.
if ARGV[4] ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then return {'PRESENT', text(now_us())} end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('HSET', KEYS[1], 'incarnation', replid, 'quarantine_until_us', '0', 'quarantine_us', ARGV[1],
  'max_ttl_us', ARGV[2], 'schema', ARGV[3])
return {'OPENED', text(now_us())}
