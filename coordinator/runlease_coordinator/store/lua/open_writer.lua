#!lua flags=allow-oom
-- Hands a writer to a session: the last new one to open it may append.
-- KEYS  1 meta  2 run  3 seq  4 attempts
-- ARGV  1 fence  2 writer  3 session  4 ended attempt that the entries are of, under a sync's fence ('0': its own)
--       5 that attempt's fence ('0': not known)
-- Returns {verdict, now, ...}:
--   OPENED  seq, segment, wrote (0|1), fence of the attempt     STALE  record [field, value, ...]
--   NO_SYNC (the fence is not that of a sync)   IS_SYNC (name an attempt)   NO_ATTEMPT     ABSENT DELETED UNBOOTSTRAPPED
--   SESSION (another one has replaced it)     NOREPLICAS
--   UNCONFIRMED  epoch, quarantine left (us): the holder has to renew first
local fence, writer, session, late = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local seq_key, attempts_key = KEYS[3], KEYS[4]
local now, quarantine, refusal, epoch = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'deleted', 'sync', 'epoch', 'attempt', 'alias')
if is_newer(fence, run[1], run[4], epoch, quarantine) then return unconfirmed(now, epoch, quarantine) end
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
local own = own_fence(run[1], run[6])
local attempt = redis.call('HGET', attempts_key, 'fence.' .. own)
local is_sync = run[3] == fence
if not is_same_lease(attempts_key, fence, run[1], own, run[5]) or not (attempt or is_sync) then -- or it is of no attempt
  return {'STALE', text(now), redis.call('HGETALL', KEYS[2])}
end
if not is_confirmed(run[4], epoch) then return unconfirmed(now, epoch, quarantine) end
fence = own
local attempt_fence = own
if late ~= '0' then
  if not is_sync then return {'NO_SYNC', text(now)} end
  attempt, attempt_fence = late, redis.call('HGET', attempts_key, late .. '.fence')
  -- Another one has its number where the store has lost it.
  if not attempt_fence or (ARGV[5] ~= '0' and ARGV[5] ~= attempt_fence) then return {'NO_ATTEMPT', text(now)} end
elseif is_sync then
  return {'IS_SYNC', text(now)}
end
if was_replaced(seq_key, writer, fence, session) then return {'SESSION', text(now)} end

local seq, segment, wrote = '0', '0', '0'
local last_fence, _, last_seq, last_segment, last_wrote, last_late = writer_state(seq_key, writer)
local last = last_fence and (last_late ~= '' and last_late or redis.call('HGET', attempts_key, 'fence.' .. last_fence))
if last == attempt then
  seq, segment, wrote = last_seq, last_segment, last_wrote
else
  if last then -- nil: its grant was taken back
    redis.call('HSET', seq_key, writer .. '@' .. last, table.concat({last_seq, last_segment, last_wrote}, ' '))
  end
  local kept = is_sync and redis.call('HGET', seq_key, writer .. '@' .. attempt)
  if kept then seq, segment, wrote = string.match(kept, '^(%S+) (%S+) (%S+)$') end
end
set_writer_state(seq_key, writer, fence, session, seq, segment, wrote, is_sync and attempt or '')
return {'OPENED', text(now), seq, segment, wrote, attempt_fence}
