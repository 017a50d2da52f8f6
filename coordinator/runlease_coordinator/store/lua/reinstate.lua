-- A lease that comes back to its attempt. Where the store has lost data, and behind the quarantine nobody has said that
-- the record is the last word, a newer grant may be lost: then it comes back under a new fence, above all that were ever
-- granted. The record's field `alias` has '<that fence> <the attempt's own>': whatever names another fence of the attempt
-- means this one, and its log, writers and checkpoints go on under its own. It is void once the record has another fence.

-- Returns the attempt's own fence, by the record's fence and alias.
local function own_fence(record_fence, alias)
  local is_of, own = string.match(alias or '', '^(%d+) (%d+)$')
  return is_of == record_fence and own or record_fence
end

-- Whether a fence is the record's, or another one of the attempt that the record's belongs to.
-- own: its own (own_fence). What is below it may be of another attempt that had the number where the data went another
-- way, before a failover.
local function is_same_lease(attempts_key, fence, record_fence, own, attempt)
  return fence == record_fence
    or own ~= record_fence and tonumber(fence) >= tonumber(own)
      and redis.call('HGET', attempts_key, 'fence.' .. fence) == attempt
end

-- Gives the lease back to its attempt; the caller extends it, and tells of it.
-- lease: {fence, end ('' unless it was swept), attempt, granted, alias} of the record; fence: from now on
local function reinstate(run_key, attempts_key, now, lease, fence)
  if lease[2] ~= '' then -- take the record of the crash back
    local ended = tonumber(redis.call('HGET', attempts_key, lease[3] .. '.ended'))
    redis.call('HDEL', attempts_key, lease[3] .. '.end', lease[3] .. '.ended')
    redis.call('HINCRBY', run_key, 'runtime', text(tonumber(lease[4]) - ended))
  end
  if fence ~= lease[1] then
    redis.call('HSET', attempts_key, 'fence.' .. fence, lease[3])
    redis.call('HSET', run_key, 'fence', fence, 'alias', fence .. ' ' .. own_fence(lease[1], lease[5]))
  end
end

-- Lets the record's lease last for its ttl from now on, as one that its holder has, in this epoch.
local function extend(run_key, live_key, now, member, ttl, lock_delay, epoch)
  redis.call('HSET', run_key, 'end', '', 'expiry', text(now + ttl), 'avail', text(now + ttl + lock_delay), 'call', '',
    'epoch', epoch)
  redis.call('ZADD', live_key, text(now + ttl), member)
end
