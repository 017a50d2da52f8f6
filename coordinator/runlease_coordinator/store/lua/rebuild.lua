#!lua flags=allow-oom
-- Brings back an attempt that the store has lost, as its holder was granted it. The holder was still HELD in this epoch,
-- so nobody was granted behind it before the data were lost, and nobody is in quarantine. Its log, commits and rewinds
-- come again from its memory; what they say of the attempt is not here.
-- KEYS  1..17 as of acquire.lua
-- ARGV  1 request of the grant, JSON (acquire.lua)  2 fence  3 the epoch in which its holder still held it by its own
--       clock  4 attempt  5 the record's next step before the grant  6 the step at which the attempt starts
-- Returns {verdict, now, ...}:
--   RENEWED  ttl (us), 1, epoch, fence     UNCONFIRMED  epoch, quarantine left (us)     UNBOOTSTRAPPED NOREPLICAS
local request, fence, claimed_in, attempt, next_step, start = cjson.decode(ARGV[1]), unpack(ARGV, 2, 6)
local project, id = request.project, request.id
local run_key, attempts_key, events_key, number = KEYS[2], KEYS[3], KEYS[9], tonumber(attempt)

local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local old = redis.call('HMGET', run_key, 'id', 'fence', 'epoch', 'end', 'expiry', 'attempt', 'sync', 'nonce', 'granted',
  'alias')
local counts = quarantine > 0 and claimed_in == epoch
if not (counts and is_newer(fence, old[2], old[3], epoch, quarantine)) then
  return unconfirmed(now, epoch, quarantine)
end

if old[6] == attempt and old[8] == request.nonce then -- only that it was reinstated under this fence is lost
  reinstate(run_key, attempts_key, now, {old[2], old[4], attempt, old[9], old[10]}, fence)
  extend(run_key, KEYS[6], now, project .. '/' .. id, request.ttl, request.lock_delay, epoch)
  redis.call('HSET', run_key, 'updated', text(now))
  redis.call('ZADD', KEYS[7], text(now), id)
  event(events_key, now, project, id, 'reinstated', fence, attempt)
  return {'RENEWED', text(now), text(request.ttl), 1, epoch, fence}
end

local previous = number == 1 and '' or 'crashed'
if not old[1] then
  create_run(run_key, KEYS[8], now, request)
  if request.fork_step and redis.call('EXISTS', KEYS[13]) == 1 then
    adopt(run_key, KEYS[4], KEYS[5], request.fork_id, request.fork_step, '', KEYS[13], KEYS[14], KEYS[15], KEYS[16],
      KEYS[17])
  end
elseif tonumber(old[6]) < number then
  previous = leave_attempt(run_key, attempts_key, events_key, now, request, old[2], old[6], old[4], old[7], old[5])
else -- a grant of this number that was taken back, as the store has forgotten
  redis.call('HDEL', attempts_key, 'fence.' .. old[2], attempt .. '.end', attempt .. '.ended', attempt .. '.counts')
end

local config = request.config or {}
for i = 1, #config, 2 do redis.call('HSET', run_key, 'config.' .. config[i], config[i + 1]) end
local granted = math.min(now, tonumber(fence))
lease_to(run_key, KEYS[6], KEYS[7], now, request, fence, '', granted, epoch)
redis.call('HDEL', run_key, 'deleted')
redis.call('HSET', run_key, 'next', next_step)
open_attempt(run_key, attempts_key, KEYS[4], KEYS[12], now, request, fence, granted, attempt, previous, next_step, start)
event(events_key, now, project, id, 'rebuilt', fence, attempt, {holder = host_and_pid(cjson.decode(request.holder))})
return {'RENEWED', text(now), text(request.ttl), 1, epoch, fence}
