#!lua flags=allow-oom
-- Changes what people say about a run: name, notes, tags, config, summary.
-- KEYS  1 meta  2 run  3 attempts  4 runs  5 events
-- ARGV  1 project  2 canonical ID  3 fence ('0': an operator's change)  4 '=name' or ''  5 '=notes' or ''
--       6 '=tags' (JSON) or ''  7 bytes that config and summary may take
--       8... 'config.KEY' or 'summary.KEY', JSON, ...
-- Returns {verdict, now, ...}:  UPDATED     FULL     STALE  record [field, value, ...]     ABSENT DELETED UNBOOTSTRAPPED
--   UNCONFIRMED  epoch, quarantine left (us): the fence is the record's, but a newer one may be lost
local project, id, fence = ARGV[1], ARGV[2], ARGV[3]
local run_key, attempts_key = KEYS[2], KEYS[3]
local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'attempt', 'epoch', 'alias')
if fence ~= '0' and is_newer(fence, run[1], run[4], epoch, quarantine) then return unconfirmed(now, epoch, quarantine) end
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
if fence ~= '0' then
  if not is_same_lease(attempts_key, fence, run[1], own_fence(run[1], run[5]), run[3]) then
    return {'STALE', text(now), redis.call('HGETALL', run_key)}
  end
  if not is_confirmed(run[4], epoch) then return unconfirmed(now, epoch, quarantine) end
end
local changed = {}
for i = 8, #ARGV do changed[i - 7] = ARGV[i] end
if #changed > 0 and record_bytes(run_key, changed, '') > tonumber(ARGV[7]) then return {'FULL', text(now)} end
for i, field in ipairs({'name', 'notes', 'tags'}) do
  local value = ARGV[3 + i]
  if value ~= '' then redis.call('HSET', run_key, field, string.sub(value, 2)) end
end
for i = 1, #changed, 2 do
  local field, after = changed[i], changed[i + 1]
  local before = redis.call('HGET', run_key, field)
  if before and before ~= after and string.sub(field, 1, 7) == 'config.' then
    redis.call('HSET', attempts_key, run[3] .. '.' .. field, before .. '\n' .. after)
  end
  redis.call('HSET', run_key, field, after)
end
redis.call('HSET', run_key, 'updated', text(now))
redis.call('ZADD', KEYS[4], text(now), id)
event(KEYS[5], now, project, id, 'updated', run[1], run[3])
return {'UPDATED', text(now)}
