#!lua flags=allow-oom
-- Decides the resume and grants the lease, in one step.
-- KEYS  1 meta  2 run  3 attempts  4 ckpt  5 ckptdoc  6 live  7 runs  8 projects  9 events
-- ARGV  1 project  2 ID as typed  3 canonical ID  4 mode  5 nonce  6 ttl (us)  7 lock-delay (us)  8 holder (JSON)
--       9 name for a new run  10 '=name' or ''  11 '=notes' or ''  12 '=tags' (JSON) or ''  13 resume_step or ''
--       14 latest store time at which the request may be decided (us)  15... config: key, JSON, key, JSON, ...
-- Returns {verdict, now, ...}:
--   GRANTED  fence, attempt, remaining (us), resumed (0|1), previous end, next_step, starting_step,
--            checkpoint document ('' if none), config changes [key, before, after, ...], record [field, value, ...]
--   EXISTS HELD LOCK_DELAY  record [field, value, ...]        COLLISION  ID as first typed
--   DELETED NOT_FOUND NONCE_ENDED TOO_OLD UNBOOTSTRAPPED      QUARANTINE  left (us)
local project, typed, id, mode, nonce = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, lock_delay, holder = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local new_name, name, notes, tags = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local resume_step, latest = tonumber(ARGV[13]), tonumber(ARGV[14])
local meta_key, run_key, attempts_key, ckpt_key, doc_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local live_key, runs_key, projects_key, events_key = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local member = project .. '/' .. id

local now, quarantine, refusal = gate(meta_key)
if refusal then return refusal end
if now > latest then return {'TOO_OLD', text(now)} end

local old = redis.call('HMGET', run_key, 'id', 'deleted', 'end', 'expiry', 'avail', 'fence', 'attempt', 'nonce',
  'next', 'granted')
local exists = old[1] ~= false
if exists and typed ~= old[1] and typed ~= id then
  return {'COLLISION', text(now), old[1]}
end

-- A retry of a call whose answer was lost: the same grant, not extended, for as long as it lives.
local function grant_of(fence, attempt, remaining, resumed, previous, next_step, start, changes)
  local found = redis.call('ZREVRANGEBYSCORE', ckpt_key, '(' .. text(start), '-inf', 'LIMIT', 0, 1)
  local doc = found[1] and redis.call('HGET', doc_key, found[1]) or ''
  return {'GRANTED', text(now), fence, attempt, text(remaining), resumed, previous, next_step, text(start), doc,
    changes, redis.call('HGETALL', run_key)}
end
local earlier = redis.call('HGET', attempts_key, 'nonce.' .. nonce)
if earlier then
  if nonce == old[8] and old[3] == '' and now < tonumber(old[4]) and not old[2] then
    local given = redis.call('HMGET', attempts_key, earlier .. '.previous', earlier .. '.next', earlier .. '.start')
    return grant_of(old[6], earlier, tonumber(old[4]) - now, given[1] == '' and 0 or 1, given[1], given[2],
      tonumber(given[3]), {})
  end
  return {'NONCE_ENDED', text(now)}
end
if quarantine > 0 and not old[2] then return {'QUARANTINE', text(now), text(quarantine)} end

local verdict = decide(exists and {deleted = old[2], ['end'] = old[3], expiry = tonumber(old[4]),
  avail = tonumber(old[5])} or nil, mode, now)
if verdict == 'EXISTS' or verdict == 'HELD' or verdict == 'LOCK_DELAY' then
  return {verdict, text(now), redis.call('HGETALL', run_key)}
end
if verdict ~= 'CREATE' and verdict ~= 'RESUME' then return {verdict, text(now)} end

local previous, next_step, attempt, last_fence = '', '0', 1, 0
if exists then
  previous, next_step, attempt, last_fence = old[3], old[9], tonumber(old[7]) + 1, tonumber(old[6])
  if previous == '' then -- expired and not swept yet
    previous = 'crashed'
    close_attempt(attempts_key, run_key, old[7], previous, tonumber(old[4]))
    event(events_key, tonumber(old[4]), project, id, 'expired', old[6], old[7])
  end
else
  redis.call('HSET', run_key, 'id', typed, 'name', new_name, 'created', text(now), 'points', '0', 'last', '-1',
    'last_log', '0', 'next', '0', 'runtime', '0', 'notes', '', 'tags', '[]')
  redis.call('ZADD', projects_key, text(now), project)
end

local fence = text(math.max(last_fence + 1, now))
local top = redis.call('ZREVRANGE', ckpt_key, 0, 0, 'WITHSCORES')
local start = starting_step(resume_step, tonumber(top[2]), tonumber(next_step))
attempt = text(attempt)

local changes = {}
for i = 15, #ARGV, 2 do
  local key, after = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', run_key, 'config.' .. key)
  if before ~= after then
    redis.call('HSET', run_key, 'config.' .. key, after)
    if exists then
      redis.call('HSET', attempts_key, attempt .. '.config.' .. key, (before or '') .. '\n' .. after)
      changes[#changes + 1] = key
      changes[#changes + 1] = before or ''
      changes[#changes + 1] = after
    end
  end
end
if name ~= '' then redis.call('HSET', run_key, 'name', string.sub(name, 2)) end
if notes ~= '' then redis.call('HSET', run_key, 'notes', string.sub(notes, 2)) end
if tags ~= '' then redis.call('HSET', run_key, 'tags', string.sub(tags, 2)) end

redis.call('HSET', run_key, 'fence', fence, 'attempt', attempt, 'nonce', nonce, 'holder', holder, 'ttl', text(ttl),
  'granted', text(now), 'updated', text(now), 'expiry', text(now + ttl), 'avail', text(now + ttl + lock_delay),
  'end', '', 'wrote', '0', 'a_points', '0', 'a_last', '-1')
redis.call('HSET', attempts_key, attempt .. '.fence', fence, attempt .. '.holder', holder,
  attempt .. '.granted', text(now), attempt .. '.start', text(start), attempt .. '.previous', previous,
  attempt .. '.next', next_step, 'fence.' .. fence, attempt, 'nonce.' .. nonce, attempt)
redis.call('ZADD', live_key, text(now + ttl), member)
redis.call('ZADD', runs_key, text(now), id)
event(events_key, now, project, id, exists and 'granted' or 'created', fence, attempt)
return grant_of(fence, attempt, ttl, exists and 1 or 0, previous, next_step, start, changes)
