#!lua flags=allow-oom
-- Hands a writer to a session: the last one to open it may append.
-- KEYS  1 meta  2 run  3 seq  4 attempts
-- ARGV  1 fence  2 writer  3 session
-- Returns {verdict, now, ...}:
--   OPENED  seq, segment, wrote (0|1)     STALE  record [field, value, ...]     ABSENT DELETED UNBOOTSTRAPPED
local fence, writer, session = ARGV[1], ARGV[2], ARGV[3]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local run = redis.call('HMGET', KEYS[2], 'fence', 'deleted')
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
if run[1] ~= fence or redis.call('HEXISTS', KEYS[4], 'fence.' .. fence) == 0 then -- or no attempt has this fence
  return {'STALE', text(now), redis.call('HGETALL', KEYS[2])}
end
local seq, segment, wrote = '0', '0', '0'
local state = redis.call('HGET', KEYS[3], writer)
if state then
  local last_fence, _, last_seq, last_segment, last_wrote = string.match(state, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  if last_fence == fence then
    seq, segment, wrote = last_seq, last_segment, last_wrote
  end
end
redis.call('HSET', KEYS[3], writer, table.concat({fence, session, seq, segment, wrote}, ' '))
return {'OPENED', text(now), seq, segment, wrote}
