#!lua flags=allow-oom
-- Extends a lease by its ttl; gives an expired one back to its holder while nobody else was granted.
-- Whoever renews has the grant: from then on no call takes it back as undelivered, however late (abandon.lua).
-- KEYS  1 meta  2 run  3 attempts  4 live  5 runs  6 events
-- ARGV  1 project  2 canonical ID  3 fence  4 lock-delay (us)  5 the epoch in which its holder still held it by its own
--       clock ('': it does not)  6 the latest store time that its coordinator believes
-- In quarantine only such a claim counts: who was HELD in this epoch cannot have been superseded before it. The claim is
-- that of this epoch or none: one that lay in a frozen coordinator may be older than a grant that was lost.
-- Behind the quarantine nobody holds what nobody has claimed: an attempt gets it back as if it were granted anew, under a
-- new fence. (A sync does not: its caller begins another one.)
-- Returns {verdict, now, ...}:
--   RENEWED  remaining (us), reinstated (0|1), epoch, fence     ENDED  recorded end
--   UNCONFIRMED  epoch, quarantine left (us): perhaps a newer grant was lost; nothing was extended
--   LOST  epoch: the claim counts, but the store has lost what was granted (rebuild.lua brings it back)
--   REVOKED  remaining (us, the ttl at most): an operator wants it back, nothing was extended
--   CLOCK (store time is beyond the guard: nothing comes back under a new fence)
--   STALE  record [field, value, ...]             ABSENT DELETED UNBOOTSTRAPPED NOREPLICAS
local project, id, fence, lock_delay = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local meta_key, run_key, attempts_key = KEYS[1], KEYS[2], KEYS[3]
local live_key, runs_key, events_key = KEYS[4], KEYS[5], KEYS[6]

local now, quarantine, refusal, epoch = gate(meta_key)
if refusal then return refusal end
local run = redis.call('HMGET', run_key, 'fence', 'end', 'expiry', 'ttl', 'deleted', 'attempt', 'granted',
  'revoked', 'sync', 'epoch', 'alias')
if is_newer(fence, run[1], run[10], epoch, quarantine) then
  if quarantine > 0 and ARGV[5] == epoch then return {'LOST', text(now), epoch} end
  return unconfirmed(now, epoch, quarantine)
end
if not run[1] then return {'ABSENT', text(now)} end
if run[5] then return {'DELETED', text(now)} end
if not is_same_lease(attempts_key, fence, run[1], own_fence(run[1], run[11]), run[6]) then
  return {'STALE', text(now), redis.call('HGETALL', run_key)}
end
local expiry, ttl, is_sync = tonumber(run[3]), tonumber(run[4]), run[9] == run[1]
if run[2] ~= '' and expiry == 0 then return {'ENDED', text(now), run[2]} end
if run[8] then return {'REVOKED', text(now), text(math.max(0, math.min(expiry - now, ttl)))} end
local is_open = quarantine == 0 and not is_confirmed(run[10], epoch)
if quarantine > 0 and ARGV[5] ~= epoch or is_open and is_sync then return unconfirmed(now, epoch, quarantine) end
if is_open and now > tonumber(ARGV[6]) then return {'CLOCK', text(now)} end

fence = is_open and text(math.max(tonumber(run[1]) + 1, now)) or run[1]
local is_back = is_open or now >= expiry
if is_back then
  if not is_sync then reinstate(run_key, attempts_key, now, {run[1], run[2], run[6], run[7], run[11]}, fence) end
  redis.call('HSET', run_key, 'updated', text(now))
  redis.call('ZADD', runs_key, text(now), id)
  event(events_key, now, project, id, is_sync and 'sync_began' or 'reinstated', fence, run[6])
end
extend(run_key, live_key, now, project .. '/' .. id, ttl, lock_delay, epoch)
return {'RENEWED', text(now), text(ttl), is_back and 1 or 0, epoch, fence}
