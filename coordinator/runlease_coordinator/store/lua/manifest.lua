-- A run's manifest, the hash that says what the archive has of its log:
--   to            ID up to which the log is archived (absent: nothing is)
--   part.<n>      committed part: object, ID behind which it begins, ID up to which it goes, points, bytes, lowest and
--                 highest step; ascending, without gaps but for parts without points, which have no object
--   parts         how many parts there ever were
--   last          object of the last commit ('-': it held no points)
--   generation    fence of the compaction: a number above all before it, by the store's time
--   owner, until  who compacts, and until when nobody else does (us)
--   cut           pending cut: the ID up to which it goes, then the objects that were begun for it, the last one last
--   segments      object with the segments, written beside the parts, and its digest

-- Removes a run's manifest; its objects are garbage from `from_us` on (those that were only begun already are).
-- Returns the points in its parts.
local function discard_parts(parts_key, garbage_key, from_us)
  local flat, points = redis.call('HGETALL', parts_key), 0
  for i = 1, #flat, 2 do
    if string.find(flat[i], '^part%.') then
      local object, _, _, count = string.match(flat[i + 1], '^(%S+) (%S+) (%S+) (%S+)')
      redis.call('ZADD', garbage_key, from_us, object)
      points = points + tonumber(count)
    elseif flat[i] == 'segments' then
      redis.call('ZADD', garbage_key, from_us, (string.match(flat[i + 1], '^%S+')))
    end
  end
  redis.call('DEL', parts_key)
  return points
end
