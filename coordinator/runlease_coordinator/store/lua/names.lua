-- How many names of metrics a run has, counted in a HyperLogLog: 12 KiB at most, however many there are.

-- Counts the names from ARGV[first] on; tells whether there are as many as may be, and these would be more. Then they
-- are not counted.
local function are_too_many(names_key, at_most, first)
  local before = redis.call('PFCOUNT', names_key) >= at_most and redis.call('GET', names_key)
  local is_new = false
  for i = first, #ARGV, 1000 do -- Lua's stack holds 8000
    is_new = redis.call('PFADD', names_key, unpack(ARGV, i, math.min(i + 999, #ARGV))) == 1 or is_new
  end
  if not before or not is_new then return false end
  redis.call('SET', names_key, before)
  return true
end
