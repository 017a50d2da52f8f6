-- Shared first lines of every script: store time, and the gate that each operation passes before it decides.
-- Numbers: times in microseconds since the UNIX epoch, below 2^53, so a Lua double holds them exactly; they are
-- written with %.0f because Lua's own conversion rounds to 14 digits.

local function text(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Compares the store's replication ID with the one that opened the partition (DESIGN: incarnation). A change means
-- restart, failover or restore: no grants until every lease that may have been lost has expired.
-- Returns now, microseconds of quarantine left (0: none), refusal (nil: go on).
local function gate(meta_key)
  local now = now_us()
  local meta = redis.call('HMGET', meta_key, 'incarnation', 'quarantine_until_us', 'quarantine_us')
  if not meta[1] then
    return now, 0, {'UNBOOTSTRAPPED'}
  end
  local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local until_us = tonumber(meta[2])
  if meta[1] ~= replid then
    until_us = now + tonumber(meta[3])
    redis.call('HSET', meta_key, 'incarnation', replid, 'quarantine_until_us', text(until_us))
  end
  return now, math.max(0, until_us - now), nil
end

-- One entry of the partition's audit log, trimmed to about 10 000, oldest first; those who watch are told.
-- details: texts by name, or nil.
local function event(events_key, now, project, id, kind, fence, attempt, details)
  redis.call('XADD', events_key, 'MAXLEN', '~', '10000', '*', 't', text(now), 'p', project, 'r', id,
    'k', kind, 'f', fence, 'a', attempt, 'd', details and cjson.encode(details) or '{}')
  redis.call('PUBLISH', 'rl:event', events_key)
end
