#!lua flags=allow-oom
-- Names those of a project's runs that are held, most recently updated first: as list_runs, over few instead of all.
-- KEYS  1 meta  2 runs  3 live
-- ARGV  1..3 as of list_runs  4 project
-- Returns {'RUNS', now, [ID, update time, ...]} or {'UNBOOTSTRAPPED'}.
local from, behind, at_most, project = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local below = string.match(from, '^%((.+)')
local limit = from == '+inf' and math.huge or tonumber(below or from)
local rows, prefix = {}, project .. '/'
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. text(now), '+inf')) do
  if string.sub(member, 1, #prefix) == prefix then
    local id = string.sub(member, #prefix + 1)
    local updated = redis.call('ZSCORE', KEYS[2], id)
    local at = tonumber(updated or 0)
    if updated and (at < limit or (at == limit and not below and (behind == '' or sorts_below(id, behind)))) then
      rows[#rows + 1] = {id, updated, at}
    end
  end
end
table.sort(rows, function(a, b)
  if a[3] ~= b[3] then return a[3] > b[3] end
  return sorts_below(b[1], a[1])
end)
local found = {}
for i = 1, math.min(#rows, at_most) do
  found[2 * i - 1], found[2 * i] = rows[i][1], rows[i][2]
end
return {'RUNS', text(now), found}
