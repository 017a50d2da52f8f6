#!lua flags=allow-oom
-- Reads those of some runs that a listing wants, in the order given, until it has enough.
-- KEYS  1 meta  2 3 4, 5 6 7, ...  run, ckpt, ckptdoc of each
-- ARGV  1 wanted, JSON; what is absent does not matter: states ({state: true}), tags ([tag, ...], all of them),
--         text (in ID or name), host (of the last holder)
--       2 at most so many  3 no more once so many bytes are read
-- Returns {'RUNS', now, how many were looked at, [index from 0, record, top checkpoint's document ('' if none), ...]}
--   or {'UNBOOTSTRAPPED'}.
local wanted, at_most, bytes = cjson.decode(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local any = next(wanted) == nil

local function has_all(tags)
  local there = {}
  for _, tag in ipairs(cjson.decode(tags)) do there[tag] = true end
  for _, tag in ipairs(wanted.tags) do
    if not there[tag] then return false end
  end
  return true
end

local function matches(key)
  local run = redis.call('HMGET', key, 'id', 'name', 'end', 'expiry', 'holder', 'tags', 'deleted')
  if not run[1] then return false end
  if wanted.states then
    local state = run[7] and 'deleted' or run[3]
    if state == '' then state = now < tonumber(run[4]) and 'running' or 'crashed' end
    if not wanted.states[state] then return false end
  end
  if wanted.text and not (string.find(run[1], wanted.text, 1, true) or string.find(run[2], wanted.text, 1, true)) then
    return false
  end
  if wanted.host and cjson.decode(run[5])[1] ~= wanted.host then return false end
  return not wanted.tags or has_all(run[6])
end

local found, looked = {}, 0
for k = 2, #KEYS, 3 do
  if #found >= 3 * at_most or bytes <= 0 then break end
  if any or matches(KEYS[k]) then
    local record = redis.call('HGETALL', KEYS[k])
    if #record > 0 then
      local top = redis.call('ZREVRANGE', KEYS[k + 1], 0, 0)[1]
      found[#found + 1] = looked
      found[#found + 1] = record
      found[#found + 1] = top and redis.call('HGET', KEYS[k + 2], top) or ''
      for i = 2, #record, 2 do bytes = bytes - #record[i] end
    end
  end
  looked = looked + 1
end
return {'RUNS', text(now), looked, found}
