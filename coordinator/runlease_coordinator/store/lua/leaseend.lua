-- The end of a lease. That of an attempt closes the attempt with an outcome. That of a sync leaves the run as its last
-- attempt ended, which the attempts hash knows: a sync opens none, so nothing of it stays but its used-up fence.
-- The record's field `sync` is the fence of the last sync's lease.

-- The holder ended its attempt, or its lease did.
local function close_attempt(attempts_key, run_key, attempt, outcome, ended_us)
  local run = redis.call('HMGET', run_key, 'granted', 'a_points', 'a_last')
  redis.call('HSET', attempts_key, attempt .. '.end', outcome, attempt .. '.ended', text(ended_us),
    attempt .. '.points', run[2], attempt .. '.last', run[3])
  redis.call('HINCRBY', run_key, 'runtime', text(math.max(0, ended_us - tonumber(run[1]))))
end

-- Ends the lease of the record's present fence in the attempts hash; the caller writes the record.
-- fence, attempt, ending, sync: as the record has them (ending: '' unless a sweep was here before); kind: of the event;
-- note, value: what the attempt remembers of it besides (attempt only; or nil).
-- Returns the record's end, and the event's kind.
local function end_lease(attempts_key, run_key, fence, attempt, ending, sync, outcome, ended_us, kind, note, value)
  if sync == fence then
    local last = redis.call('HMGET', attempts_key, attempt .. '.end', attempt .. '.holder', attempt .. '.granted')
    if kind ~= 'expired' then -- which still may be taken back: until then the record names who synced
      redis.call('HSET', run_key, 'holder', last[2], 'granted', last[3])
    end
    return last[1], 'sync_ended'
  end
  if ending == '' then
    close_attempt(attempts_key, run_key, attempt, outcome, ended_us)
  else
    redis.call('HSET', attempts_key, attempt .. '.end', outcome)
  end
  if note then redis.call('HSET', attempts_key, attempt .. '.' .. note, value) end
  return outcome, kind
end

-- Ends the lease of a record that says it lives, though it has expired and was not swept yet, or was lost; the caller
-- writes the record. Returns the record's end.
local function end_expired(attempts_key, run_key, events_key, project, id, fence, attempt, sync, expiry, now)
  local ended = math.min(now, tonumber(expiry))
  local ending, kind = end_lease(attempts_key, run_key, fence, attempt, '', sync, 'crashed', ended, 'expired')
  event(events_key, ended, project, id, kind, fence, attempt)
  return ending
end
