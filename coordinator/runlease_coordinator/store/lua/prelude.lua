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

-- What the store's data are known by, and how many replicas are online. A restart, a failover and a restore change the
-- replication ID; a primary that was cut off and named again has it still, but its replicas needed a full sync.
-- replicas: how many of them have to acknowledge a write; 0: they are not looked at.
local function incarnation_of(replicas)
  if replicas == 0 then return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'), 0 end
  local info = redis.call('INFO', 'replication', 'stats')
  local _, online = string.gsub(info, 'state=online', '')
  return string.match(info, 'master_replid:(%x+)') .. ':' .. string.match(info, 'sync_full:(%d+)'), online
end

-- How long (us) until all leases of at most so long have ended, by deadlines of the holders' clocks, which may run 1 %
-- slower or faster, and with what the store's may gain unseen. earlier: how long it was before the longest lease was
-- lowered; longer ones may still be out there.
local function quarantine_after(max_ttl_us, earlier)
  return math.max(max_ttl_us * 1.02 + 2000000, tonumber(earlier or 0))
end

-- Compares the store's incarnation with the one that opened the partition. A change means restart, failover or restore:
-- a new epoch, and no grants until every lease that may have been lost has expired. A store that loses nothing (its
-- quarantine is 0) has none. Too few replicas are refused first: the old primary may still be heard where the rest is.
-- As an error, since an answer would wait for replicas (wire.py).
-- Returns now, microseconds of quarantine left (0: none), refusal (nil: go on), epoch (text).
local function gate(meta_key)
  local now = now_us()
  local meta = redis.call('HMGET', meta_key, 'incarnation', 'quarantine_until_us', 'quarantine_us', 'epoch', 'replicas')
  if not meta[1] then return now, 0, {'UNBOOTSTRAPPED'} end
  local replicas = tonumber(meta[5] or 0)
  local incarnation, online = incarnation_of(replicas)
  if online < replicas then
    return now, 0, redis.error_reply('NOREPLICAS ' .. online .. ' online, ' .. replicas .. ' have to have each write')
  end
  local until_us, epoch = tonumber(meta[2]), meta[4] or '0'
  if meta[1] ~= incarnation then
    redis.call('HSET', meta_key, 'incarnation', incarnation)
    local quarantine_us = tonumber(meta[3])
    if quarantine_us > 0 then
      -- Where the clock is behind: not what another failover, from the same data, has made or will make of it.
      local above = tonumber(epoch) + 1 + tonumber(string.sub(incarnation, 1, 5), 16)
      until_us, epoch = now + quarantine_us, text(math.max(above, now))
      redis.call('HSET', meta_key, 'quarantine_until_us', text(until_us), 'epoch', epoch)
    end
  end
  return now, math.max(0, until_us - now), nil, epoch
end

-- Whether a record is the last word about its run: granted or renewed in this epoch, so nothing newer can be lost.
local function is_confirmed(record_epoch, epoch)
  return (record_epoch or '0') == epoch
end

-- Whether a fence may have been granted though its run's record (its fence and epoch; false: no record) does not know it:
-- data were lost. A record that was confirmed since knows of all grants, but in quarantine, in which a lease that was
-- ended by force may be confirmed before its successor's. A run without a record may also have been removed: then nothing
-- was lost since that fence.
local function is_newer(fence, record_fence, record_epoch, epoch, quarantine)
  if not record_fence then return quarantine > 0 or tonumber(epoch) > tonumber(fence) end
  return tonumber(fence) > tonumber(record_fence) and (quarantine > 0 or not is_confirmed(record_epoch, epoch))
end

-- The refusal of what only the holder's own renewal makes good again.
local function unconfirmed(now, epoch, quarantine)
  return {'UNCONFIRMED', text(now), epoch, text(quarantine)}
end

-- One entry of the partition's audit log, trimmed to about 10 000, oldest first; those who watch are told.
-- details: texts by name, or nil.
local function event(events_key, now, project, id, kind, fence, attempt, details)
  redis.call('XADD', events_key, 'MAXLEN', '~', '10000', '*', 't', text(now), 'p', project, 'r', id,
    'k', kind, 'f', fence, 'a', attempt, 'd', details and cjson.encode(details) or '{}')
  redis.call('PUBLISH', 'rl:event', events_key)
end
