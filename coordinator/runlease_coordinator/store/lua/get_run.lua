#!lua flags=allow-oom
-- Reads one run's record and, if asked, its attempts and checkpoints, as of one moment.
-- KEYS  1 meta  2 run  3 attempts  4 ckpt  5 ckptdoc  6 log
-- ARGV  1 '1' for attempts and checkpoints
-- Returns {verdict, now, ...}:
--   RUN  record [field, value, ...], attempts [field, value, ...], visible checkpoints [member, ...],
--        checkpoints [member, document, ...], ID of the last log entry ('' if none), top checkpoint's document ('')
--   ABSENT UNBOOTSTRAPPED
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local record = redis.call('HGETALL', KEYS[2])
if #record == 0 then return {'ABSENT', text(now)} end
local top = redis.call('ZREVRANGE', KEYS[4], 0, 0)[1]
local attempts, visible, documents, last = {}, {}, {}, ''
if ARGV[1] == '1' then
  attempts = redis.call('HGETALL', KEYS[3])
  visible = redis.call('ZRANGE', KEYS[4], 0, -1)
  documents = redis.call('HGETALL', KEYS[5])
  last = end_of_log(KEYS[6])
end
return {'RUN', text(now), record, attempts, visible, documents, last, top and redis.call('HGET', KEYS[5], top) or ''}
