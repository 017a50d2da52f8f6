#!lua flags=allow-oom
-- Names a project's runs, most recently updated first.
-- KEYS  1 meta  2 runs
-- ARGV  1 from this update time downwards (us, '(us' for below it, or '+inf')  2 behind this ID of it ('': all of it)
--       3 at most so many
-- Returns {'RUNS', now, [ID, update time, ...]} or {'UNBOOTSTRAPPED'}.
local from, behind, at_most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
if behind == '' then
  return {'RUNS', text(now), redis.call('ZREVRANGEBYSCORE', KEYS[2], from, '-inf', 'WITHSCORES', 'LIMIT', 0, at_most)}
end
local found, offset = {}, 0
while #found < 2 * at_most do
  local rows = redis.call('ZREVRANGEBYSCORE', KEYS[2], from, '-inf', 'WITHSCORES', 'LIMIT', offset, at_most)
  for i = 1, #rows, 2 do
    if #found < 2 * at_most and (tonumber(rows[i + 1]) < tonumber(from) or sorts_below(rows[i], behind)) then
      found[#found + 1], found[#found + 2] = rows[i], rows[i + 1]
    end
  end
  if #rows < 2 * at_most then break end
  offset = offset + at_most
end
return {'RUNS', text(now), found}
