#!lua flags=allow-oom
-- Gives a run's compaction to one coordinator, for a time; then records the cut that it is about to write.
-- A cut that its compactor left behind keeps its bounds: whoever comes next finishes it, in another object.
-- KEYS  1 meta  2 run  3 parts  4 garbage
-- ARGV  1 owner  2 generation that the owner has ('0': none, it asks for one)  3 for so long (us)
--       4 ID up to which the cut goes ('': none yet)  5 object ('-': the cut holds no points)
--       6 life of an object that is never committed (us)
-- Returns {verdict, now, ...}:
--   CUT   generation, ID up to which the log is archived ('0-0': nothing), ID up to which the pending cut goes ('':
--         none), segments as in the manifest ('' if none)
--   BUSY  owner, us left     LOST (a newer generation, or another cut)     ABSENT UNBOOTSTRAPPED
local owner, generation, for_us, to, object, life_us = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
if redis.call('EXISTS', KEYS[2]) == 0 then return {'ABSENT', text(now)} end
local manifest = redis.call('HMGET', KEYS[3], 'generation', 'owner', 'until', 'to', 'cut', 'segments')
local cut_to = manifest[5] and string.match(manifest[5], '^%S+') or ''
if generation == '0' then
  if now < tonumber(manifest[3] or 0) then return {'BUSY', text(now), manifest[2], text(manifest[3] - now)} end
  -- As fences do, it keeps rising if the manifest is lost or the run is made anew: no object's name comes twice.
  generation = text(math.max(tonumber(manifest[1] or 0) + 1, now))
elseif manifest[1] ~= generation or (to ~= '' and cut_to ~= '' and cut_to ~= to) then
  return {'LOST', text(now)}
end
redis.call('HSET', KEYS[3], 'generation', generation, 'owner', owner, 'until', text(now + for_us))
if to ~= '' then
  -- Garbage until it is committed: whatever becomes of its compactor, somebody removes it.
  if object ~= '-' then redis.call('ZADD', KEYS[4], text(now + life_us), object) end
  redis.call('HSET', KEYS[3], 'cut', (manifest[5] or to) .. ' ' .. object)
  cut_to = to
end
return {'CUT', text(now), generation, manifest[4] or '0-0', cut_to, manifest[6] or ''}
