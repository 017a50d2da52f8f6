#!lua flags=allow-oom
-- Adds a written part to the manifest and trims the log exactly behind it, if the compaction is still the caller's.
-- Idempotent. The run is anybody's to compact again; what others had begun for the same cut becomes garbage at once.
-- KEYS  1 meta  2 parts  3 log  4 hot  5 garbage
-- ARGV  1 generation  2 ID behind which the part begins  3 ID up to which it goes  4 object ('-': no points, none)
--       5 points  6 bytes of the object  7 lowest  8 highest step  9 bytes that leave the log  10 member of hot
--       11 object with the segments  12 its digest
-- Returns {'COMMITTED' | 'REFUSED', now} or {'UNBOOTSTRAPPED'}.
local generation, after, to, object, points, bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local lowest, highest, freed, member = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local segments, digest = ARGV[11], ARGV[12]
local parts_key, log_key, hot_key, garbage_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local manifest = redis.call('HMGET', parts_key, 'generation', 'to', 'cut', 'last')
if manifest[1] ~= generation then return {'REFUSED', text(now)} end
if manifest[2] == to and manifest[4] == object then return {'COMMITTED', text(now)} end
local cut_to, begun = string.match(manifest[3] or '', '^(%S+)(.*)$')
if cut_to ~= to or (manifest[2] or '0-0') ~= after then return {'REFUSED', text(now)} end
-- Out of the garbage first: an object that was removed already must not become a part.
if object ~= '-' and redis.call('ZREM', garbage_key, object) == 0 then return {'REFUSED', text(now)} end
for other in string.gmatch(begun, '%S+') do
  if other ~= object and other ~= '-' then redis.call('ZADD', garbage_key, 'XX', text(now), other) end
end
if object ~= '-' then
  local n = redis.call('HINCRBY', parts_key, 'parts', 1)
  redis.call('HSET', parts_key, 'part.' .. text(n), table.concat({object, after, to, points, bytes, lowest, highest}, ' '))
end
redis.call('HSET', parts_key, 'to', to, 'last', object, 'segments', segments .. ' ' .. digest)
redis.call('ZREM', garbage_key, segments) -- a run of the same name was purged before
redis.call('HDEL', parts_key, 'cut', 'until')
local fence, n = string.match(to, '^(%d+)-(%d+)$')
redis.call('XTRIM', log_key, 'MINID', '=', fence .. '-' .. text(n + 1))
local left = tonumber(redis.call('ZINCRBY', hot_key, '-' .. freed, member))
if left <= 0 or redis.call('XLEN', log_key) == 0 then redis.call('ZREM', hot_key, member) end
return {'COMMITTED', text(now)}
